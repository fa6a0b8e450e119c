"""The script that `make check` holds the dependencies against: what it must find, and what it must not claim."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
FILES = ("pyproject.toml", "constraints.txt", "constraints-oldest.txt")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / ".ci" / "dependencies.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(repository: Path, name: str, old: str, new: str) -> None:
    text = (repository / name).read_text()
    assert old in text
    (repository / name).write_text(text.replace(old, new))


def pinned(repository: Path, name: str, package: str) -> str:
    return next(line for line in (repository / name).read_text().splitlines() if line.startswith(f"{package}=="))


def test_the_repository_holds_every_floor(script):
    assert script.problems(ROOT, script.installed_here()) == []


def test_a_lower_bound_below_the_floor_is_found_with_got_expected_and_reason(script, repository):
    change(repository, "pyproject.toml", "onnxruntime>=1.24", "onnxruntime>=1.20")
    (line, *_) = script.problems(repository, {})
    expected = "expected 1.24 or newer: older ones read any file that a model names"
    assert line == f"pyproject.toml allows onnxruntime 1.20, {expected}"


@pytest.mark.parametrize("floor", ["filelock", "keras", "numpy", "onnx", "pandas", "pyarrow", "tf2onnx"])
@pytest.mark.parametrize("name", FILES[1:])
def test_a_pin_below_the_floor_is_found(script, repository, name, floor):
    change(repository, name, pinned(repository, name, floor), f"{floor}==0.1")
    found = script.problems(repository, {})
    assert any(line.startswith(f"{name} pins {floor} 0.1, expected ") for line in found), found


def test_a_dependency_that_is_asked_for_without_a_floor_is_found(script, repository):
    change(repository, "pyproject.toml", "filelock>=3.30", "filelock")
    assert "pyproject.toml has no lower bound for filelock" in script.problems(repository, {})


def test_what_is_installed_is_held_against_the_floors_too(script):
    (line,) = script.problems(ROOT, {"filelock": Version("3.29.7")})
    assert line.startswith("here is installed filelock 3.29.7, expected 3.30 or newer: ")


def test_oldest_versions_that_are_not_the_oldest_allowed_are_found(script, repository):
    old = pinned(repository, "constraints-oldest.txt", "click")
    change(repository, "constraints-oldest.txt", old, "click==8.2.0")
    (line,) = script.problems(repository, {})
    assert line == (
        "constraints-oldest.txt pins click 8.2.0, expected 8.1.7: nobody tests the oldest that pyproject.toml allows"
    )


@pytest.mark.parametrize("name", FILES[1:])
def test_a_pin_that_the_project_does_not_allow_or_that_is_missing_is_found(script, repository, name):
    change(repository, name, pinned(repository, name, "tf2onnx"), "tf2onnx==1.18.0")
    change(repository, name, pinned(repository, name, "rich") + "\n", "")
    found = script.problems(repository, {})
    assert f"{name} pins tf2onnx 1.18.0, expected ==1.17.*: pyproject.toml says so" in found
    assert any(line.startswith(f"{name} pins rich None, expected >=") for line in found)


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, output: str) -> None:
    """Put a pip-audit on the path that says this."""
    folder.mkdir()
    command = folder / "pip-audit"
    command.write_text(f"#!{sys.executable}\nimport sys\nprint({output!r})\nsys.exit({code})\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))  # a pip-audit beside the real one is not asked


def entry(name: str, *fixes: str) -> dict[str, object]:
    advisory = {"id": "PYSEC-2026-1", "fix_versions": list(fixes), "aliases": [], "description": ""}
    return {"name": name, "version": "1.0", "vulns": [advisory]}


def test_an_advisory_that_a_newer_version_mends_is_a_problem_and_another_is_told(script, tmp_path, monkeypatch):
    answers = [entry("mended", "1.1", "2.0"), entry("open"), {"name": "good", "version": "1.0", "vulns": []}]
    answering(tmp_path / "bin", monkeypatch, 1, json.dumps({"dependencies": answers, "fixes": []}))
    found, note = script.advisories(ROOT / "constraints.txt")
    assert found == ["constraints.txt pins mended 1.0, expected 1.1 or 2.0 or newer: PYSEC-2026-1"]
    assert note.startswith("asked for 3 of 3 packages")
    assert note.endswith("no newer version mends it yet: constraints.txt pins open 1.0: PYSEC-2026-1")


@pytest.mark.parametrize(
    ("code", "output", "told"),
    [
        (1, "", "no service can be reached"),
        (0, json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]}), "knows none of 1 packages"),
    ],
)
def test_without_an_answer_nothing_is_claimed_and_nothing_fails(script, tmp_path, monkeypatch, code, output, told):
    answering(tmp_path / "bin", monkeypatch, code, output)
    found, note = script.advisories(ROOT / "constraints.txt")
    assert found == []
    assert note.startswith("not known: ")
    assert told in note


def test_an_audit_that_takes_too_long_is_left_behind(script, tmp_path, monkeypatch):
    answering(tmp_path / "bin", monkeypatch, 0, "")
    (tmp_path / "bin" / "pip-audit").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(script, "SECONDS", 0.2)
    assert script.advisories(ROOT / "constraints.txt") == ([], "not known: pip-audit had no answer within 0.2 seconds")


def test_where_pip_audit_is_not_installed_that_is_said(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found, note = script.advisories(ROOT / "constraints.txt")
    assert found == []
    assert note.startswith("not asked: pip-audit is not installed")
