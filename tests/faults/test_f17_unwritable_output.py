"""F17: an output that cannot be written is found before the first row, and left as it was.

The runs here are of a process that modes bind (root gives up what lets it pass them by), and that ends with a code of
its own the moment it would read the first row.
"""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import ExitCode, OutputError
from runner.lock import locked
from runner.storage import OutputFolder

FIRST_ROW = 99
GUARD = f"""
import os
from runner.pipeline import Pipeline
Pipeline.score_units = lambda *_: os._exit({FIRST_ROW})
from runner.cli import main
main()
"""
PR_CAPBSET_DROP = 24
DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 1, 2, 3


def bound_by_modes() -> None:
    """Give up what lets root pass modes by, for this process and those it starts; others have nothing to give up."""
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


Score = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def score(tiny_bundle, dataset) -> Score:
    """Return what runs `freerun score` into a folder up to its first row, behind the words of another command."""

    def run(out: Path | str, *before: str, program: str = GUARD) -> "subprocess.CompletedProcess[str]":
        command = [*before, sys.executable, "-c", program, "score", tiny_bundle, dataset, "--out", out, "--quiet"]
        prepare = None if before else bound_by_modes
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=prepare,
            timeout=60,
            check=False,
        )

    return run


def refused(done: "subprocess.CompletedProcess[str]", *told: str) -> None:
    """Check that a run ended before its first row, and said what was in its way."""
    assert done.returncode == ExitCode.OUTPUT, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert "remedy: " in done.stderr
    assert [word for word in told if word not in done.stderr] == [], done.stderr


def test_f17_the_guard_of_these_tests_sees_the_first_row(score, tmp_path):
    assert score(tmp_path / "out").returncode == FIRST_ROW


@pytest.mark.parametrize("mode", [0o555, 0o600], ids=oct)
def test_f17_a_folder_that_may_not_be_written_to(score, tmp_path, mode):
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(mode)
    refused(score(out), str(out), "Permission denied")
    out.chmod(0o755)
    assert tree(out) == {}


def test_f17_a_parent_that_may_not_be_written_to(score, tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o555)
    refused(score(parent / "out"), str(parent / "out"), "Permission denied")
    assert tree(parent) == {}


def test_f17_parents_that_are_missing_are_made(score, tmp_path):
    done = score(tmp_path / "some" / "where" / "out", program="from runner.cli import main; main()")
    assert done.returncode == ExitCode.OK, done.stderr
    assert (tmp_path / "some" / "where" / "out" / "_SUCCESS").exists()


def test_f17_a_place_on_an_object_store_is_refused_not_made_a_folder_of(score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    before = tree(tmp_path)
    done = score("s3://bucket/out")
    assert done.returncode == ExitCode.USAGE
    assert "got: s3://bucket/out" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("below", ["", "out"])
def test_f17_a_file_in_the_folders_place(score, tmp_path, below):
    file = tmp_path / "file"
    file.write_text("mine")
    refused(score(file / below), str(file))
    assert file.read_text() == "mine"


def test_f17_a_link_that_leads_nowhere_in_the_folders_place(score, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    refused(score(link), f"cannot write {link}", "got: no folder")
    assert not (tmp_path / "nowhere").exists()


def test_f17_a_partition_deep_in_the_output_that_may_not_be_written_to(score, tmp_path):
    out = tmp_path / "out"
    (out / "date=2026-11-23").mkdir(parents=True, mode=0o755)
    (out / "date=2026-11-23").chmod(0o555)
    refused(score(out), f"- {out / 'date=2026-11-23'}: Permission denied")
    assert "_SUCCESS" not in tree(out)


def test_f17_a_file_in_a_partitions_place(score, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "date=2026-11-23").write_text("mine")
    refused(score(out), f"- {out / 'date=2026-11-23'}: Not a directory")
    assert tree(out)["date=2026-11-23"] == b"mine"


@pytest.mark.parametrize("name", [".lock", "a.parquet"])
def test_f17_a_folder_in_the_place_of_the_lock_or_of_a_part(score, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    refused(score(tmp_path / "out"), "a.parquet" if name == "a.parquet" else "cannot lock")
    assert (tmp_path / "out" / name).is_dir()


def test_f17_a_lock_of_somebody_else(score, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch(mode=0o444)
    refused(score(out), f"cannot lock {out}", "Permission denied")


@pytest.mark.parametrize("lack", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_f17_a_file_system_that_cannot_lock_is_not_taken_for_a_run_that_holds_the_lock(tmp_path, monkeypatch, lack):
    def flock(*_: object) -> None:
        raise OSError(lack, os.strerror(lack))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OutputError, match=os.strerror(lack)) as refusal, locked(OutputFolder(tmp_path)):
        pytest.fail("the lock was granted")
    assert refusal.value.exit_code == ExitCode.OUTPUT


def test_f17_everything_in_the_way_is_listed_at_once(score, tmp_path):
    out, files = tmp_path / "out", ("_report.json", "_ledger.json", "_unfinished.json", "_SUCCESS")
    for name in files:
        (out / name).mkdir(parents=True)
    (out / "date=2026-11-23").write_text("mine")
    refused(score(out), *(f"- {name} is a folder" for name in files), "Not a directory")


@pytest.fixture
def mounted() -> Callable[[str], list[str]]:
    """Return what puts a mount before a command, for it alone and for as long as it runs."""

    def before(script: str) -> list[str]:
        words = ["unshare", "--mount", "sh", "-ec", script + '; exec "$@"', "sh"]
        probe = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"nothing can be mounted here: {probe.stderr.strip()}")
        return words

    return before


def test_f17_a_read_only_mount(score, tmp_path, mounted):
    out = tmp_path / "out"
    out.mkdir()
    refused(score(out, *mounted(f"mount --bind {out} {out}; mount -o remount,ro,bind {out}")), "Read-only file system")
    assert tree(out) == {}


def test_f17_a_partition_that_is_a_read_only_mount(score, tmp_path, mounted):
    inner = tmp_path / "out" / "date=2026-11-23"
    inner.mkdir(parents=True)
    script = f"mount --bind {inner} {inner}; mount -o remount,ro,bind {inner}"
    refused(score(tmp_path / "out", *mounted(script)), f"- {inner}: Read-only file system")


def test_f17_a_disk_that_is_full_already(score, tmp_path, mounted):
    out = tmp_path / "out"
    out.mkdir()
    fill = f"mount -t tmpfs -o size=64k tmpfs {out}; head -c 65536 /dev/zero >{out}/other"
    refused(score(out, *mounted(fill)), str(out), "No space left on device")
    assert os.listdir(out) == []  # noqa: PTH208  (the mount is gone with the process)
