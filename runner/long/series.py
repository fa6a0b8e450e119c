"""Whole series out of a file's rows, wherever its pieces happen to end."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from runner.errors import InputError, explain
from runner.freq import Ticks
from runner.long.text import encoded

LONGEST_SERIES = 64 << 20
"""Bytes of the rows of one series, which have to be in memory together: some two million steps."""


def whole_series(
    pieces: Iterable[pa.RecordBatch], name: str, longest: int | None = LONGEST_SERIES
) -> Iterator[tuple[pa.RecordBatch, Ticks]]:
    """Regroup rows so that no series is cut in two; what is held back grows with the longest series alone.

    Args:
        pieces: consecutive rows of a file.
        name: the column of the series.
        longest: bytes that one may take; None where all of them are held anyway.

    Yields:
        Rows of whole series, text as dictionaries; where each series begins, and the end of the last one [n + 1].

    Raises:
        InputError: a row has no series, a series is too long, or its name is.
    """
    held: list[pa.RecordBatch] = []
    for piece in map(encoded, pieces):
        starts = _starts(piece.column(name), name)
        if held and _name(held[-1], name, -1) != _name(piece, name, 0):
            yield _joined(held)
            held = []
        if held and len(starts) > 2:
            yield _joined([*held, piece.slice(0, starts[1])])
            held, starts = [], starts[1:]
        if len(starts) > 2:
            first, last = int(starts[0]), int(starts[-2])
            yield piece.slice(first, last - first), starts[:-1] - first
        held.append(piece.slice(int(starts[-2])) if not held else piece)
        if longest is not None:
            _refuse_endless(held, name, longest)
    if held:
        yield _joined(held)


@dataclass(frozen=True, slots=True)
class Seen:
    """The series of a file so far; of text only the hashes, so that long names take no memory."""

    keys: set[int] = field(default_factory=set)

    def add(self, names: pa.Array) -> None:
        """Take the names of further series.

        Raises:
            InputError: one was there before, so its rows do not stand together.
        """
        for name in names.to_pylist():
            key = name if isinstance(name, int) else hash(name)
            if key in self.keys:
                remedy = "--sort, or write the file sorted by series and time"
                what = "the rows of a series do not stand together"
                raise InputError(explain(what, got=f"series {name!r} begins a second time", remedy=remedy))
            self.keys.add(key)


def names_of(column: pa.Array, starts: Ticks) -> pa.Array:
    """Return the name of each series [n], decoded."""
    names = column.take(pa.array(starts[:-1]))
    return names.dictionary_decode() if pt.is_dictionary(names.type) else names


def _starts(column: pa.Array, name: str) -> Ticks:
    """Return where series begin in consecutive rows, and the number of rows [n + 1]."""
    if column.null_count or (pt.is_dictionary(column.type) and column.dictionary.null_count):
        raise InputError(explain(f"column '{name}' has rows without a series", got="null", expected="text or integers"))
    codes = np.asarray(column.indices if pt.is_dictionary(column.type) else column)
    inner = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    if pt.is_dictionary(column.type) and len(inner):  # a dictionary may hold a word twice
        before, after = (column.dictionary.take(pa.array(codes[rows])) for rows in (inner - 1, inner))
        inner = inner[np.asarray(pc.not_equal(before, after).to_numpy(zero_copy_only=False))]
    return np.concatenate([[0], inner, [len(codes)]]).astype(np.int64)


def _name(rows: pa.RecordBatch, name: str, place: int) -> object:
    return rows.column(name)[place].as_py()


def _refuse_endless(held: list[pa.RecordBatch], name: str, longest: int) -> None:
    """Refuse a series that would take more memory than any should: a megabyte of Parquet can hold a thousand."""
    columns = (column for batch in held for column in batch.columns)
    size = sum(column.indices.nbytes if pt.is_dictionary(column.type) else column.nbytes for column in columns)
    if size > longest:
        got = f"{sum(batch.num_rows for batch in held):,} rows and more of series {_name(held[0], name, 0)!r}"
        remedy = "leave its oldest rows out, or cut it into several series"
        expected = f"at most {longest >> 20} MiB"
        raise InputError(
            explain("a series is too long to be held in memory", got=got, expected=expected, remedy=remedy)
        )


def _joined(batches: Sequence[pa.RecordBatch]) -> tuple[pa.RecordBatch, Ticks]:
    """Return the rows of one series together."""
    rows = sum(batch.num_rows for batch in batches)
    if len(batches) == 1:
        return batches[0], np.array([0, rows], np.int64)
    (joined,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return joined, np.array([0, rows], np.int64)
