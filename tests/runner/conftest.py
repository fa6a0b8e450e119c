"""What the tests of whole runs share: a call that scores, one that runs a command, and ways to say what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli import cli
from runner.config import Job
from runner.report import Report
from runner.run import run_job
from runner.stop import Stop

MAY_DIFFER = {"run_id", "started_at", "finished_at", "seconds", "windows_per_second", "already_done", "decoding", "out"}
"""What two runs over the same data may report differently: times, ids, how much was there before and how the rest was
decoded, and the place."""


@pytest.fixture(scope="session")
def score() -> Callable[..., Report]:
    """Return what runs a job in this process: score(bundle, input, out, **options of Job)."""

    def run(bundle: Path, source: object, out: Path, *, stop: Stop | None = None, **options: Any) -> Report:
        return run_job(Job(bundle, str(source), out, **options), stop or Stop(), lambda *_: None)

    return run


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Return what reads a folder whole: relative path -> bytes, of every file but the empty lock."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture(scope="session")
def parts(contents) -> Callable[[Path], dict[str, bytes]]:
    """Return what reads the data files of an output folder: relative path -> bytes."""
    return lambda folder: {name: data for name, data in contents(folder).items() if name.endswith(".parquet")}


@pytest.fixture(scope="session")
def findings() -> Callable[[Report], dict[str, Any]]:
    """Return what leaves out of a report all that may differ between two runs over the same data."""
    return lambda report: {key: value for key, value in report.model_dump().items() if key not in MAY_DIFFER}


@pytest.fixture
def command(within) -> Callable[..., Any]:
    """Return what runs `freerun` within this process."""
    return lambda *args: within(cli, *args)
