"""F18: the clock is set back or forward, or summer time begins or ends: no decision rests on the clock."""

import ast
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import cycle
from pathlib import Path

import pytest

import runner.execution
from runner.config import Job
from runner.errors import ExitCode
from runner.report import Report
from runner.run import run_job
from runner.stop import Stop

WALL_CLOCK = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime", "ctime", "fromtimestamp", "strftime"}
YEAR = 365 * 86400
SHIFT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void) { const char *text = getenv("SHIFT"); return text ? atol(text) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += shift();
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
"""
"""A C library whose wall clock goes wrong by SHIFT seconds, for all of a process; its stopwatches stay right."""


def score(bundle: Path, source: Path, out: Path, **options) -> Report:
    report = run_job(Job(bundle, str(source), out, **options), Stop(), lambda *_: None)
    assert report.exit_code == ExitCode.OK, report.error
    return report


def parts(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def inputs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


@pytest.fixture
def undisturbed(tiny_bundle, dataset, tmp_path) -> dict[str, bytes]:
    score(tiny_bundle, dataset, tmp_path / "undisturbed")
    return parts(tmp_path / "undisturbed")


@pytest.fixture
def wrong_clock(monkeypatch):
    """Return what lets every look at the clock in this process see the next of these times."""

    def set_to(*times: datetime) -> None:
        faces = cycle(times)

        class Wrong(datetime):
            @classmethod
            def now(cls, tz=None):
                return next(faces).astimezone(tz)

        monkeypatch.setattr(runner.execution, "datetime", Wrong)
        monkeypatch.setattr(time, "time", lambda: next(faces).timestamp())
        monkeypatch.setattr(time, "time_ns", lambda: int(next(faces).timestamp()) * 10**9)

    return set_to


def looks_at_the_clock(path: Path) -> list[str]:
    """Return every place in a module where it could see what time it is."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    looks = [f"{node.value.id}.{node.attr}" for node in names if node.value.id in {"time", "datetime", "date"}]
    taken = [
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    ]
    return [look for look in [*looks, *taken] if look.rpartition(".")[2] in WALL_CLOCK]


def test_f18_the_runner_looks_at_the_clock_for_the_two_times_in_the_report_alone():
    root = Path(runner.execution.__file__).parent
    found = {path.name: looks for path in sorted(root.rglob("*.py")) if (looks := looks_at_the_clock(path))}
    assert found == {"execution.py": ["datetime.now", "datetime.now"]}


def test_f18_a_clock_that_is_set_back_and_forth_during_a_run_changes_no_byte(
    tiny_bundle, dataset, tmp_path, wrong_clock, undisturbed
):
    wrong_clock(datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC))
    report = score(tiny_bundle, dataset, tmp_path / "out")
    assert (report.started_at, report.finished_at) == ("2038-01-19T03:14:08+00:00", "1970-01-01T00:00:00+00:00")
    assert report.seconds.wall >= 0
    assert report.windows_per_second is None or report.windows_per_second > 0
    assert parts(tmp_path / "out") == undisturbed


def test_f18_nights_of_a_clock_that_runs_backwards_score_what_is_new_and_nothing_twice(
    tiny, tiny_bundle, dataset, tmp_path, wrong_clock
):
    out = tmp_path / "out"
    for night, year in enumerate([2040, 2026, 2010, 2040]):
        wrong_clock(datetime(year, 11, 1, tzinfo=UTC))
        tiny.write_dataset(tmp_path / "drawn", {f"night-{night}.parquet": 20})
        shutil.copy(tmp_path / "drawn" / f"night-{night}.parquet", dataset)
        report = score(tiny_bundle, dataset, out)
        assert (report.already_done, report.this_run.parts) == ((0, 4) if night == 0 else (3 + night, 1))
        assert score(tiny_bundle, dataset, out).this_run.parts == 0


