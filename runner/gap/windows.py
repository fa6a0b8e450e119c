"""Read windows that a loss can be computed on into memory, with the columns that only an explanation looks at."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from runner.batch import F32, Index, WindowBatch, join
from runner.columns import read_cells, type_problem
from runner.config import EXPLAINING_ROLES
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, explain
from runner.gap.intervals import block_length, block_of
from runner.parts import Unit
from runner.reader import block_size, read_blocks
from runner.schema import OUTPUT_COLUMNS, Layout, Sizes, check_schemas, match
from runner.stop import Stop
from runner.validate import validate

MOST_BYTES = 1 << 29
"""Held in memory at most; of larger data, every k-th block of windows is taken."""
EXTRA_ROLES = (*EXPLAINING_ROLES, "prediction")
"""prediction: what somebody forecast, NaN or null where there is nothing [H]; read only where its column is named."""


@dataclass(frozen=True, slots=True)
class LossWindows:
    """Good windows with a target, in the order of the data.

    Attributes:
        batch: nothing in it is a reject [N, ...].
        position: the row that each window was in the whole dataset [N].
        block: number of the block of neighbours, or of the series, that it belongs to: 0, 1, ... with no gap [N].
        whole_series: the blocks are series.
        optimal: the known best forecast, where the data has it [N, H].
        total: rows of the dataset, rejects and those not taken included.
        rejected: rows left out because of bad cells.
        taken_every: 1 = every block of windows was taken, k = every k-th.
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
    extra = {role: columns.get(role, role) for role in EXTRA_ROLES if role in columns or role != "prediction"}
    every = max(1, -(-total * row_bytes(sizes) // most_bytes))
    blocks = block_of(total, block_length(sizes.context, sizes.horizon))
    pieces: list[_Piece] = []
    first = rejected = 0
    for path, layout in layouts.items():
        with dataset.open(path) as file:
            for block in read_blocks(file, Unit(path, None, 0, 0, ""), layout, block_size(sizes), stop):
                windows = validate(block, layout, sizes, flags_past=flagged, teacher=True)
                rows = windows.good_rows()
                rejected += len(windows) - len(rows)
                rows = rows[windows.has_target[rows] & (blocks[first + rows] % every == 0)]
                pieces.append(_piece(block, windows, rows, first, extra, sizes))
                first += len(windows)
    windows, position, series, optimal = _joined(pieces, text, total, rejected)
    block = _dense(blocks[position]) if series is None else _dense(series)
    read = LossWindows(windows, position, block, series is not None, optimal, total, rejected, every)
    return replace(read, prediction=_predictions(pieces))


def digest_of(batches: Iterable[WindowBatch]) -> str:
    """Return what tells whether two readings are of the same windows: a digest of their contexts, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(np.ascontiguousarray(batch.past).tobytes())
    return digest.hexdigest()


def row_bytes(sizes: Sizes) -> int:
    """Return about how many bytes a window takes in memory."""
    return 4 * sizes.context * (sizes.past + 1) + sizes.horizon * (4 * sizes.future + 20)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is kept of a block that was read."""

    batch: WindowBatch
    position: Index
    series: list[object] | None
    optimal: F32 | None
    prediction: F32 | None


def _layouts(dataset: Dataset, text: str, sizes: Sizes, columns: Mapping[str, str]) -> tuple[dict[str, Layout], int]:
    """Return where the roles of each file are, and how many rows all files have."""
    mapped = {role: name for role, name in columns.items() if role not in EXTRA_ROLES}
    extra = [columns.get(role, role) for role in EXTRA_ROLES]
    layouts, offenders, total = {}, {}, 0
    for path in dataset.paths():
        with dataset.open(path) as file:
            schema = file.schema_arrow
            inputs = pa.schema([field for field in schema if field.name not in OUTPUT_COLUMNS])  # nothing is written
            layout, offenders[path] = match(inputs, path, sizes, mapped, teacher=True)
            offenders[path] += _extra_problems(schema, columns, sizes)
            layouts[path] = replace(layout, copied=tuple(name for name in schema.names if name in extra))
            total += file.metadata.num_rows
    if not layouts:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    check_schemas(offenders)
    return layouts, total


def _inverted(layout: Layout) -> Layout:
    other = {"mask": "observed", "observed": "mask"}
    return replace(layout, roles={other.get(role, role): name for role, name in layout.roles.items()})


def _extra_problems(schema: pa.Schema, columns: Mapping[str, str], sizes: Sizes) -> list[str]:
    absent = [columns[role] for role in EXTRA_ROLES if role in columns and columns[role] not in schema.names]
    problems = [f"column '{name}' is missing (columns: {', '.join(schema.names)})" for name in absent]
    name = columns.get("optimal", "optimal")
    if name in schema.names:
        found = type_problem(schema.field(name).type, sizes.shape("target"), flags=False)
        problems += [f"column '{name}' (optimal): {found}"] if found else []
    name = columns.get("prediction", "")
    if schema.names.count(name) == 1:
        found = type_problem(schema.field(name).type, sizes.shape("target"), flags=False)
        problems += [f"column '{name}' (prediction): {found}"] if found else []
    return problems


def _piece(
    block: pa.RecordBatch, windows: WindowBatch, rows: Index, first: int, extra: Mapping[str, str], sizes: Sizes
) -> _Piece:
    series = optimal = None
    if extra["series"] in block.schema.names:
        series = block.column(extra["series"]).take(pa.array(rows)).to_pylist()
    if extra["optimal"] in block.schema.names:
        optimal = read_cells(block.column(extra["optimal"]), sizes.shape("target")).values[rows].astype(np.float32)
    return _Piece(
        windows.take(rows), first + rows, series, optimal, _prediction(block, rows, extra.get("prediction"), sizes)
    )


def _prediction(block: pa.RecordBatch, rows: Index, name: str | None, sizes: Sizes) -> F32 | None:
    if name is None:
        return None
    cells = read_cells(block.column(name), sizes.shape("target"))
    return np.where((cells.absent | cells.misfit)[:, None], np.nan, cells.values)[rows].astype(np.float32)


def _predictions(pieces: list[_Piece]) -> F32 | None:
    found = [piece.prediction for piece in pieces if piece.prediction is not None]
    return np.concatenate(found) if len(found) == len(pieces) else None


def _joined(
    pieces: list[_Piece], text: str, total: int, rejected: int
) -> tuple[WindowBatch, Index, Index | None, F32 | None]:
    kept = [piece for piece in pieces if len(piece.batch)]
    if not kept:
        got = f"{total} rows, {rejected} rejected, the others without a target"
        raise InputError(explain(f"{text} has no good window with a target", got=got))
    optimal, series = None, None
    if all(piece.optimal is not None for piece in kept):
        optimal = np.concatenate([piece.optimal for piece in kept if piece.optimal is not None])
        if not np.isfinite(optimal).all():
            raise InputError(explain(f"the optimal forecasts in {text} are not all finite", expected="H numbers a row"))
    if all(piece.series is not None for piece in kept):
        names = [name for piece in kept for name in piece.series or ()]
        numbers = {name: index for index, name in enumerate(dict.fromkeys(names))}
        series = np.array([numbers[name] for name in names], np.intp)
    batch = join([piece.batch for piece in kept])
    return batch, np.concatenate([piece.position for piece in kept]), series, optimal


def _dense(numbers: Index) -> Index:
    """Renumber so that no number is left out."""
    return np.unique(numbers, return_inverse=True)[1].astype(np.intp)
