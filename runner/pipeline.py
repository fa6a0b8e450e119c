"""The only module that knows the order of the stages: plan, read, validate, decode, score, write, report."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa

from runner import __version__
from runner.batch import GOOD, REASONS, WindowBatch
from runner.batches import Forecast
from runner.config import Job
from runner.dataset import Dataset
from runner.engines.local import read_ahead
from runner.errors import InputError, explain
from runner.forecaster import Forecaster
from runner.manifest import Manifest
from runner.parts import Part, Unit
from runner.plan import Source
from runner.reader import block_rows, read_blocks
from runner.schema import Layout, check_schemas, match, sizes_of
from runner.score import score_block
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.totals import Score
from runner.validate import validate
from runner.writer import PartWriter, copied_schema, open_part

ITEMS_READ_AHEAD = 3
"""Blocks that are read and validated before they are asked for."""
ITEMS_AHEAD = 1024
"""Blocks, beginnings and ends of units that may wait for the writer: a bound where files are tiny."""

Item = TypeVar("Item")
Progress = Callable[[int], None]
"""Told the number of rows that were just finished."""


class ReplacedError(InputError):
    """The input file changed while it was read; nothing of it was written."""


@dataclass(slots=True)
class Clock:
    """Seconds spent by stage."""

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def timing(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; making them is the stage's time, what is done with them is not."""
        iterator = iter(items)
        while True:
            with self.time(stage):
                found = list(islice(iterator, 1))
            if not found:
                return
            yield found[0]

    def add(self, stage: str, seconds: float) -> None:
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds


@dataclass(slots=True)
class Tally:
    """What has been added up of a unit so far."""

    scored: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    score: Score | None = None

    def add(self, windows: WindowBatch, score: Score | None) -> None:
        counts = np.bincount(windows.reasons, minlength=len(REASONS))
        self.scored += int(counts[GOOD])
        self.rejects.update({REASONS[code]: int(counts[code]) for code in range(1, len(REASONS)) if counts[code]})
        if score:
            self.score = score if self.score is None else self.score + score


@dataclass(frozen=True, slots=True)
class _Begin:
    """The unit could be opened; its blocks follow, then its end."""

    unit: Unit
    copied: pa.Schema


