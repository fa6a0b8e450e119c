"""The output folder shows only whole files, follows no planted link, and tells the system's refusals in our words."""

import errno
import os
from pathlib import Path

import pytest

from runner.errors import OutputError
from runner.storage import TEMPORARY, OutputFolder

NAME = "date=2026-11-23/a.parquet"
TEMPORARY_NAME = f"date=2026-11-23/.a.parquet{TEMPORARY}"


@pytest.fixture
def out(tmp_path):
    folder = OutputFolder(tmp_path / "out")
    folder.prepare()
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Record what is synced and renamed, in order; a name in `fail` makes that call fail with its errno."""
    made, fail = [], {}
    fsync, rename = os.fsync, Path.rename

    def note(what, run):
        made.append(what)
        if what in fail:
            raise OSError(fail[what], os.strerror(fail[what]))
        return run()

    def noted_fsync(descriptor):
        kind = "sync folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "sync file"
        return note(kind, lambda: fsync(descriptor))

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", lambda self, target: note("rename", lambda: rename(self, target)))
    return made, fail


def test_a_file_is_seen_only_once_it_is_whole(out):
    with out.replacing(NAME) as file:
        file.write(b"half")
        file.flush()
        assert [path.name for path in (out.root / NAME).parent.iterdir()] == [Path(TEMPORARY_NAME).name]
        assert out.names() == []
    assert out.read(NAME) == b"half"
    assert list((out.root / NAME).parent.iterdir()) == [out.root / NAME]


def test_the_temporary_name_begins_with_a_dot_and_does_not_end_in_parquet():
    assert Path(TEMPORARY_NAME).name.startswith(".")
    assert not TEMPORARY_NAME.endswith(".parquet")


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(out, calls):
    made, _ = calls
    out.write(NAME, b"content")
    assert made == ["sync file", "rename", "sync folder"]


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
    assert not (out.root / TEMPORARY_NAME).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", ["sync file", "rename"])
def test_a_step_that_fails_leaves_nothing_visible_and_is_told_with_path_reason_and_remedy(out, calls, step, number):
    _, fail = calls
    fail[step] = number
    with pytest.raises(OutputError) as caught:
        out.write(NAME, b"content")
    for piece in (NAME, os.strerror(number), "remedy: "):
        assert piece in str(caught.value)
    assert list((out.root / NAME).parent.iterdir()) == []
    fail.clear()
    out.write(NAME, b"content")
    assert out.read(NAME) == b"content"


def test_a_folder_that_cannot_be_synced_is_told_and_no_file_is_torn(out, calls):
    _, fail = calls
    fail["sync folder"] = errno.EIO
    with pytest.raises(OutputError, match="cannot write"):
        out.write(NAME, b"content")
    assert out.read(NAME) in {None, b"content"}
    assert not (out.root / TEMPORARY_NAME).exists()


def test_an_error_of_ours_inside_keeps_its_own_words(out):
    with pytest.raises(OutputError, match=r"^mine$"), out.replacing(NAME):
        raise OutputError("mine")


def test_what_a_dead_run_left_is_written_over_and_cleared(out):
    for name in (TEMPORARY_NAME, f".other{TEMPORARY}"):
        (out.root / name).parent.mkdir(exist_ok=True)
        (out.root / name).write_bytes(b"left over")
    for foreign in (".keep", "notes.txt", f"visible{TEMPORARY}"):
        (out.root / foreign).write_bytes(b"not ours")
    out.write(NAME, b"content")
    out.reclaim()
    left = {str(path.relative_to(out.root)) for path in out.root.rglob("*") if path.is_file()}
    assert left == {NAME, ".keep", "notes.txt", f"visible{TEMPORARY}"}


@pytest.mark.parametrize("planted", [NAME, TEMPORARY_NAME])
def test_a_planted_link_is_replaced_and_what_it_points_at_stays(out, tmp_path, planted):
    (tmp_path / "victim").write_bytes(b"precious")
    (out.root / planted).parent.mkdir()
    (out.root / planted).symlink_to(tmp_path / "victim")
    out.write(NAME, b"content")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (out.root / NAME).is_symlink()
    assert out.read(NAME) == b"content"


def test_a_link_planted_between_two_steps_is_refused_and_not_followed(out, tmp_path, monkeypatch):
    (tmp_path / "victim").write_bytes(b"precious")
    unlink = Path.unlink

    def racing(path, **settings):
        unlink(path, **settings)
        path.symlink_to(tmp_path / "victim")

    monkeypatch.setattr(Path, "unlink", racing)
    with pytest.raises(OutputError, match="File exists"):
        out.write(NAME, b"content")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert out.read(NAME) is None


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
