"""Read windows that a loss can be computed on into memory, with the columns that only an explanation looks at."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from runner.batch import F32, Bool, Index, WindowBatch, join, reason_code
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, explain
from runner.gap.extra_columns import EXTRA_ROLES, Extra, join_extra, names_of, numbers_of, problems_of, read_extra
from runner.gap.sample import MOST_BYTES, sample_of
from runner.intervals import FEWEST_BLOCKS
from runner.parts import Unit
from runner.reader import block_size, read_blocks
from runner.schema import OUTPUT_COLUMNS, Layout, Sizes, check_schemas, match
from runner.stop import Stop
from runner.validate import validate


@dataclass(frozen=True, slots=True)
class LossWindows:
    """Good windows with a target, in the order of the data.

    Attributes:
        batch: nothing in it is a reject [N, ...].
        position: the row that each window was in the whole dataset [N].
        block: number of the block of neighbours, or of the series, that it belongs to: 0, 1, ... with no gap [N].
        whole_series: the blocks are series; with fewer than 20 of them, they are neighbours all the same.
        optimal: the known best forecast, where the data has it [N, H].
        total: rows of the dataset, rejects and those not taken included.
        rejected: rows left out because of bad cells; a missing target is none.
        taken_every: 1 = every window was taken, k = about one in k.
        prediction: what somebody forecast, where the data has it, NaN where it has nothing [N, H].
    """

    batch: WindowBatch
    position: Index
    block: Index
    whole_series: bool
    optimal: F32 | None
    total: int
    rejected: int
    taken_every: int
    prediction: F32 | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def only(self, rows: Bool) -> "LossWindows":
        """Return the windows where `rows` [N] is True; the others count as rejects."""
        return replace(
            self,
            batch=self.batch.take(np.flatnonzero(rows)),
            position=self.position[rows],
            block=_dense(self.block[rows]),
            optimal=None if self.optimal is None else self.optimal[rows],
            rejected=self.rejected + int((~rows).sum()),
            prediction=None if self.prediction is None else self.prediction[rows],
        )


def read_windows(
    text: str,
    sizes: Sizes,
    columns: Mapping[str, str],
    stop: Stop,
    *,
    flagged: bool,
    inverted: bool = False,
    most_bytes: int = MOST_BYTES,
) -> LossWindows:
    """Read a dataset.

    Args:
        text: path or URI.
        sizes: C, H, F and K.
        columns: role -> column name, only where they differ; `EXTRA_ROLES` may be among the roles.
        stop: ends the reading.
        flagged: the encoder takes `past_observed`.
        inverted: take what the mask excludes for what counts, and the other way round.
        most_bytes: what may be held in memory.

    Raises:
        InputError: no files, columns that do not fit, damaged files, or no good window with a target.
    """
    dataset = open_dataset(text)
    layouts, total = _layouts(dataset, text, sizes, columns)
    if inverted:
        layouts = {path: _inverted(layout) for path, layout in layouts.items()}
    names, sample = names_of(columns), sample_of(total, sizes, most_bytes)
    pieces: list[tuple[WindowBatch, Index, Extra]] = []
    first = rejected = 0
    for path, layout in layouts.items():
        with dataset.open(path) as file:
            for block in read_blocks(file, Unit(path, None, 0, 0, ""), layout, block_size(sizes), stop):
                windows = validate(block, layout, sizes, flags_past=flagged, teacher=True)
                rows = windows.good_rows()
                rejected += len(windows) - len(rows) - int((windows.reasons == reason_code("target_missing")).sum())
                rows = rows[windows.has_target[rows] & sample.takes(first + rows)]
                if len(rows):
                    pieces.append((windows.take(rows), first + rows, read_extra(block, rows, names, sizes)))
                first += len(windows)
    if not pieces:
        got = f"{total} rows, {rejected} rejected, the others without a target"
        raise InputError(explain(f"{text} has no good window with a target", got=got))
    batches, positions, extras = zip(*pieces, strict=True)
    position, extra = np.concatenate(positions), join_extra(extras)
    if extra.optimal is not None and not np.isfinite(extra.optimal).all():
        raise InputError(explain(f"the optimal forecasts in {text} are not all finite", expected="H numbers a row"))
    whole_series = extra.series is not None and len(set(extra.series)) >= FEWEST_BLOCKS
    block = numbers_of(extra.series) if extra.series and whole_series else _dense(sample.blocks(position))
    return LossWindows(
        join(batches), position, block, whole_series, extra.optimal, total, rejected, sample.one_in, extra.prediction
    )


def digest_of(batches: Iterable[WindowBatch]) -> str:
    """Return what tells whether two readings are of the same windows: a digest of their contexts, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(np.ascontiguousarray(batch.past).tobytes())
    return digest.hexdigest()


def _layouts(dataset: Dataset, text: str, sizes: Sizes, columns: Mapping[str, str]) -> tuple[dict[str, Layout], int]:
    """Return where the roles of each file are, and how many rows all files have."""
    mapped = {role: name for role, name in columns.items() if role not in EXTRA_ROLES}
    extra = set(names_of(columns).values())
    layouts: dict[str, Layout] = {}
    offenders: dict[str, list[str]] = {}
    total = 0
    for path in dataset.paths():
        with dataset.open(path) as file:
            schema = file.schema_arrow
            inputs = pa.schema([field for field in schema if field.name not in OUTPUT_COLUMNS])  # nothing is written
            layout, offenders[path] = match(inputs, path, sizes, mapped, teacher=True)
            offenders[path] += problems_of(schema, columns, sizes)
            layouts[path] = replace(layout, copied=tuple(name for name in schema.names if name in extra))
            total += file.metadata.num_rows
    if not layouts:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    told = {path for path, layout in layouts.items() if "decoder_input" in layout.roles}
    for path in layouts.keys() - told if told else ():
        offenders[path].append("column 'decoder_input' is missing, and other files have it")
    check_schemas(offenders)
    return layouts, total


def _inverted(layout: Layout) -> Layout:
    other = {"mask": "observed", "observed": "mask"}
    return replace(layout, roles={other.get(role, role): name for role, name in layout.roles.items()})


def _dense(numbers: Index) -> Index:
    """Renumber so that no number is left out."""
    return np.unique(numbers, return_inverse=True)[1].astype(np.intp)
