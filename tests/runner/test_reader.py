"""A unit is read in blocks of a fixed size, and a damaged file is refused by name, never read wrongly."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset import open_dataset
from runner.errors import InputError, InterruptedRunError
from runner.parts import Unit
from runner.reader import (
    BLOCK_BYTES,
    LARGEST_BLOCK,
    PIECE_BYTES,
    PIECE_ROWS,
    ROW_BYTES,
    SMALLEST_BLOCK,
    SPARE_BYTES,
    BlockSize,
    block_size,
    read_blocks,
    rechunk,
)
from runner.schema import Layout, Sizes
from runner.stop import Stop

DATA = os.environ.get("FREERUN_TEST_DATA")
BAD_FOLDER = Path(DATA) if DATA else Path(__file__).parents[2].parent / "shared" / "data"
BAD = [
    "ARROW-GH-41317", "ARROW-GH-41321", "ARROW-GH-43605", "ARROW-GH-45185", "ARROW-GH-47662",
    "ARROW-RS-GH-6229-DICTHEADER", "ARROW-RS-GH-6229-LEVELS", "PARQUET-1481",
]  # fmt: skip


def make_table(rows):
    numbers = np.random.default_rng(7).normal(size=(rows, 3)).astype(np.float32)
    return pa.table(
        {
            "past": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 3),
            "id": np.arange(rows),
            "word": pa.array([f"w{index % 4}" for index in range(rows)]).dictionary_encode(),
        }
    )


def write_groups(path, table, sizes, **options):
    start = 0
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for size in sizes:
            writer.write_table(table.slice(start, size), row_group_size=max(size, 1))
            start += size


def read(path, rows=4, row_groups=None, columns=None, stop=None, most_bytes=1 << 30):
    unit = Unit(path.name, row_groups, 0, 0, "")
    with open_dataset(str(path)).open(path.name) as file:
        wanted = tuple(file.schema_arrow.names if columns is None else columns)
        yield from read_blocks(file, unit, Layout({}, wanted, ()), BlockSize(rows, most_bytes), stop or Stop())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 12))
def test_blocks_have_exactly_the_asked_rows_whatever_the_row_groups(folder, sizes, rows):
    table = make_table(sum(sizes))
    write_groups(folder / "groups.parquet", table, sizes)
    blocks = list(read(folder / "groups.parquet", rows))
    full, rest = divmod(len(table), rows)
    assert [len(block) for block in blocks] == [rows] * full + [rest] * bool(rest)
    assert [row for block in blocks for row in block.to_pylist()] == table.to_pylist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_regrouping_keeps_every_row_in_its_order(sizes, rows):
    start, batches = 0, []
    for size in sizes:
        batches.append(pa.record_batch({"id": np.arange(start, start + size)}))
        start += size
    blocks = list(rechunk(batches, BlockSize(rows, 1 << 30)))
    assert all(len(block) == rows for block in blocks[:-1])
    assert all(0 < len(block) <= rows for block in blocks[-1:])
    assert [value for block in blocks for value in block.column("id").to_pylist()] == list(range(start))


@pytest.mark.parametrize(("row_groups", "expected"), [((0, 0), (0, 5)), ((1, 2), (5, 12)), ((2, 2), (8, 12))])
def test_a_unit_of_row_groups_has_their_rows_alone(tmp_path, row_groups, expected):
    write_groups(tmp_path / "a.parquet", make_table(12), [5, 3, 4])
    blocks = read(tmp_path / "a.parquet", 4, row_groups)
    assert [value for block in blocks for value in block.column("id").to_pylist()] == list(range(*expected))


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
def test_a_file_without_rows_has_no_blocks(tmp_path, sizes):
    write_groups(tmp_path / "a.parquet", make_table(0), sizes)
    assert list(read(tmp_path / "a.parquet")) == []


def test_only_the_columns_of_the_layout_are_read(tmp_path):
    write_groups(tmp_path / "a.parquet", make_table(5), [5])
    (block,) = read(tmp_path / "a.parquet", 8, columns=("id", "past"))
    assert set(block.schema.names) == {"id", "past"}


def test_dictionaries_that_differ_between_row_groups_are_joined_by_their_words(tmp_path):
    table = pa.table({"word": pa.array(["a", "b", "c", "a", "d", None]).dictionary_encode()})
    write_groups(tmp_path / "a.parquet", table, [2, 2, 2])
    (block,) = read(tmp_path / "a.parquet", 6)
    assert block.column("word").to_pylist() == ["a", "b", "c", "a", "d", None]
    assert pa.types.is_dictionary(block.schema.field("word").type)


@pytest.mark.parametrize("kept", [0, 3, 50, -1, -4, -20])
def test_a_truncated_file_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "cut.parquet"
    write_groups(path, make_table(12), [5, 3, 4])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.parquet"):
        list(read(path, columns=("past",)))


def pages_of_row_group(path, group):
    column = pq.read_metadata(path).row_group(group).column(0)
    return column.data_page_offset, column.data_page_offset + column.total_compressed_size


def test_every_flipped_bit_in_a_checksummed_page_is_found_and_its_row_group_named(tmp_path):
    path = tmp_path / "flipped.parquet"
    plain = {"compression": "none", "use_dictionary": False}
    write_groups(path, make_table(24).select(["past"]), [8, 8, 8], write_page_checksum=True, **plain)
    whole = path.read_bytes()
    _, end = pages_of_row_group(path, 1)
    for position in range(end - 96, end):  # the numbers: 8 rows of 3 float32
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        blocks = read(path, 8)
        assert len(next(blocks)) == 8
        with pytest.raises(InputError, match=r"flipped\.parquet is damaged in row group 1"):
            next(blocks)


def test_a_page_of_zeros_is_refused_by_name_and_row_group_without_checksums_too(tmp_path):
    path = tmp_path / "zeroed.parquet"
    write_groups(path, make_table(24), [8, 8, 8])
    start, end = pages_of_row_group(path, 2)
    content = bytearray(path.read_bytes())
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"zeroed\.parquet is damaged in row group 2"):
        list(read(path))


def test_an_array_that_reads_but_is_invalid_is_refused(tmp_path):
    offsets, bytes_ = pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, bytes_])
    pq.write_table(pa.table({"note": broken}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet is damaged in row group 0"):
        list(read(tmp_path / "a.parquet"))


SEEN = [
    OSError("page"), pa.ArrowInvalid("page"), pa.ArrowNotImplementedError("page"), pa.ArrowKeyError("page"),
    UnicodeDecodeError("utf-8", b"page", 0, 1, "page"),
]  # fmt: skip


@pytest.mark.parametrize("error", SEEN, ids=lambda error: type(error).__name__)
def test_every_error_that_pyarrow_was_seen_to_raise_names_the_file_and_the_row_group(tmp_path, monkeypatch, error):
    iter_batches = pq.ParquetFile.iter_batches

    def fail(self, *args, row_groups, **options):
        if row_groups == [1]:
            raise error
        return iter_batches(self, *args, row_groups=row_groups, **options)

    write_groups(tmp_path / "a.parquet", make_table(8), [4, 4])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(InputError, match=r"a\.parquet is damaged in row group 1\n.*page"):
        list(read(tmp_path / "a.parquet"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("checksums", [True, False])
def test_a_damaged_file_gives_rows_or_an_input_error_and_nothing_else(tmp_path, seed, checksums):
    path, draw = tmp_path / "a.parquet", random.Random(seed)
    write_groups(path, make_table(30), [10, 10, 10], write_page_checksum=checksums, compression="zstd")
    whole = path.read_bytes()
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole[: draw.choice([len(whole)] * 2 + [draw.randrange(len(whole))])])
        for _ in range(draw.choice([1, 1, 4])):
            if damaged:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            list(read(path))
        except InputError as error:
            assert "a.parquet" in str(error)  # noqa: PT017  (not every damage has to raise)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_of_the_wild_gives_rows_or_an_input_error_and_nothing_else(name):
    path = BAD_FOLDER / "parquet-bad" / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} of apache/parquet-testing is not here; set FREERUN_TEST_DATA to its folder's parent")
    try:
        blocks = list(read(path, 64))
    except InputError as error:
        assert path.name in str(error)  # noqa: PT017  (some of them are readable)
    else:
        assert all(len(block) == 64 for block in blocks[:-1])


def test_a_request_to_stop_ends_the_reading_and_is_no_damage(tmp_path):
    write_groups(tmp_path / "a.parquet", make_table(12), [5, 3, 4])
    stop = Stop()
    blocks = read(tmp_path / "a.parquet", 4, stop=stop)
    next(blocks)
    stop.request(signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        list(blocks)


@given(st.builds(Sizes, *[st.integers(1, 5000)] * 2, *[st.integers(0, 300)] * 2))
def test_a_block_is_a_power_of_two_that_fits_its_memory_where_it_can(sizes):
    rows, most_bytes = block_size(sizes).rows, block_size(sizes).most_bytes
    row_bytes = 4 * (sizes.context * (sizes.past + 1) + sizes.horizon * (sizes.future + 4))
    assert rows & (rows - 1) == 0
    assert SMALLEST_BLOCK <= rows <= LARGEST_BLOCK
    assert rows == SMALLEST_BLOCK or rows * row_bytes <= BLOCK_BYTES
    assert rows == LARGEST_BLOCK or 2 * rows * row_bytes > BLOCK_BYTES
    assert most_bytes == SPARE_BYTES + 2 * rows * row_bytes


def text_file(path, lengths, group=10_000):
    """Write a file of one column of repetitive text, a row for each length: tiny on disk, large in memory."""
    pq.write_table(pa.table({"note": ["x" * length for length in lengths]}), path, row_group_size=group)
    return path


def test_memory_that_runs_out_while_reading_is_told_as_that(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise MemoryError("malloc of size 1e12 failed")

    write_groups(tmp_path / "a.parquet", make_table(8), [4, 4])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(InputError, match=r"a\.parquet is too large to read in row group 0\n.*malloc"):
        list(read(tmp_path / "a.parquet"))


def test_a_block_ends_before_it_takes_more_memory_than_it_may(tmp_path):
    path = text_file(tmp_path / "a.parquet", [1000] * 1000)
    blocks = list(read(path, 512, most_bytes=200_000))
    assert [len(block) for block in blocks] == [3 * PIECE_ROWS] * 5 + [40]
    assert all(block.nbytes <= 200_000 for block in blocks)


def test_a_piece_that_fills_more_than_a_block_stands_alone(tmp_path):
    path = text_file(tmp_path / "a.parquet", [10] * PIECE_ROWS + [1000] * PIECE_ROWS + [10] * PIECE_ROWS)
    assert [len(block) for block in read(path, 512, most_bytes=20_000)] == [PIECE_ROWS] * 3


def test_rows_that_are_large_are_decoded_one_by_one_from_there_on_and_none_is_lost(tmp_path):
    large = PIECE_BYTES // PIECE_ROWS + 1
    lengths = [10] * 2 * PIECE_ROWS + [large] * PIECE_ROWS + [10] * 3
    path = text_file(tmp_path / "a.parquet", lengths, group=len(lengths))
    blocks = list(read(path, 4096, most_bytes=4 * large))
    assert [len(text) for block in blocks for text in block.column("note").to_pylist()] == lengths
    assert all(block.nbytes <= 4 * large for block in blocks)
    assert max(len(block) for block in blocks) > 2


def test_a_row_larger_than_any_should_be_is_refused_by_name_and_row_group(tmp_path):
    path = text_file(tmp_path / "a.parquet", [10, 10, ROW_BYTES + 1, 10], group=2)
    blocks = read(path, 2)
    assert len(next(blocks)) == 2
    with pytest.raises(
        InputError, match=r"a\.parquet is too large to read in row group 1\n.*a row of 64 MiB, where at most 64 fit"
    ):
        next(blocks)
