"""Small valid inputs of every kind, and maps of what lies where in them."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from campaigns.hand_made import TINY, C, F
from campaigns.thrift import Field, walk

ROWS, GROUP = 15, 6


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a column chunk.

    Attributes:
        group: its row group.
        header: its header's fields.
        start, data, end: where the header begins, the data begins, and the page ends.
        checked: the header has a checksum of the data.
    """

    group: int
    header: tuple[Field, ...]
    start: int
    data: int
    end: int
    checked: bool


@dataclass(frozen=True, slots=True)
class Base:
    """A valid file.

    Attributes:
        footer: where the footer begins; it ends eight bytes before the file does.
    """

    name: str
    content: bytes
    pages: tuple[Page, ...]
    footer: int
    fields: tuple[Field, ...]


def make_bases(folder: Path) -> list[Base]:
    """Write the files; they are the same each time."""
    windows = good_and_bad_windows()
    loose, tensors, words = as_lists(windows), as_tensors(windows), as_words(windows)
    plain = {"use_dictionary": False, "compression": "none"}
    small_pages = {"data_page_size": 40, "write_batch_size": 2}
    split = {"past.list.element.list.element": "BYTE_STREAM_SPLIT", "note": "DELTA_BYTE_ARRAY"}
    files = {
        "fixed lists, snappy": _write(windows),
        "fixed lists, plain, checked": _write(windows, write_page_checksum=True, **plain),
        "fixed lists, plain, unchecked": _write(windows, **plain),
        "lists, zstd, checked": _write(loose, compression="zstd", write_page_checksum=True),
        "lists, zstd, v2, checked": _write(
            loose, compression="zstd", data_page_version="2.0", write_page_checksum=True
        ),
        "lists, plain, v2, unchecked": _write(loose, data_page_version="2.0", **plain),
        "tensors, gzip": _write(tensors, compression="gzip"),
        "tensors, plain, checked": _write(tensors, write_page_checksum=True, **plain),
        "float64, lz4": _write(as_doubles(loose), compression="lz4"),
        "float64, plain, v2": _write(as_doubles(windows), data_page_version="2.0", **plain),
        "words, dictionary, checked": _write(words, compression="none", write_page_checksum=True),
        "words, dictionary, unchecked": _write(words, compression="none"),
        "words, plain": _write(words, **plain),
        "small pages, checked": _write(loose, write_page_checksum=True, write_page_index=True, **small_pages),
        "small pages, plain, v2": _write(loose, data_page_version="2.0", **small_pages, **plain),
        "delta, split, v2": _write(loose, column_encoding=split, data_page_version="2.0", **plain),
        "of others (no Arrow schema)": _write(loose, store_schema=False, compression="snappy"),
        "of duckdb": _by_duckdb(loose, folder),
    }
    return [read_map(name, content) for name, content in files.items()]


def good_and_bad_windows() -> pa.Table:
    """Return windows of which two are rejects, and one has no target."""
    table = TINY.make_table(ROWS, seed=5)
    past = np.array(table["past"].to_pylist(), np.float32)
    flags = np.array(table["past_observed"].to_pylist())
    past[4, np.flatnonzero(flags[4])[0], 0] = np.nan
    past[9, np.flatnonzero(flags[9])[0], 1] = np.inf
    target = table["target"].to_pylist()
    target[7] = None
    table = table.set_column(1, "past", TINY.nested(past))
    return table.set_column(4, "target", pa.array(target, pa.list_(pa.float32())))


def as_lists(table: pa.Table) -> pa.Table:
    floats, flags = pa.list_(pa.float32()), pa.list_(pa.uint8())
    kinds = {
        "past": pa.list_(floats),
        "past_observed": pa.list_(pa.bool_()),
        "future_known": pa.list_(floats),
        "mask": flags,
    }
    return _cast(table, {**kinds, "target": floats})


def as_doubles(table: pa.Table) -> pa.Table:
    kinds = {field.name: _doubled(field.type) for field in table.schema if field.name in {"past", "future_known"}}
    return _cast(table, {**kinds, "target": pa.list_(pa.float64())})


def as_tensors(table: pa.Table) -> pa.Table:
    flat = np.array(table["past"].to_pylist(), np.float32).reshape(len(table), -1)
    kind = pa.fixed_shape_tensor(pa.float32(), (C, F))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), C * F)
    return table.set_column(1, "past", pa.ExtensionArray.from_storage(kind, storage))


def as_words(table: pa.Table) -> pa.Table:
    """Add text of all kinds: long, repeated, absent, and a column of a dictionary type."""
    count = len(table)
    words = pa.array([None if n % 5 == 0 else "äöü word"[: n % 7] for n in range(count)])
    table = table.append_column("long", pa.array(["x" * (n * 9) for n in range(count)], pa.large_string()))
    table = table.append_column("word", words.dictionary_encode())
    table = table.append_column("raw", pa.array([bytes(range(n)) for n in range(count)], pa.binary()))
    return table.append_column("at", pa.array(range(count), pa.timestamp("us")))


def read_map(name: str, content: bytes) -> Base:
    """Find the pages and the footer of a file."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    pages: list[Page] = []
    metadata = pq.read_metadata(pa.BufferReader(content))
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            at = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                at = min(at, column.dictionary_page_offset)
            end = at + column.total_compressed_size
            while at < end:
                pages.append(_page(content, group, at))
                at = pages[-1].end
    return Base(name, content, tuple(pages), footer, tuple(walk(content, footer)[0]))


def _page(content: bytes, group: int, at: int) -> Page:
    header, data = walk(content, at)
    numbers = {field.path: field.value for field in header}
    size = numbers[3,]
    assert size is not None
    return Page(group, tuple(header), at, data, data + size, checked=(4,) in numbers)


def _cast(table: pa.Table, kinds: dict[str, pa.DataType]) -> pa.Table:
    for name, kind in kinds.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(table[name].to_pylist(), kind))
    return table


def _doubled(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_doubled(kind.value_type), kind.list_size)
    return pa.list_(_doubled(kind.value_type)) if pa.types.is_list(kind) else pa.float64()


def _write(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=GROUP, **options)
    return bytes(sink.getvalue())


def _by_duckdb(table: pa.Table, folder: Path) -> bytes:
    path = folder / "duckdb.parquet"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("windows", table)
        connection.execute(f"COPY (SELECT * FROM windows) TO '{path}' (FORMAT parquet)")
    return path.read_bytes()
