"""Hold the dependencies against floors that no advisory names, and ask for known advisories where somebody answers.

    python .ci/dependencies.py               all of it, for `make check`
    python .ci/dependencies.py --installed   what is installed here, and nothing else

Exits 1 where a floor does not hold or a pinned version has an advisory that a newer one mends. Needs no network.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NEWEST, OLDEST = "constraints.txt", "constraints-oldest.txt"
UNTESTED = {"gpu", "lint"}
"""Extras whose oldest versions CI does not install: no GPU there; linters make no forecast."""
HERE = "here is installed"
SECONDS = 25
"""How long the advisories may take before `make check` goes on without them."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The oldest version that will do, and what is wrong with older ones."""

    package: str
    version: str
    reason: str


FLOORS = (
    Floor("duckdb", "1.4", "older ones take the names '' and '\\0' for the same, so series of both lie mixed"),
    Floor(
        "filelock",
        "3.30",
        "older ones take a lock that outlives its process where the kernel has none; some follow links",
    ),
    Floor("keras", "3.12", "from older ones tf2onnx makes a Loop of an LSTM, and export refuses the graph"),
    Floor("numpy", "2.0", "pyarrow 26 refuses to be imported beside an older one, and does not say so to pip"),
    Floor("onnx", "1.21", "older ones follow external data out of the folder"),
    Floor("onnxruntime", "1.24", "older ones read any file that a model names"),
    Floor("onnxruntime-gpu", "1.24", "older ones read any file that a model names"),
    Floor("pandas", "2.2.2", "older ones were built for numpy 1 and cannot be imported beside numpy 2"),
    Floor("pyarrow", "26", "older ones cannot write or read a null in a fixed-size list"),
    Floor("tf2onnx", "1.17", "the only one that export was made and certified with"),
)

Versions = Mapping[str, Version]


def problems(root: Path, installed: Versions) -> list[str]:
    """Return one line for each floor that does not hold, and for each pin that does not fit pyproject.toml.

    Args:
        root: the repository.
        installed: versions by canonical name.
    """
    asked = requirements(root / "pyproject.toml")
    bounds = {name: bound for name, (_, asks) in asked.items() if (bound := lower_bound(asks))}
    newest, oldest = pins(root / NEWEST), pins(root / OLDEST)
    sources = {"pyproject.toml allows": bounds, f"{NEWEST} pins": newest, f"{OLDEST} pins": oldest, HERE: installed}
    found = [line for who, versions in sources.items() for line in below(versions, who)]
    found += [
        f"pyproject.toml has no lower bound for {floor.package}" for floor in FLOORS if floor.package not in bounds
    ]
    for name, (extra, asks) in asked.items():
        if extra != "gpu":
            found += unfit(name, newest.get(name), asks, NEWEST)
        if extra not in UNTESTED:
            found += unfit(name, oldest.get(name), asks, OLDEST) or too_new(name, oldest[name], bounds.get(name))
    return found


def below(versions: Versions, who: str) -> list[str]:
    """Return a line for each of these versions that is below its floor."""
    return [
        f"{who} {floor.package} {versions[floor.package]}, expected {floor.version} or newer: {floor.reason}"
        for floor in FLOORS
        if floor.package in versions and versions[floor.package] < Version(floor.version)
    ]


def unfit(name: str, pin: Version | None, asks: Requirement, file: str) -> list[str]:
    """Say that a file pins a version that pyproject.toml does not allow, or none."""
    if pin is None or not asks.specifier.contains(pin):
        return [f"{file} pins {name} {pin}, expected {asks.specifier}: pyproject.toml says so"]
    return []


def too_new(name: str, pin: Version, bound: Version | None) -> list[str]:
    """Say that the oldest versions hold one that is newer than the oldest allowed."""
    if bound and pin.release[: len(bound.release)] != bound.release:
        return [f"{OLDEST} pins {name} {pin}, expected {bound}: nobody tests the oldest that pyproject.toml allows"]
    return []


def requirements(pyproject: Path) -> dict[str, tuple[str, Requirement]]:
    """Return what the project asks for by canonical name, with the extra that asks ("" for the project itself)."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    by_extra = {"": project["dependencies"], **project["optional-dependencies"]}
    asked = [(extra, Requirement(text)) for extra, texts in by_extra.items() for text in texts]
    return {canonicalize_name(requirement.name): (extra, requirement) for extra, requirement in asked}


def lower_bound(requirement: Requirement) -> Version | None:
    """Return the oldest version that a requirement allows; None where it allows any."""
    clauses = [clause for clause in requirement.specifier if clause.operator in {">=", "==", "~="}]
    return max((Version(clause.version.removesuffix(".*")) for clause in clauses), default=None)


def pins(path: Path) -> dict[str, Version]:
    """Return a constraints file's versions by canonical name."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def installed_here() -> dict[str, Version]:
    """Return the versions that this Python would import."""
    return {canonicalize_name(found.name): Version(found.version) for found in distributions()}


def advisories(file: Path) -> tuple[list[str], str]:
    """Ask pip-audit, where it is installed, about the pinned versions.

    Returns:
        One line for each advisory that a newer version mends; and who answered, with the advisories that none does.
    """
    near = str(Path(sys.executable).parent)
    command = shutil.which("pip-audit", path=near) or shutil.which("pip-audit")
    if command is None:
        return [], "not asked: pip-audit is not installed (`pip install pip-audit`, and this asks it)"
    flags = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(
            [command, "--requirement", file, *flags], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        answers = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [], f"not known: pip-audit had no answer within {SECONDS} seconds"
    except (OSError, ValueError, KeyError):
        return [], "not known: pip-audit ended without an answer, as it does where no service can be reached"
    known = [answer for answer in answers if "skip_reason" not in answer]
    if not known:
        return [], f"not known: the service that pip-audit asks knows none of {len(answers)} packages"
    told = list(_told(known))
    unmended = "".join(f"\n  no newer version mends it yet: {line}" for line, mended in told if not mended)
    return [line for line, mended in told if mended], f"asked for {len(known)} of {len(answers)} packages{unmended}"


def _told(answers: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield a line for each advisory, and whether a newer version mends it."""
    for answer in answers:
        for advisory in answer["vulns"]:
            mended = " or ".join(advisory["fix_versions"])
            expected = f", expected {mended} or newer" if mended else ""
            yield f"{NEWEST} pins {answer['name']} {answer['version']}{expected}: {advisory['id']}", bool(mended)


def main(*flags: str) -> int:
    """Print what was found, and what could not be looked at."""
    root, installed = Path(__file__).resolve().parent.parent, installed_here()
    if "--installed" in flags:
        found, note = below(installed, HERE), "not asked for what is installed"
    else:
        mended, note = advisories(root / NEWEST)
        found = [*problems(root, installed), *mended]
    for line in found:
        print(f"dependencies: {line}", file=sys.stderr)
    print(f"dependencies: {len(FLOORS)} floors, {len(found)} problems; known advisories: {note}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
