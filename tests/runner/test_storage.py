"""The output folder shows only whole files, follows no planted link, and tells the system's refusals in our words."""

import errno
import gc
import os
from pathlib import Path, PurePosixPath

import pytest

from runner.disk import Disk
from runner.errors import OutputError
from runner.storage import TEMPORARY, OutputFolder

NAME = "date=2026-11-23/a.parquet"


class Noting(Disk):
    """A disk that notes what is synced and renamed, in order; a name in `fail` makes that call fail with its errno."""

    def __init__(self):
        self.made, self.fail = [], {}

    def note(self, what):
        self.made.append(what)
        if what in self.fail:
            raise OSError(self.fail[what], os.strerror(self.fail[what]))

    def sync(self, descriptor):
        self.note("sync folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "sync file")
        super().sync(descriptor)

    def rename(self, old, new, folder):
        self.note("rename")
        super().rename(old, new, folder)


@pytest.fixture
def out(tmp_path):
    folder = OutputFolder(tmp_path / "out", Noting())
    folder.prepare()
    (folder.root / "date=2026-11-23").mkdir()
    folder.disk.made.clear()
    return folder


@pytest.fixture
def calls(out):
    return out.disk.made, out.disk.fail


def inside(out):
    """Return what stands in the folder of NAME."""
    return sorted(path.name for path in (out.root / NAME).parent.iterdir())


def test_a_file_is_seen_only_once_it_is_whole(out):
    with out.replacing(NAME) as file:
        file.write(b"half")
        file.flush()
        (unfinished,) = inside(out)
        assert unfinished.startswith(".")
        assert unfinished.endswith(TEMPORARY)
        assert not unfinished.endswith(".parquet")
        assert out.names() == []
    assert out.read(NAME) == b"half"
    assert inside(out) == ["a.parquet"]


def test_a_name_as_long_as_the_disk_takes_can_be_written(out):
    name = "x" * 247 + ".parquet"
    out.write(name, b"content")
    assert out.read(name) == b"content"


def test_two_who_write_the_same_file_at_once_do_not_write_into_one_another(out):
    with out.replacing(NAME) as first, out.replacing(NAME) as second:
        first.write(b"first, and longer")
        second.write(b"second")
    assert out.read(NAME) == b"first, and longer"
    assert inside(out) == ["a.parquet"]


def test_one_whose_unfinished_file_is_cleared_away_by_another_shows_nothing(out):
    def lose():
        with out.replacing(NAME) as file:
            file.write(b"content")
            out.reclaim()

    with pytest.raises(OutputError, match="cannot write"):
        lose()
    assert inside(out) == []


def test_what_is_still_buffered_when_writing_fails_reaches_no_other_file(out):
    def fail():
        with out.replacing(NAME) as file:
            file.write(b"never")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with (out.root / "other").open("wb") as other:
        gc.collect()
        other.write(b"mine")
    assert (out.root / "other").read_bytes() == b"mine"


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(out, calls):
    made, _ = calls
    out.write(NAME, b"content")
    assert made == ["sync file", "rename", "sync folder"]


def test_a_new_folder_is_synced_into_its_parent_before_anything_is_put_there(out, calls):
    made, _ = calls
    out.write("a/b/c.parquet", b"content")
    assert made == ["sync folder", "sync folder", "sync file", "rename", "sync folder"]


def test_a_folder_that_is_prepared_is_synced_into_every_parent_that_was_new(tmp_path):
    disk = Noting()
    OutputFolder(tmp_path / "a" / "b", disk).prepare()
    assert disk.made == ["sync folder", "sync folder"]


def test_settling_syncs_each_folder_once(out, calls):
    made, _ = calls
    out.settle([NAME, NAME, "b.parquet", "date=2026-11-23/b.parquet"])
    assert made == ["sync folder", "sync folder"]


def test_removing_is_synced_too_and_needs_nothing_to_be_there(out, calls):
    out.write(NAME, b"content")
    made, _ = calls
    made.clear()
    out.remove(NAME)
    out.remove(NAME)
    assert made == ["sync folder"]
    assert out.read(NAME) is None


def test_the_old_file_stays_until_the_new_one_is_whole(out):
    out.write(NAME, b"old")
    seen = []

    def fail_half_way():
        with out.replacing(NAME) as file:
            file.write(b"new")
            seen.append(out.read(NAME))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert seen == [b"old"]
    assert out.read(NAME) == b"old"
    assert inside(out) == ["a.parquet"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", ["sync file", "rename"])
def test_a_step_that_fails_leaves_nothing_visible_and_is_told_with_path_reason_and_remedy(out, calls, step, number):
    _, fail = calls
    fail[step] = number
    with pytest.raises(OutputError) as caught:
        out.write(NAME, b"content")
    for piece in (NAME, os.strerror(number), "remedy: "):
        assert piece in str(caught.value)
    assert inside(out) == []
    fail.clear()
    out.write(NAME, b"content")
    assert out.read(NAME) == b"content"


def test_a_folder_that_cannot_be_synced_is_told_and_no_file_is_torn(out, calls):
    _, fail = calls
    fail["sync folder"] = errno.EIO
    with pytest.raises(OutputError, match="cannot write"):
        out.write(NAME, b"content")
    assert out.read(NAME) == b"content"
    assert inside(out) == ["a.parquet"]


def test_an_error_of_ours_inside_keeps_its_own_words(out):
    with pytest.raises(OutputError, match=r"^mine$"), out.replacing(NAME):
        raise OutputError("mine")


def test_what_a_dead_run_left_is_cleared_and_nothing_else(out):
    for name in (f"date=2026-11-23/.a{TEMPORARY}", f".other{TEMPORARY}"):
        (out.root / name).write_bytes(b"left over")
    for foreign in (".keep", "notes.txt", f"visible{TEMPORARY}"):
        (out.root / foreign).write_bytes(b"not ours")
    out.write(NAME, b"content")
    assert len(out.unfinished()) == 2
    out.reclaim()
    left = {str(path.relative_to(out.root)) for path in out.root.rglob("*") if path.is_file()}
    assert left == {NAME, ".keep", "notes.txt", f"visible{TEMPORARY}"}


def test_a_planted_link_is_replaced_and_what_it_points_at_stays(out, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (out.root / NAME).symlink_to(tmp_path / "victim")
    out.write(NAME, b"content")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (out.root / NAME).is_symlink()
    assert out.read(NAME) == b"content"


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_under_the_temporary_name_is_refused_and_not_followed(out, tmp_path, monkeypatch, dangling):
    monkeypatch.setattr("secrets.token_hex", lambda _: "foreseen")
    if not dangling:
        (tmp_path / "victim").write_bytes(b"precious")
    (out.root / NAME).with_name(f".foreseen{TEMPORARY}").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="File exists"):
        out.write(NAME, b"content")
    assert (tmp_path / "victim").exists() is not dangling
    assert out.read(NAME) is None


def test_a_folder_that_was_exchanged_for_a_link_is_refused_and_not_entered(out, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (out.root / "date=2026-11-23").rmdir()
    (out.root / "date=2026-11-23").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "old.parquet").write_bytes(b"secret")
    for attempt in (lambda: out.write(NAME, b"content"), lambda: out.remove("date=2026-11-23/old.parquet")):
        with pytest.raises(OutputError, match="cannot write"):
            attempt()
    assert out.read("date=2026-11-23/old.parquet") is None
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["old.parquet"]


def test_removing_a_link_leaves_what_it_points_at(out, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (out.root / "_SUCCESS").symlink_to(tmp_path / "victim")
    out.remove("_SUCCESS")
    assert not os.path.lexists(out.root / "_SUCCESS")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_dangling_link_is_removed_too(out, tmp_path):
    (out.root / "_SUCCESS").symlink_to(tmp_path / "nowhere")
    out.remove("_SUCCESS")
    assert not os.path.lexists(out.root / "_SUCCESS")


def test_reading_finds_nothing_where_there_is_no_plain_file(out, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (out.root / "link").symlink_to(tmp_path / "secret")
    assert out.read("missing") is None
    assert out.read("link") is None


def test_nothing_is_found_or_removed_below_a_folder_that_is_not_there_and_none_is_made(out):
    out.remove("nowhere/a.parquet")
    assert out.read("nowhere/a.parquet") is None
    assert not (out.root / "nowhere").exists()


def test_a_pipe_is_no_file_and_nobody_waits_for_it(out):
    os.mkfifo(out.root / "_ledger.json")
    assert out.read("_ledger.json") is None


def test_a_file_that_cannot_be_opened_is_told_and_not_taken_for_missing(out, monkeypatch):
    out.write("_ledger.json", b"content")

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Disk, "open_file", fail)
    with pytest.raises(OutputError, match=r"cannot read .*_ledger\.json"):
        out.read("_ledger.json")


def test_reading_a_folder_finds_nothing(out):
    (out.root / "_ledger.json").mkdir()
    assert out.read("_ledger.json") is None


def test_names_are_what_readers_see(out):
    for name in ("b.parquet", NAME, "_hidden.parquet", ".hidden.parquet", "_tmp/c.parquet", ".d/e.parquet", "f.csv"):
        out.write(name, b"content")
    assert out.names() == ["b.parquet", NAME]


def test_names_of_a_folder_that_is_not_there_are_none(tmp_path):
    assert OutputFolder(tmp_path / "nowhere").names() == []


def test_parent_folders_are_made_and_an_existing_folder_is_taken(tmp_path):
    folder = OutputFolder(tmp_path / "a" / "b" / "c")
    folder.prepare()
    folder.write("x", b"content")
    folder.prepare()
    assert folder.read("x") == b"content"


@pytest.mark.parametrize("place", ["file", "file/below", "dangling"])
def test_a_place_where_no_folder_can_be_is_an_output_error(tmp_path, place):
    (tmp_path / "file").write_bytes(b"in the way")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="cannot write"):
        OutputFolder(tmp_path / place).prepare()
    assert (tmp_path / "file").read_bytes() == b"in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_to_write_is_an_output_error(out):
    out.root.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        out.write(NAME, b"content")


def test_a_folder_that_was_taken_away_meanwhile_is_made_again_to_write_and_not_to_look(tmp_path):
    folder = OutputFolder(tmp_path / "gone")
    assert folder.read("x") is None
    folder.remove("x")
    assert not folder.root.exists()
    folder.write("x", b"content")
    assert folder.read("x") == b"content"


def test_a_new_folder_made_for_nothing_is_taken_back_and_no_other(tmp_path):
    for name, files in (("new", [".lock"]), ("used", [".lock", "a.parquet"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        OutputFolder(tmp_path / name).discard(".lock")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["a.parquet"]


def test_all_that_stands_in_the_way_is_told_before_anything_is_written(out):
    (out.root / "date=1").write_bytes(b"a file")
    (out.root / "_SUCCESS").mkdir()
    out.require_writable(["date=2026-11-23", "date=2/deep", ""], ["_report.json"])
    with pytest.raises(OutputError) as caught:
        out.require_writable(["date=1", "date=1/deep"], ["_report.json", "_SUCCESS"])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"the parts and the report cannot be written into {out.root}:"
    assert lines[1:3] == ["  - _SUCCESS is a folder", f"  - {out.root / 'date=1'}: Not a directory"]
    assert sorted(path.name for path in out.root.iterdir()) == ["_SUCCESS", "date=1", "date=2026-11-23"]
    assert inside(out) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_what_was_written_and_what_is_free(out, calls, number, monkeypatch):
    calls[1]["sync file"] = number
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((1, 1000, 9, 9, 3, 0, 0, 0, 0, 0)))
    with pytest.raises(OutputError, match=f"{os.strerror(number)} after 7 bytes of it; 3,000 bytes are free"):
        out.write(NAME, b"content")


def test_a_folder_for_a_while_is_no_data_for_readers_and_gone_in_the_end_with_all_that_is_in_it(out):
    with out.scratch() as place:
        (Path(place) / "rows.parquet").write_bytes(b"rows")
        (Path(place) / "deep").mkdir()
        (Path(place) / "deep" / "more").write_bytes(b"rows")
        (folder,) = (path for path in out.root.iterdir() if path.name.startswith("."))
        assert folder.name.endswith(TEMPORARY)
        assert folder.stat().st_mode & 0o077 == 0
        assert (out.names(), out.unfinished()) == ([], [folder.name])
    assert list(out.root.rglob(f".*{TEMPORARY}")) == []


def test_a_folder_for_a_while_is_gone_where_its_user_fails_and_lies_in_the_partition_of_the_run(out):
    partition = OutputFolder(out.root, within=PurePosixPath("date=2026-11-23"))

    def fail():
        with partition.scratch():
            assert [path.suffix for path in (out.root / "date=2026-11-23").iterdir()] == [TEMPORARY]
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert inside(out) == []


def test_what_is_written_for_a_while_goes_to_the_folder_that_was_made_whoever_exchanges_those_above_it(out, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with out.scratch() as place:
        out.root.rename(tmp_path / "moved")
        out.root.symlink_to(tmp_path / "elsewhere")
        (Path(place) / "rows").write_bytes(b"rows")
        assert list((tmp_path / "elsewhere").iterdir()) == []
    assert list((tmp_path / "moved").rglob(f".*{TEMPORARY}")) == []


def test_a_folder_that_a_dead_run_left_is_cleared_and_no_link_in_it_is_followed(out, tmp_path):
    left = out.root / "date=2026-11-23" / f".{'0' * 16}{TEMPORARY}"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "rows").write_bytes(b"rows")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep").touch()
    (left / "link").symlink_to(tmp_path / "mine")
    out.reclaim()
    assert not left.exists()
    assert (tmp_path / "mine" / "keep").exists()


def test_a_folder_for_a_while_that_cannot_be_made_is_an_output_error(out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(out.disk, "make_folder", full)
    with pytest.raises(OutputError, match="No space left"), out.scratch():
        pytest.fail("it was made")
