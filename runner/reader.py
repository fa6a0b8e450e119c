"""Read a unit in blocks of a fixed number of rows, in bounded memory, whatever its row groups look like."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from runner.config import Job
from runner.dataset import READ_ERRORS, Dataset, first_line
from runner.errors import InputError, explain
from runner.manifest import Manifest
from runner.parts import Unit
from runner.schema import Layout, Sizes, check_schemas, match, sizes_of
from runner.stop import Stop

BLOCK_BYTES = 32 << 20
LARGEST_BLOCK = 4096
SMALLEST_BLOCK = 16
SPARE_BYTES = 8 << 20
"""What a block may hold beside twice the numbers that are its business: copied text, say."""
PIECE_ROWS = 64
"""Rows that are decoded at once; what a row takes in memory is only known afterwards (no number in a footer binds)."""
PIECE_BYTES = 8 << 20
"""Of a row group with a larger piece than this, rows are decoded one by one."""
STEP_BYTES = 6 << 20
"""What the rows of time steps that are decoded at once should take."""
MOST_STEPS = 1 << 18
ROW_BYTES = 64 << 20
"""A single row that takes more than this is refused."""


@dataclass(frozen=True, slots=True)
class BlockSize:
    """When a block is full: at so many rows, or before it takes more than so many bytes."""

    rows: int
    most_bytes: int


def block_size(sizes: Sizes) -> BlockSize:
    """Return how large blocks are: a power of two of windows, and twice the memory of their numbers and a bit.

    It depends on the shapes alone, and on no option and no machine: scores are summed block by block.
    """
    steps = sizes.context * (sizes.past + 1) + sizes.horizon * (sizes.future + 4 * sizes.targets)
    row = 4 * (steps + sizes.static_width)
    rows = LARGEST_BLOCK
    while rows > SMALLEST_BLOCK and rows * row > BLOCK_BYTES:
        rows //= 2
    return BlockSize(rows, SPARE_BYTES + 2 * rows * row)


def match_layouts(dataset: Dataset, paths: set[str], manifest: Manifest, job: Job) -> dict[str, Layout]:
    """Check the schema of every file that will be read, each by itself.

    Raises:
        InputError: some do not fit; everything wrong with any of them is listed.
    """
    layouts, offenders = {}, {}
    for path in sorted(paths):
        with dataset.open(path) as file:
            layouts[path], offenders[path] = match(
                file.schema_arrow, path, sizes_of(manifest), job.columns, teacher=job.mode == "teacher-forced"
            )
    check_schemas(offenders)
    return layouts


def read_blocks(
    file: pq.ParquetFile, unit: Unit, layout: Layout, size: BlockSize, stop: Stop
) -> Iterator[pa.RecordBatch]:
    """Yield the unit's rows in order, in full blocks (the last may be shorter; none for an empty unit).

    Where the blocks end depends on the file and on `size` alone.

    Raises:
        InputError: the file is damaged, or a row takes more memory than any should; names the file and the row group.
    """
    first, last = unit.row_groups or (0, file.metadata.num_row_groups - 1)
    ladder = (min(size.rows, PIECE_ROWS), 1)
    return rechunk(_batches(file, unit, layout.columns, range(first, last + 1), ladder, stop), size)


def read_steps(file: pq.ParquetFile, unit: Unit, columns: list[str], stop: Stop) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file of time steps in order, as many at once as fit a few megabytes.

    Raises:
        InputError: the file is damaged, or a row takes more memory than any should; names the file and the row group.
    """
    width, most = sum(_width(file.schema_arrow.field(name).type) for name in columns), MOST_STEPS
    while most * width > STEP_BYTES and most > PIECE_ROWS:
        most //= 2
    for group in range(file.metadata.num_row_groups):
        ladder = _steps_at_once(most, file.metadata.row_group(group), columns)
        yield from _batches(file, unit, columns, range(group, group + 1), ladder, stop)


def claimed_bytes(group: pq.RowGroupMetaData, columns: list[str]) -> int:
    """Return how many bytes these columns have before compression, by what the footer says."""
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)


def _width(kind: pa.DataType) -> int:
    """Return the bytes of a value; of text, which is read as dictionaries, those of an index."""
    return max(kind.bit_width // 8, 1) if pt.is_primitive(kind) else 4


def _steps_at_once(most: int, group: pq.RowGroupMetaData, columns: list[str]) -> tuple[int, ...]:
    """Return the ladder without the numbers of rows that are too large by what the footer says: of long text."""
    size = claimed_bytes(group, columns)
    ladder = sorted({most, max(most // 32, PIECE_ROWS), PIECE_ROWS}, reverse=True)
    return (*(rows for rows in ladder if rows * size <= PIECE_BYTES * max(group.num_rows, 1)), 1)


def rechunk(batches: Iterable[pa.RecordBatch], size: BlockSize) -> Iterator[pa.RecordBatch]:
    """Regroup batches so that all have exactly `size.rows` rows; fewer at the end, and where their bytes forbid it."""
    pending: list[pa.RecordBatch] = []
    held = held_bytes = 0
    for batch in batches:
        if pending and held_bytes + batch.nbytes > size.most_bytes:
            yield _join(pending)
            pending, held, held_bytes = [], 0, 0
        rest = batch
        while rest.num_rows:
            head = rest.slice(0, size.rows - held)
            rest = rest.slice(head.num_rows)
            pending.append(head)
            held, held_bytes = held + head.num_rows, held_bytes + head.nbytes
            if held == size.rows:
                yield _join(pending)
                pending, held, held_bytes = [], 0, 0
    if pending:
        yield _join(pending)


def _batches(
    file: pq.ParquetFile, unit: Unit, columns: list[str], groups: range, ladder: tuple[int, ...], stop: Stop
) -> Iterator[pa.RecordBatch]:
    for group in groups:
        with _naming(unit, group):
            found, promised = 0, file.metadata.row_group(group).num_rows
            for batch in _pieces(file, columns, group, ladder):
                stop.check()
                _check(batch)
                found += batch.num_rows
                yield batch
            if found != promised:  # a page that says it has fewer values than it had
                raise pa.ArrowInvalid(f"{found} rows, where the footer tells of {promised}")


def _check(batch: pa.RecordBatch) -> None:
    """Refuse arrays that were read but are invalid, before numpy sees them, and a row that is too large."""
    batch.validate(full=True)
    if batch.num_rows == 1 and batch.nbytes > ROW_BYTES:
        raise MemoryError(f"a row of {batch.nbytes >> 20} MiB, where at most {ROW_BYTES >> 20} fit")


@contextmanager
def _naming(unit: Unit, group: int) -> Iterator[None]:
    """Tell whatever goes wrong while a row group is read in our words, by file and row group."""
    try:
        yield
    except READ_ERRORS as error:
        what = "is too large to read" if isinstance(error, MemoryError) else "is damaged"
        remedy = "restore the file, or leave the large column out; the same command then scores it alone"
        raise InputError(
            explain(f"{unit.path} {what} in row group {group}", got=first_line(error), remedy=remedy)
        ) from error


def _pieces(file: pq.ParquetFile, columns: list[str], group: int, ladder: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Yield a row group's rows a few at a time; from a piece on that is too large, fewer, as the ladder goes."""
    done = 0
    for rows in ladder:
        batches = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
        for batch in islice(batches, done // rows, None):
            if batch.nbytes > PIECE_BYTES and batch.num_rows > 1:
                break
            yield batch
            done += batch.num_rows
        else:
            return


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    (joined,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return joined
