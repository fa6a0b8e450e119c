"""Sort a file's rows by series and time, on disk where memory does not hold them. Only here is duckdb imported."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from runner.dataset import first_line
from runner.errors import InputError, OutputError, explain
from runner.stop import Stop
from runner.storage import OutputFolder

MEGABYTES, FEWEST_MEGABYTES = 128, 64
"""What the sort may take of memory; with half of the smaller number it was seen to fail."""
ROWS_AT_ONCE = 1 << 13
LONGEST_TEXT = 1 << 10
"""Bytes of a name: as many rows as are handed over at once take memory that nobody bounds otherwise."""
NUMBERS = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
SETTINGS = {
    "threads": 1,
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
}
SEALS = ("SET enable_progress_bar = false", "SET enable_external_access = false", "SET lock_configuration = true")
"""What follows once the temporary folder is known: no file but there is opened, and no network at all."""
FULL = ("IO Error", "Out of Memory Error")
"""How duckdb's messages begin when disk or memory ran out; it is pyarrow that raises them."""


def sort_megabytes(max_memory: int | None) -> int:
    """Return how much memory a sort may take in a run that may take so much in all."""
    return MEGABYTES if max_memory is None else min(MEGABYTES, max(FEWEST_MEGABYTES, max_memory // 4))


@dataclass(slots=True)
class Sorter:
    """Sorts one file after the other.

    Attributes:
        out: where temporary files may lie.
        stop: ends a sort.
        megabytes: how much memory a sort may take.
        running: duckdb's connection, while there is one.
    """

    out: OutputFolder
    stop: Stop
    megabytes: int
    running: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.stop.on_request(self._interrupt)

    def sort(self, pieces: Iterable[pa.RecordBatch], unique_id: str, ds: str) -> Iterator[pa.RecordBatch]:
        """Yield all rows of a file by series and time; those of one series and time stay in their order.

        Text is ordered by its bytes, nulls come last.

        Args:
            pieces: consecutive rows of the file.
            unique_id: column of the series.
            ds: column of the time.

        Yields:
            The rows, of the same types, every number and every null as it was.

        Raises:
            InputError: what reading the pieces raises; or a name is too long.
            OutputError: the disk is full, or the memory is too small.
        """
        rows = iter(pieces)
        first = next(rows, None)
        if first is None:
            return
        source = _Source(first, rows)
        columns = {name: f"c{place}" for place, name in enumerate(first.schema.names)}  # duckdb has no case
        query = f"SELECT {', '.join(columns.values())} FROM steps ORDER BY {columns[unique_id]}, {columns[ds]}, row"  # noqa: S608
        with self.out.scratch() as folder, self._told(source), self._connected(folder) as connection:
            connection.register("steps", source.stream())
            for batch in _read(connection.sql(query)):
                self.stop.check()
                yield _restored(batch, first.schema)

    @contextmanager
    def _connected(self, folder: str) -> Iterator[Any]:
        import duckdb  # noqa: TID251  (this is the module that may)

        settings: Any = {**SETTINGS, "temp_directory": folder, "memory_limit": f"{self.megabytes}MB"}
        with closing(duckdb.connect(":memory:", config=settings)) as connection:
            for seal in SEALS:
                connection.execute(seal)
            self.running = connection
            try:
                yield connection
            finally:
                self.running = None

    def _interrupt(self) -> None:
        """End what duckdb does; a connection that is closed already does nothing."""
        running = self.running
        if running is not None:
            with suppress(Exception):
                running.interrupt()

    @contextmanager
    def _told(self, source: "_Source") -> Iterator[None]:
        """Tell why a sort failed: the rows could not be read, a stop was asked for, or there is no room for it."""
        try:
            yield
        except Exception as error:
            if source.failure is not None:
                raise source.failure  # noqa: B904  (its own cause is what is told)
            self.stop.check()
            if not str(error).startswith(FULL):
                raise
            remedy = "free space for --out (sorting takes about twice the rows' memory), or a higher --max-memory"
            what = f"cannot sort in {self.out.home}"
            raise OutputError(explain(what, got=first_line(error), remedy=remedy)) from error


@dataclass(slots=True)
class _Source:
    """The rows as duckdb gets them: integers and text alone, so that nothing of a number can change; numbered.

    Attributes:
        first, rest: of the rows.
        failure: what was raised when they were read; duckdb passes on no more than its words.
    """

    first: pa.RecordBatch
    rest: Iterator[pa.RecordBatch]
    failure: Exception | None = None

    def stream(self) -> Any:
        """Return the rows as a stream that can be read once."""
        plain = [pa.field(f"c{place}", _plain(kind)) for place, kind in enumerate(self.first.schema.types)]
        schema = pa.schema([*plain, pa.field("row", pa.int64())])
        return pa.RecordBatchReader.from_batches(schema, self._numbered(schema)).__arrow_c_stream__()

    def _numbered(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            begun = 0
            batch: pa.RecordBatch | None = self.first
            while batch is not None:
                _refuse_long(batch)
                row = pa.array(np.arange(begun, begun + batch.num_rows))
                columns = [
                    column.view(kind) if kind != column.type else column
                    for column, kind in zip(batch.columns, schema.types[:-1], strict=True)
                ]
                yield pa.RecordBatch.from_arrays([*columns, row], schema=schema)
                begun += batch.num_rows
                batch = next(self.rest, None)
        except Exception as error:
            self.failure = error
            raise


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column has in duckdb: what is no text is an integer of as many bits."""
    return NUMBERS[kind.bit_width] if pt.is_floating(kind) or pt.is_temporal(kind) else kind


def _refuse_long(batch: pa.RecordBatch) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        words = column.dictionary if pt.is_dictionary(column.type) else column
        if not (pt.is_string(words.type) or pt.is_large_string(words.type)):
            continue
        longest = pc.max(pc.binary_length(words)).as_py() or 0
        if longest > LONGEST_TEXT:
            expected = f"at most {LONGEST_TEXT:,} bytes where rows are sorted"
            raise InputError(
                explain(f"column '{name}' has a text too long", got=f"{longest:,} bytes", expected=expected)
            )


def _read(found: Any) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query as they come; the method's name changed with duckdb 2."""
    import duckdb  # noqa: TID251  (this is the module that may)

    current = hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader")
    yield from (found.to_arrow_reader if current else found.fetch_record_batch)(ROWS_AT_ONCE)


def _restored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [_back(column, kind) for column, kind in zip(batch.columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _back(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pt.is_floating(kind) or pt.is_temporal(kind):
        return column.view(kind)
    return (column.dictionary_encode() if pt.is_dictionary(kind) else column).cast(kind)
