"""F19: links planted in the output are not followed, however quick whoever plants them is."""

import contextlib
import itertools
import threading
import time

import pytest

from runner.errors import OutputError
from runner.storage import OutputFolder

SECONDS = 2.0


@pytest.fixture
def victim(tmp_path):
    """Return a folder that nobody may write to or take from."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "precious.parquet").write_bytes(b"precious")
    return folder


def untouched(victim):
    return {path.name: path.read_bytes() for path in victim.iterdir()} == {"precious.parquet": b"precious"}


@pytest.mark.parametrize("name", ["_report.json", "_ledger.json", "_unfinished.json", "_SUCCESS", "a.parquet", ".lock"])
def test_f19_a_link_under_a_name_of_ours_is_replaced_or_refused(tiny, tiny_bundle, freerun, victim, tmp_path, name):
    tiny.write_dataset(tmp_path / "in", {"a.parquet": 3})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(victim / "precious.parquet")
    done = freerun("score", tiny_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet")
    assert done.code in {0, 14}, done.err
    assert "Traceback" not in done.err
    assert untouched(victim)
    assert done.code == 14 or not (tmp_path / "out" / name).is_symlink()


@pytest.mark.parametrize("name", ["date=1", "date=1/b.parquet"])
def test_f19_a_partition_that_is_a_link_is_refused(tiny, tiny_bundle, freerun, victim, tmp_path, name):
    tiny.write_dataset(tmp_path / "in", {"date=1/b.parquet": 3})
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(victim if name == "date=1" else victim / "precious.parquet")
    done = freerun("score", tiny_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet")
    assert done.code == 14
    assert "links stand in" in done.err
    assert untouched(victim)


def test_f19_an_output_folder_that_is_a_link_itself_is_the_users_own_choice(tiny, tiny_bundle, freerun, tmp_path):
    tiny.write_dataset(tmp_path / "in", {"a.parquet": 3})
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert freerun("score", tiny_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet").code == 0
    assert (tmp_path / "real" / "a.parquet").exists()


def test_f19_a_racing_swapper_never_gets_anything_written_removed_or_read_elsewhere(victim, tmp_path):
    out = OutputFolder(tmp_path / "out")
    out.prepare()
    partition, stop = tmp_path / "out" / "date=1", threading.Event()

    def swap():
        for number in itertools.count():
            if stop.is_set():
                return
            with contextlib.suppress(OSError):  # ours are quick too
                partition.rename(tmp_path / f"aside-{number}")
            with contextlib.suppress(OSError):
                partition.symlink_to(victim)
                partition.unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    written = refused = 0
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline or not (written and refused):
            try:
                out.write("date=1/precious.parquet", b"ours")
                assert out.read("date=1/precious.parquet") in {None, b"ours"}
                out.remove("date=1/precious.parquet")
                out.reclaim()
                written += 1
            except OutputError:
                refused += 1
    finally:
        stop.set()
        swapper.join()
    print(f"{written} times written, {refused} times refused")
    assert untouched(victim)