@pytest.mark.parametrize("moment", [-YEAR, 0, 2**31 - 1, 2**32 + 1, 130 * YEAR], ids=lambda moment: f"mtime {moment}")
def test_f18_inputs_from_the_future_or_the_past_are_scored_once(tiny_bundle, dataset, tmp_path, undisturbed, moment):
    for path in inputs(dataset):
        os.utime(path, (moment, moment))
    assert score(tiny_bundle, dataset, tmp_path / "out").this_run.parts == 3
    assert parts(tmp_path / "out") == undisturbed
    assert score(tiny_bundle, dataset, tmp_path / "out").this_run.parts == 0


def test_f18_an_input_that_was_restored_with_an_older_time_is_scored_again(tiny, tiny_bundle, dataset, tmp_path):
    out, path = tmp_path / "out", dataset / "a.parquet"
    score(tiny_bundle, dataset, out)
    tiny.write_dataset(tmp_path / "backup", {"first.parquet": 1, "a.parquet": 130})
    shutil.copy(tmp_path / "backup" / "a.parquet", path)
    os.utime(path, (0, 0))
    assert score(tiny_bundle, dataset, out).this_run.rows.read == 130


def test_f18_an_input_that_was_only_touched_is_not_scored_again(tiny_bundle, dataset, tmp_path):
    score(tiny_bundle, dataset, tmp_path / "out")
    for path in inputs(dataset):
        os.utime(path, (2**31, 2**31))
    assert score(tiny_bundle, dataset, tmp_path / "out").this_run.parts == 0


def test_f18_parts_older_than_their_input_are_still_its_parts(tiny_bundle, dataset, tmp_path):
    out = tmp_path / "out"
    score(tiny_bundle, dataset, out)
    for path in out.rglob("*"):
        os.utime(path, (0, 0))
    for path in inputs(dataset):
        os.utime(path, (130 * YEAR, 130 * YEAR))
    assert score(tiny_bundle, dataset, out).this_run.parts == 0


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "XXX+11:30"])
def test_f18_no_time_zone_changes_a_byte_and_the_report_is_in_utc(
    tiny_bundle, dataset, tmp_path, undisturbed, monkeypatch, zone
):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        report = score(tiny_bundle, dataset, tmp_path / "out")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert parts(tmp_path / "out") == undisturbed
    started = datetime.fromisoformat(report.started_at)
    assert started.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - started) < timedelta(minutes=5)


def test_f18_the_hour_that_comes_twice_is_no_second_night(tiny_bundle, dataset, tmp_path, wrong_clock):
    out = tmp_path / "out"
    summer, winter = (timezone(timedelta(hours=hours)) for hours in (2, 1))
    done = []
    for zone in (summer, winter):  # half past two in the morning, and an hour later again
        wrong_clock(datetime(2026, 10, 25, 2, 30, tzinfo=zone))
        done.append(score(tiny_bundle, dataset, out))
    assert [report.this_run.parts for report in done] == [3, 0]
    assert [report.started_at for report in done] == ["2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00"]


def test_f18_processes_whose_clock_is_years_off_score_the_same_and_nothing_twice(
    tiny_bundle, dataset, tmp_path, freerun, undisturbed
):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a wrong clock with")
    (tmp_path / "shift.c").write_text(SHIFT)
    library = tmp_path / "shift.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "shift.c", "-ldl"], check=True, timeout=60)
    out, late = tmp_path / "out", tmp_path / "late.parquet"
    (dataset / "b.parquet").rename(late)
    for shift, new in ((20 * YEAR, 2), (-20 * YEAR, 1)):
        environment = {"LD_PRELOAD": str(library), "SHIFT": str(shift), "TZ": "America/New_York"}
        report = freerun("score", tiny_bundle, dataset, "--out", out, "--json", env=environment).json()
        assert (report["exit_code"], report["this_run"]["parts"]) == (ExitCode.OK, new)
        year = datetime.fromisoformat(report["started_at"]).year
        assert abs(year - (datetime.now(UTC) + timedelta(seconds=shift)).year) <= 1, "the clock was not wrong at all"
        if late.exists():
            late.rename(dataset / "b.parquet")
    assert parts(out) == undisturbed
