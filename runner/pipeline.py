"""The only module that knows the order of the stages: plan, read, validate, decode, score, write, report."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from runner import __version__
from runner.batch import F32, GOOD, REASONS, WindowBatch
from runner.config import Job
from runner.dataset import Dataset
from runner.errors import InputError, explain
from runner.forecaster import Forecast, Forecaster
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
from runner.writer import copied_schema, open_part

BLOCKS_AHEAD = 2
"""Blocks that are read and decoded while an earlier one is scored and written."""

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

    def score_unit(self, unit: Unit) -> Part:
        """Read, forecast, score and write one unit; its part is visible, whole and synced on return.

        Raises:
            InputError: the input is damaged, no row of it fits the bundle, or it was replaced meanwhile.
            OutputError: the part cannot be written.
        """
        manifest, layout, tally = self.forecaster.manifest, self.layouts[unit.path], Tally()
        with self.dataset.open(unit.path) as file:
            copied = copied_schema(file.schema_arrow, layout.copied)
        with open_part(self.out, unit.part_path, copied, manifest.bundle_id) as writer:
            for block, windows, prediction in self._forecasts(unit, layout):
                tally.add(windows, score_block(windows, prediction, manifest.target.feature, manifest.season_length))
                with self.clock.time("write"):
                    writer.add(block, prediction, windows.reasons)
                self.progress(len(windows))
            part = self._part(unit, layout, tally)
            if part.scored + sum(part.rejects.values()) != unit.rows:
                raise AssertionError(f"{unit.path}: {unit.rows} rows went in, {part.scored} scored, {part.rejects}")
            self._refuse_misfits(part)
            self._refuse_replaced(unit)
            self.stop.check()
            with self.clock.time("write"):
                writer.finish(part)
        return part

    def _forecasts(self, unit: Unit, layout: Layout) -> Iterator[tuple[pa.RecordBatch, WindowBatch, F32]]:
        """Yield blocks with their forecasts, in order; the next blocks are read and decoded meanwhile."""
        blocks = read_blocks(self.dataset, unit, layout, block_rows(sizes_of(self.forecaster.manifest)), self.stop)
        ahead: deque[tuple[pa.RecordBatch, WindowBatch, Forecast]] = deque()
        try:
            while (block := self._next(blocks)) is not None:
                windows = self._validate(block, layout)
                ahead.append((block, windows, self.forecaster.submit(windows, teacher=self._teacher)))
                if len(ahead) > BLOCKS_AHEAD:
                    yield self._collect(*ahead.popleft())
            while ahead:
                yield self._collect(*ahead.popleft())
        finally:
            for _, _, forecast in ahead:
                forecast.cancel()

    def _collect(
        self, block: pa.RecordBatch, windows: WindowBatch, forecast: Forecast
    ) -> tuple[pa.RecordBatch, WindowBatch, F32]:
        prediction, seconds = forecast.result()
        self.clock.add("decode", seconds)
        overflowed = ~np.isfinite(prediction).all(axis=1)
        return block, windows.rejecting(overflowed, "prediction_not_finite"), prediction

    @property
    def _teacher(self) -> bool:
        return self.job.mode == "teacher-forced"

    def _next(self, blocks: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        self.stop.check()
        with self.clock.time("read"):
            return next(blocks, None)

    def _validate(self, block: pa.RecordBatch, layout: Layout) -> WindowBatch:
        manifest = self.forecaster.manifest
        with self.clock.time("read"):
            return validate(block, layout, sizes_of(manifest), flags_past=manifest.past_observed, teacher=self._teacher)

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
