"""F1, F2, F4: the process dies, the power goes or the disk refuses, at every single call of the commit path."""

import os
import tempfile
from pathlib import Path
from stat import S_ISDIR

import pytest

from campaigns import commit_path
from campaigns.disks import CALLS, Power
from runner.disk import Disk
from runner.report import versions

NIGHTS = {
    "first": "in a new folder",
    "second": "where there are parts already",
    "partition": "one partition, beside what a run of the whole has left",
    "takeover": "the whole, where a run of a partition has left its own files",
}


@pytest.fixture
def room(tmp_path):
    """Return a folder in memory where there is one: a sync costs nothing there, and there are thousands."""
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="freerun-") as folder:
        yield Path(folder)


@pytest.fixture(params=NIGHTS)
def case(request, tiny, tiny_bundle, room, monkeypatch):
    """Return two small files to score, one of them in a partition, and what there is before."""
    told = versions()
    monkeypatch.setattr("runner.execution.versions", lambda: told)  # asking for them takes as long as all the rest
    tiny.write_dataset(room / "in", {"a.parquet": 20})
    first, only = None, ("date=2026-11-23",)
    if request.param in {"second", "partition"}:
        first = room / "first"
        commit_path.make_case(tiny_bundle, room / "in", None, first)
    if request.param == "takeover":
        first = room / "first"
        tiny.write_dataset(room / "in", {"date=2026-11-23/d.parquet": 7})
        commit_path.make_case(tiny_bundle, room / "in", None, first, only)
    tiny.write_dataset(room / "in", {"date=2026-11-23/d.parquet": 11})
    only = only if request.param == "partition" else ()
    return commit_path.make_case(tiny_bundle, room / "in", first, room / "whole", only)


def test_the_seam_holds_every_call_that_these_tests_can_break():
    assert {"open_root", "make_folder", "create", "write", "write_at", "sync", "close", "rename", "unlink"} <= set(
        CALLS
    )
    assert all(callable(getattr(Disk, name)) for name in CALLS)


def test_f01_a_run_that_dies_at_any_call_is_finished_by_the_same_command(case, room):
    result = commit_path.deaths(case, room)
    assert result.failures == ()
    assert result.tried > 60


@pytest.mark.parametrize("names_survive", [True, False], ids=["names survive", "nothing unsynced survives"])
def test_f02_what_a_power_loss_leaves_is_whole_and_finished_by_the_same_command(case, room, names_survive):
    result = commit_path.power_losses(case, room, names_survive=names_survive)
    assert result.failures == ()
    assert result.tried > 60


def test_f04_a_call_that_fails_is_told_leaves_nothing_and_the_same_command_finishes(case, room):
    result = commit_path.disk_errors(case, room)
    assert result.failures == ()
    assert result.tried > 60


@pytest.mark.parametrize("case", ["first"], indirect=True)
def test_f02_the_harness_sees_a_commit_that_does_not_sync(case, room, monkeypatch):
    sync = Power.sync
    monkeypatch.setattr(Power, "sync", lambda self, file: sync(self, file) if S_ISDIR(os.fstat(file).st_mode) else None)
    result = commit_path.power_losses(case, room, names_survive=True)
    assert result.torn > 0


@pytest.mark.parametrize("case", ["first"], indirect=True)
def test_f01_the_harness_sees_a_commit_without_a_temporary_name(case, room, monkeypatch):
    create = Disk.create
    monkeypatch.setattr("runner.storage.TEMPORARY", ".parquet")
    monkeypatch.setattr(Disk, "create", lambda self, name, folder: create(self, name.lstrip("."), folder))
    monkeypatch.setattr(Disk, "rename", lambda *_: None)
    result = commit_path.deaths(case, room)
    assert result.torn > 0