@dataclass(frozen=True, slots=True)
class _Block:
    rows: pa.RecordBatch
    windows: WindowBatch


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more of this unit comes; `error` says why where that is too early."""

    unit: Unit
    error: InputError | None


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A block whose forecast is in the making."""

    block: _Block
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Turns units into parts.

    Attributes:
        layouts: where the roles are, by input file.
        sources: the identities that the plan was made of.
    """

    job: Job
    dataset: Dataset
    sources: dict[str, Source]
    layouts: dict[str, Layout]
    out: OutputFolder
    forecaster: Forecaster
    stop: Stop
    clock: Clock
    progress: Progress

    def score_units(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Part | InputError]]:
        """Read, forecast, score and write units; blocks flow in order, across the borders of units.

        Yields:
            Each unit in the order given, with its part, visible, whole and synced; or with the error that stands in its
            way alone: damaged input, no row that fits the bundle, or a file that was replaced meanwhile.

        Raises:
            OutputError: a part cannot be written.
        """
        with closing(read_ahead(self._read(units), ITEMS_READ_AHEAD)) as items, closing(self._decode(items)) as stream:
            for entry in stream:
                if isinstance(entry, _Begin):
                    yield entry.unit, self._write(entry, stream)
                elif isinstance(entry, _End) and entry.error:
                    yield entry.unit, entry.error

    def _read(self, units: Iterable[Unit]) -> Generator[_Begin | _Block | _End, None, None]:
        """Read and validate; an error of one unit is its end."""
        rows = block_rows(sizes_of(self.forecaster.manifest))
        for unit in units:
            layout, error = self.layouts[unit.path], None
            try:
                with self.dataset.open(unit.path) as file:
                    yield _Begin(unit, copied_schema(file.schema_arrow, layout.copied))
                    for block in self.clock.timing("read", read_blocks(file, unit, layout, rows, self.stop)):
                        yield _Block(block, self._validate(block, layout))
            except InputError as found:
                error = found
            yield _End(unit, error)

    def _decode(self, items: Iterable[_Begin | _Block | _End]) -> Generator[_Begin | _Decoding | _End, None, None]:
        """Let the threads decode while earlier blocks are scored and written, and no further ahead than that needs."""
        queue = self.forecaster.queue(teacher=self.job.mode == "teacher-forced")
        ahead: deque[tuple[int, _Begin | _Decoding | _End]] = deque()
        rows, enough = 0, self.forecaster.rows_ahead
        for item in items:
            self.stop.check()
            size = len(item.windows) if isinstance(item, _Block) else 0
            ahead.append((size, _Decoding(item, queue.add(item.windows)) if isinstance(item, _Block) else item))
            rows += size
            while ahead and (rows - ahead[0][0] >= enough or len(ahead) > ITEMS_AHEAD):
                size, entry = ahead.popleft()
                rows -= size
                yield entry
        yield from (entry for _, entry in ahead)

    def _write(self, begin: _Begin, stream: Iterator[_Begin | _Decoding | _End]) -> Part | InputError:
        """Score and write the blocks up to the unit's end."""
        tally, bundle_id = Tally(), self.forecaster.manifest.bundle_id
        try:
            with open_part(self.out, begin.unit.part_path, begin.copied, bundle_id) as writer:
                for entry in stream:
                    if isinstance(entry, _Decoding):
                        self._add(entry, tally, writer)
                    elif isinstance(entry, _End):
                        if entry.error:
                            raise entry.error
                        break
                return self._commit(begin.unit, tally, writer)
        except InputError as error:
            return error

    def _add(self, entry: _Decoding, tally: Tally, writer: PartWriter) -> None:
        manifest, block = self.forecaster.manifest, entry.block
        prediction, seconds = entry.forecast.result()
        self.stop.check()
        self.clock.add("decode", seconds)
        with self.clock.time("write"):
            windows = block.windows.rejecting(~np.isfinite(prediction).all(axis=1), "prediction_not_finite")
            tally.add(windows, score_block(windows, prediction, manifest.target.feature, manifest.season_length))
            writer.add(block.rows, prediction, windows.reasons)
        self.progress(len(windows))

    def _commit(self, unit: Unit, tally: Tally, writer: PartWriter) -> Part:
        part = self._part(unit, self.layouts[unit.path], tally)
        if part.scored + sum(part.rejects.values()) != unit.rows:
            raise AssertionError(f"{unit.path}: {unit.rows} rows went in, {part.scored} scored, {part.rejects}")
        self._refuse_misfits(part)
        self._refuse_replaced(unit)
        self.stop.check()
        with self.clock.time("write"):
            writer.finish(part)
        return part

    def _validate(self, block: pa.RecordBatch, layout: Layout) -> WindowBatch:
        manifest, teacher = self.forecaster.manifest, self.job.mode == "teacher-forced"
        with self.clock.time("read"):
            return validate(block, layout, sizes_of(manifest), flags_past=manifest.past_observed, teacher=teacher)

    def _part(self, unit: Unit, layout: Layout, tally: Tally) -> Part:
        return Part(
            unit=unit,
            bundle_id=self.forecaster.manifest.bundle_id,
            options=self.job.numbers_digest(),
            mode=self.job.mode,
            device=self.job.device,
            version=__version__,
            scored=tally.scored,
            rejects=dict(sorted(tally.rejects.items())),
            score=tally.score,
            casts=layout.casts,
        )

    def _refuse_misfits(self, part: Part) -> None:
        misfits = {reason: count for reason, count in part.rejects.items() if reason.endswith("_shape")}
        if not part.scored and misfits and sum(misfits.values()) == sum(part.rejects.values()):
            raise InputError(
                explain(
                    f"no row of {part.unit.path} fits the bundle",
                    got=misfits,
                    expected=expected_shapes(self.forecaster.manifest),
                    remedy="score it with the bundle it was made for, or map the columns with --column",
                )
            )

    def _refuse_replaced(self, unit: Unit) -> None:
        if self.dataset.identity(unit.path) != self.sources[unit.path].identity:
            raise ReplacedError(
                explain(f"{unit.path} was replaced while it was read", remedy="run again when it is at rest")
            )


def expected_shapes(manifest: Manifest) -> str:
    """Say which lengths a bundle needs."""
    sizes = sizes_of(manifest)
    future = f", future_known [{sizes.horizon}, {sizes.future}]" if sizes.future else ""
    return f"past [{sizes.context}, {sizes.past}]{future}, target and mask [{sizes.horizon}]"


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
