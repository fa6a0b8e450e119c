"""Read a unit in blocks of a fixed number of rows, in bounded memory, whatever its row groups look like."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

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


def block_rows(sizes: Sizes) -> int:
    """Return how many windows make a block: a power of two that depends on the shapes alone.

    Scores are summed block by block, so this number must not depend on the machine or on any option.
    """
    row = 4 * (sizes.context * (sizes.past + 1) + sizes.horizon * (sizes.future + 4))
    rows = LARGEST_BLOCK
    while rows > SMALLEST_BLOCK and rows * row > BLOCK_BYTES:
        rows //= 2
    return rows


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


def read_blocks(file: pq.ParquetFile, unit: Unit, layout: Layout, rows: int, stop: Stop) -> Iterator[pa.RecordBatch]:
    """Yield the unit's rows in order, `rows` at a time (the last block may be shorter; none for an empty unit).

    Raises:
        InputError: the file is damaged; names the file and the row group.
    """
    first, last = unit.row_groups or (0, file.metadata.num_row_groups - 1)
    return rechunk(_batches(file, unit, layout, range(first, last + 1), rows, stop), rows)


def rechunk(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Regroup batches so that all have exactly `rows` rows, but for the last."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            head = rest.slice(0, rows - held)
            rest = rest.slice(head.num_rows)
            pending.append(head)
            held += head.num_rows
            if held == rows:
                yield _join(pending)
                pending, held = [], 0
    if pending:
        yield _join(pending)


def _batches(
    file: pq.ParquetFile, unit: Unit, layout: Layout, groups: range, rows: int, stop: Stop
) -> Iterator[pa.RecordBatch]:
    for group in groups:
        try:
            for batch in file.iter_batches(rows, row_groups=[group], columns=layout.columns, use_threads=False):
                stop.check()
                batch.validate(full=True)
                yield batch
        except READ_ERRORS as error:
            raise InputError(
                explain(
                    f"{unit.path} is damaged in row group {group}",
                    got=first_line(error),
                    remedy="restore the file; the same command then scores it alone",
                )
            ) from error


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    joined = table.to_batches()
    if len(joined) != 1:
        what = f"{table.num_rows} rows hold more text than one block can"
        raise InputError(explain(what, remedy="leave the long text column out of the input"))
    return joined[0]
