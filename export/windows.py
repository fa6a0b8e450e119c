"""Stream training windows from Parquet, with the very reader and validation that score them later."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from export.source import TrainingWindows, portions, trainable
from runner.batch import F64, GOOD, REASONS, WindowBatch, join
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, explain, listing
from runner.parts import Unit
from runner.reader import block_size, read_blocks
from runner.schema import Layout, Sizes, check_schemas, match
from runner.stop import Stop
from runner.validate import validate

POOL_BYTES = 64 << 20
"""How much is held at once to shuffle; independent of how much data there is."""

ROWS_TO_LOOK_AT = 1024


@dataclass(frozen=True, slots=True)
class WindowFiles:
    """A dataset whose every file fits one set of sizes.

    Attributes:
        flagged: the data says which context steps are there (`past_observed`).
        groups: file and row group, in order.
    """

    dataset: Dataset
    sizes: Sizes
    layouts: dict[str, Layout]
    flagged: bool
    groups: tuple[tuple[str, int], ...]
    signature: str
    stride: int = 1

    @property
    def place(self) -> str:
        """Return where the data is."""
        return self.dataset.root

    def blocks(self, groups: tuple[tuple[str, int], ...] | None = None) -> Iterator[WindowBatch]:
        """Yield windows in the order of the groups given (of the files), rejects and rows without target included."""
        for _, windows in self.read(groups):
            yield windows

    def read(self, groups: tuple[tuple[str, int], ...] | None = None) -> Iterator[tuple[pa.RecordBatch, WindowBatch]]:
        """Yield the rows as they were read beside the windows that they are."""
        for path, group in self.groups if groups is None else groups:
            unit, layout = Unit(path, (group, group), 0, 0, ""), self.layouts[path]
            with self.dataset.open(path) as file:
                for block in read_blocks(file, unit, layout, block_size(self.sizes), Stop()):
                    yield block, validate(block, layout, self.sizes, flags_past=self.flagged, teacher=True)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[WindowBatch]:
        """Yield good windows once each, in an order that depends on seed and epoch alone.

        Groups are drawn in random order into a pool of bounded size, which is shuffled and cut into batches.
        """
        rng = np.random.default_rng([seed, epoch])
        order = tuple(self.groups[index] for index in rng.permutation(len(self.groups)))
        pool: list[WindowBatch] = []
        rows = max(batch_size, POOL_BYTES // row_bytes(self.sizes))
        for block in self.blocks(order):
            pool.append(trainable(block))
            if sum(map(len, pool)) >= rows:
                mixed = _shuffle(pool, rng)
                whole = len(mixed) // batch_size * batch_size
                yield from portions(mixed.take(slice(0, whole)), batch_size)
                pool = [mixed.take(slice(whole, None))]
        yield from portions(_shuffle(pool, rng), batch_size)


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean, deviation and largest size of a target over the steps that count, in raw units."""

    location: float
    scale: float
    level: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one pass over the training data finds, in raw units.

    Attributes:
        windows: good windows with a target.
        without_target: good windows without one.
        rejects: windows left out because of bad cells, by reason.
        past_location, past_scale: by feature, over observed steps [F].
        future_location, future_scale: by feature [K].
        target_location, target_scale, target_level: mean, deviation and largest size over observed steps.
        excluded_share: share of the horizon's steps that the mask excludes.
        others: the same of further targets.
        static_location, static_scale: by static feature that is a number.
    """

    windows: int
    without_target: int
    rejects: dict[str, int]
    past_location: F64
    past_scale: F64
    future_location: F64
    future_scale: F64
    target_location: float
    target_scale: float
    target_level: float
    excluded_share: float
    others: tuple[Measured, ...] = ()
    static_location: F64 = field(default_factory=lambda: np.zeros(0))
    static_scale: F64 = field(default_factory=lambda: np.ones(0))

    @property
    def targets(self) -> tuple[Measured, ...]:
        """Return what was found of every target, in their order."""
        return (Measured(self.target_location, self.target_scale, self.target_level), *self.others)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations by feature; merged without losing digits [F]."""

    count: float
    mean: F64
    squares: F64

    def add(self, rows: F64) -> "Moments":
        """Merge observations [N, F]."""
        if not len(rows):
            return self
        mean = rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        count = self.count + len(rows)
        shift = mean - self.mean
        return Moments(
            count,
            self.mean + shift * (len(rows) / count),
            self.squares + squares + shift**2 * (self.count * len(rows) / count),
        )

    def scale(self) -> F64:
        """Return the deviations, 1 where a feature never changes."""
        deviation = np.sqrt(self.squares / max(self.count, 1))
        return np.where(deviation > 1e-12 * np.abs(self.mean), deviation, 1.0)  # less is what rounding leaves


