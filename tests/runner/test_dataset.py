"""Which files a dataset has, who they are, and how they are opened."""

import hashlib
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from runner import dataset as module
from runner.dataset import Dataset, first_line, open_dataset
from runner.errors import InputError, InterruptedRunError
from runner.stop import Stop


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    return root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_parquet_files_at_any_depth_are_data_in_sorted_order(folder):
    names = [
        "b.parquet",
        "a.parquet",
        "date=2026-11-23/hour=7/c.parquet",
        "spark.parquet/part-0.parquet",
        "é x.parquet",
    ]
    touch(folder, *names)
    assert open_dataset(str(folder)).paths() == sorted(names)


@pytest.mark.parametrize(
    "name", ["_a.parquet", ".a.parquet", "_tmp/a.parquet", "k=1/.hidden/a.parquet", "a.csv", "a.parquet.tmp", "parquet"]
)
def test_other_names_are_no_data(folder, name):
    touch(folder, "a.parquet", name)
    assert open_dataset(str(folder)).paths() == ["a.parquet"]


def test_what_lies_above_the_dataset_may_have_any_name(tmp_path):
    touch(tmp_path, ".cache/_in/a.parquet")
    assert open_dataset(str(tmp_path / ".cache" / "_in")).paths() == ["a.parquet"]


def test_an_empty_folder_is_a_dataset_without_files(folder):
    assert open_dataset(str(folder)).paths() == []


def test_a_dataset_is_found_however_its_path_is_written(folder, monkeypatch):
    touch(folder, "k=1/a.parquet")
    monkeypatch.chdir(folder.parent)
    for text in (str(folder), f"{folder}/", "in", "./in/", "in/../in", f"file://{folder}", f"file://{folder}/"):
        dataset = open_dataset(text)
        assert dataset.paths() == ["k=1/a.parquet"], text
        assert dataset.identity("k=1/a.parquet").size == 0


def test_one_file_is_a_dataset_of_its_own(folder, monkeypatch):
    touch(folder, "a.parquet", "b.parquet")
    monkeypatch.chdir(folder)
    for text in (str(folder / "a.parquet"), "a.parquet", f"file://{folder}/a.parquet"):
        dataset = open_dataset(text)
        assert dataset.paths() == ["a.parquet"], text
        assert (folder / "a.parquet").samefile(dataset.location("a.parquet"))


@pytest.mark.parametrize("text", ["nowhere", "nowhere.parquet", "nonsense://host/path", "file:///nowhere/at/all"])
def test_an_input_that_is_not_there_is_refused_by_name(text):
    with pytest.raises(InputError) as caught:
        open_dataset(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet.gz", "_a.parquet", ".a.parquet"])
def test_a_single_file_that_readers_would_not_take_for_data_is_refused_by_name(folder, name):
    touch(folder, name)
    with pytest.raises(InputError) as caught:
        open_dataset(str(folder / name))
    assert f"got: {name}" in str(caught.value)


def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_another(folder):
    touch(folder, "a.parquet", "new")
    dataset = open_dataset(str(folder))
    before = dataset.identity("a.parquet")
    assert dataset.identity("a.parquet") == before
    os.utime(folder / "new", ns=(before.mtime_ns, before.mtime_ns))
    (folder / "new").rename(folder / "a.parquet")
    after = dataset.identity("a.parquet")
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after != before


def test_a_file_that_is_rewritten_in_place_with_its_old_time_is_another(folder):
    touch(folder, "a.parquet")
    dataset = open_dataset(str(folder))
    before = dataset.identity("a.parquet")
    (folder / "a.parquet").write_bytes(b"x")
    os.utime(folder / "a.parquet", ns=(before.mtime_ns, before.mtime_ns))
    assert dataset.identity("a.parquet") != before


@pytest.mark.parametrize("ask", ["identity", "sha256"])
@pytest.mark.parametrize("local", [True, False], ids=["local", "object store"])
def test_a_file_that_is_gone_is_refused_by_name(folder, ask, local):
    touch(folder, "a.parquet")
    elsewhere = fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem())
    dataset = open_dataset(str(folder)) if local else Dataset(elsewhere, folder.name, None)
    assert dataset.identity("a.parquet").size == 0
    with pytest.raises(InputError, match=r"gone\.parquet"):
        dataset.identity("gone.parquet") if ask == "identity" else dataset.sha256("gone.parquet", Stop())


def test_the_digest_is_that_of_the_whole_content(folder, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 10)
    for size in (0, 1, 10, 95):
        content = os.urandom(size)
        (folder / "a.parquet").write_bytes(content)
        assert open_dataset(str(folder)).sha256("a.parquet", Stop()) == hashlib.sha256(content).hexdigest()


def test_a_request_to_stop_ends_the_hashing(folder):
    (folder / "a.parquet").write_bytes(b"x")
    stop = Stop()
    stop.request(signal.SIGINT)
    with pytest.raises(InterruptedRunError):
        open_dataset(str(folder)).sha256("a.parquet", stop)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"id,past\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_file_is_refused_by_name(folder, content):
    (folder / "a.parquet").write_bytes(content)
    with (
        pytest.raises(InputError, match=r"a\.parquet is not a readable Parquet file"),
        open_dataset(str(folder)).open("a.parquet"),
    ):
        pass


def test_a_folder_or_nothing_where_a_file_was_is_refused_by_name(folder):
    (folder / "a.parquet").mkdir()
    for name in ("a.parquet", "gone.parquet"):
        with pytest.raises(InputError, match=name), open_dataset(str(folder)).open(name):
            pass


def test_an_error_of_the_one_who_reads_is_not_taken_for_a_bad_file(folder):
    pq.write_table(pa.table({"id": [1]}), folder / "a.parquet")
    with pytest.raises(ValueError, match="mine"), open_dataset(str(folder)).open("a.parquet"):
        raise ValueError("mine")


def test_reading_a_file_leaves_no_descriptor_open(folder):
    pq.write_table(pa.table({"id": [1]}), folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"no Parquet")
    dataset = open_dataset(str(folder))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with dataset.open("a.parquet") as file:
        assert len(file.read()) == 1
    with pytest.raises(InputError), dataset.open("b.parquet"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("one\ntwo"), "one"), (ValueError(""), "ValueError"), (ValueError("x" * 999), "x" * 300)],
    ids=["lines", "empty", "long"],
)
def test_a_foreign_error_is_told_in_one_short_line(error, words):
    assert first_line(error) == words