def open_windows(
    text: str,
    feature_count: int | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    sizes: Sizes | None = None,
) -> WindowFiles:
    """Open a dataset for training or validation.

    Args:
        text: path or URI.
        feature_count: how many past features there are, where a flat `past` column cannot tell.
        columns: role -> column name, only where they differ.
        sizes: what the windows must have; None = as the first file has it.

    Raises:
        InputError: no files, unreadable files, or columns that do not fit; all are listed.
    """
    dataset = open_dataset(text)
    paths = dataset.paths()
    if not paths:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    sizes = sizes or infer_sizes(dataset, paths[0], feature_count, columns)
    layouts, offenders, groups, identities = {}, {}, [], []
    for path in paths:
        with dataset.open(path) as file:
            layouts[path], offenders[path] = match(file.schema_arrow, path, sizes, columns, teacher=True)
            groups += [(path, group) for group in range(file.metadata.num_row_groups)]
        identities.append(f"{path}:{dataset.sha256(path, Stop())}")
    check_schemas(offenders)
    flagged = {"past_observed" in layout.roles for layout in layouts.values()}
    if len(flagged) > 1:
        bare = [path for path, layout in layouts.items() if "past_observed" not in layout.roles]
        raise InputError(f"some files of {text} have past_observed, these do not:" + listing(bare))
    teaching = {path for path, layout in layouts.items() if "decoder_input" in layout.roles}
    if teaching and len(teaching) < len(layouts):
        raise InputError(
            f"some files of {text} have decoder_input, these do not:" + listing(sorted(layouts.keys() - teaching))
        )
    return WindowFiles(dataset, sizes, layouts, flagged.pop(), tuple(groups), "\n".join(identities))


def measure(windows: TrainingWindows) -> Statistics:
    """Fit location and scale in one pass, in float64.

    Raises:
        InputError: nothing is left to learn from.
    """
    sizes = windows.sizes
    numbers = len(sizes.numbers)
    past, future, static = (_no_moments(width) for width in (sizes.past, sizes.future, numbers))
    targets, levels = [_no_moments(1)] * sizes.targets, [0.0] * sizes.targets
    rejects: Counter[str] = Counter()
    good = bare = excluded = 0
    for block in windows.blocks():
        kept = trainable(block)
        rejects.update(REASONS[code] for code in block.reasons[block.reasons != GOOD])
        good, bare = good + len(kept), bare + len(block.good_rows()) - len(kept)
        past = past.add(kept.past[_there(kept)].astype(np.float64))
        if kept.future_known is not None:
            future = future.add(kept.future_known.reshape(-1, sizes.future).astype(np.float64))
        if kept.static is not None:
            static = static.add(kept.static[:, :numbers].astype(np.float64))
        if kept.target is not None and kept.observed is not None:
            excluded += int((~kept.observed).sum())
            for index in range(sizes.targets):
                own = slice(index, None, sizes.targets)
                values, counts = kept.target[:, own], kept.observed[:, own]
                targets[index] = targets[index].add(values[counts][:, None])
                levels[index] = max(levels[index], float(np.abs(values).max(initial=0.0)))
    bare += rejects.pop("target_missing", 0)  # a forecast without a truth to learn from, nothing wrong with it
    if not all(target.count for target in targets):
        got = f"{good} good windows, rejected: {told(rejects)}; {bare} without a target, no target that counts"
        remedy = "give windows with targets; docs/data-contract.md says what each reason means, and mask 1 = excluded"
        raise InputError(explain(f"there is nothing to learn from in {windows.place}", got=got, remedy=remedy))
    first, *others = (
        Measured(float(target.mean[0]), float(target.scale()[0]), level)
        for target, level in zip(targets, levels, strict=True)
    )
    return Statistics(
        windows=good,
        without_target=bare,
        rejects=dict(sorted(rejects.items())),
        past_location=past.mean,
        past_scale=past.scale(),
        future_location=future.mean,
        future_scale=future.scale(),
        target_location=first.location,
        target_scale=first.scale,
        target_level=first.level,
        excluded_share=excluded / (good * sizes.horizon * sizes.targets),
        others=tuple(others),
        static_location=static.mean,
        static_scale=static.scale(),
    )


def row_bytes(sizes: Sizes) -> int:
    """Return about how many bytes a window takes in memory."""
    horizon = sizes.horizon * (4 * sizes.future + 16 * sizes.targets)
    return 4 * sizes.context * (sizes.past + 1) + horizon + 4 * sizes.static_width


def infer_sizes(dataset: Dataset, path: str, feature_count: int | None, columns: Mapping[str, str]) -> Sizes:
    """Read C, H, F, K and M off the columns of one file: from the types, or from the first list that is not null.

    A flat `past` is one feature, unless `past_observed` or the number of features says otherwise. A flat `target` is
    one target.

    Raises:
        InputError: a needed column is missing, or no row tells the lengths.
    """
    schema, head = first_rows(dataset, path)
    names = {role: columns.get(role, role) for role in ("past", "past_observed", "future_known", "target")}
    absent = [
        f"column '{names[role]}' ({role}) is missing" for role in ("past", "target") if names[role] not in schema.names
    ]
    if absent:
        remedy = "map columns with --column ROLE=NAME"
        raise InputError(explain(f"{path} does not fit" + listing(absent), got=", ".join(schema.names), remedy=remedy))
    lengths = {role: lengths_of(schema, head, name) for role, name in names.items()}
    horizon, targets = (*lengths["target"], 1)[:2] if lengths["target"] else (0, 1)
    context, width = _past_sizes(lengths["past"], lengths["past_observed"], feature_count)
    if not (horizon and context and width and targets):
        remedy = "docs/data-contract.md has the layouts; past and target need a row that is not null near the top"
        raise InputError(explain(f"cannot tell the sizes of {path}", got=lengths, remedy=remedy))
    future = math.prod(lengths["future_known"]) // horizon if lengths["future_known"] else 0
    return Sizes(context, horizon, width, future, targets)


def told(rejects: Mapping[str, int]) -> str:
    """Say how many rows were rejected for which reason."""
    return ", ".join(f"{count:,} {reason}" for reason, count in rejects.items()) or "none"


def _past_sizes(past: list[int], flags: list[int], feature_count: int | None) -> tuple[int, int]:
    if len(past) != 1:
        return (past[0], past[1]) if len(past) == 2 else (0, 0)
    context = flags[0] if flags else past[0] // (feature_count or 1)
    return context, past[0] // context if context else 0


def first_rows(dataset: Dataset, path: str) -> tuple[pa.Schema, pa.RecordBatch | None]:
    """Return a file's schema, and its first rows if it has any."""
    with dataset.open(path) as file:
        return file.schema_arrow, next(file.iter_batches(ROWS_TO_LOOK_AT), None)


def lengths_of(schema: pa.Schema, head: pa.RecordBatch | None, name: str) -> list[int]:
    """Return the lengths of a list column's levels, outermost first; nothing where there is no such column."""
    if name not in schema.names:
        return []
    kind = schema.field(name).type
    if isinstance(kind, pa.FixedShapeTensorType):
        return list(kind.shape)
    given = head.column(name).drop_null() if head is not None else []
    value = given[0].as_py() if len(given) else None
    lengths = []
    while pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        lengths.append(kind.list_size if pt.is_fixed_size_list(kind) else len(value or ()))
        kind, value = kind.value_type, value[0] if value else None
    return lengths


def _there(batch: WindowBatch) -> np.ndarray:
    shape = batch.past.shape[:2]
    return np.ones(shape, bool) if batch.past_observed is None else batch.past_observed == 1


def _no_moments(width: int) -> Moments:
    return Moments(0.0, np.zeros(width), np.zeros(width))


def _shuffle(pool: list[WindowBatch], rng: np.random.Generator) -> WindowBatch:
    mixed = join(pool)
    return mixed.take(rng.permutation(len(mixed)))
