"""The only module that knows the order of the stages: plan, read, validate, decode, score, write, report."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np

from runner import __version__
from runner.batch import GOOD, REASONS, WindowBatch
from runner.batches import Forecast
from runner.clock import Clock
from runner.config import Job
from runner.dataset import Dataset
from runner.device import parse_device
from runner.engines.local import read_ahead
from runner.errors import InputError, explain
from runner.fallback import fill
from runner.feed import Block, Feed
from runner.forecaster import Forecaster
from runner.parts import Part, Unit, maker_of
from runner.plan import Source
from runner.score import score_block
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.totals import Score
from runner.writer import Form, PartWriter, open_part

ITEMS_READ_AHEAD = 3
"""Blocks that are read and validated before they are asked for."""
COMMITS_AHEAD = 4
"""Parts that are synced side by side."""
ITEMS_AHEAD = 1024
"""Blocks, beginnings and ends of units that may wait for the writer: a bound where files are tiny."""
BYTES_AHEAD = 32 << 20
"""What the blocks may take that wait for the writer: a bound where rows are long."""

Progress = Callable[[int], None]
"""Told the number of rows that were just finished."""


class ReplacedError(InputError):
    """The input file changed while it was read; nothing of it was written."""


@dataclass(slots=True)
class Tally:
    """What has been added up of a unit so far."""

    scored: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    score: Score | None = None
    filled: int = 0

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
    form: Form


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more of this unit comes; `error` says why where that is too early."""

    unit: Unit
    error: InputError | None


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A block whose forecast is in the making."""

    block: Block
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Turns units into parts.

    Attributes:
        feed: how units become windows, and forecasts rows.
        sources: the identities that the plan was made of.
        progress: told of rows as they are written.
        made: takes each part, by its path, as soon as it is visible.
    """

    job: Job
    dataset: Dataset
    sources: dict[str, Source]
    feed: Feed
    out: OutputFolder
    forecaster: Forecaster
    stop: Stop
    clock: Clock
    progress: Progress
    made: dict[str, Part]

    def score_units(self, units: Iterable[Unit]) -> Iterator[InputError]:
        """Read, forecast, score and write units; blocks flow in order, across the borders of units.

        What was made of them is in `made`, visible, whole and synced, when this ends.

        Yields:
            What stands in the way of a unit, and of that one alone: damaged input, no row that fits the bundle, or a
            file that was replaced meanwhile.

        Raises:
            OutputError: a part cannot be written.
        """
        pending: deque[Future[None]] = deque()
        with (
            ThreadPoolExecutor(COMMITS_AHEAD, thread_name_prefix="commit") as commits,
            closing(read_ahead(self._read(units), ITEMS_READ_AHEAD)) as items,
            closing(self._decode(items)) as stream,
        ):
            for entry in stream:
                try:
                    if isinstance(entry, _Begin):
                        pending.append(self._write(entry, stream, commits))
                    elif isinstance(entry, _End) and entry.error:
                        raise entry.error
                except InputError as error:
                    yield error
                while len(pending) > COMMITS_AHEAD:
                    pending.popleft().result()
            for commit in pending:
                commit.result()

    def _read(self, units: Iterable[Unit]) -> Generator[_Begin | Block | _End, None, None]:
        """Read and validate; an error of one unit is its end."""
        for unit in units:
            error = None
            try:
                with self.dataset.open(unit.path, self.feed.dictionaries(unit)) as file:
                    self._refuse_replaced(unit)  # after opening: what is read from here on is what was planned
                    yield _Begin(unit, self.feed.form(unit, file))
                    yield from self.feed.blocks(unit, file)
            except InputError as found:
                error = found
            yield _End(unit, error)

    def _decode(self, items: Iterable[_Begin | Block | _End]) -> Generator[_Begin | _Decoding | _End, None, None]:
        """Let the threads decode while earlier blocks are scored and written, and no further ahead than that needs."""
        queue = self.forecaster.queue(teacher=self.job.mode == "teacher-forced", check=self.stop.check)
        ahead: deque[_Begin | _Decoding | _End] = deque()
        rows = held = 0
        for item in items:
            self.stop.check()
            ahead.append(_Decoding(item, queue.add(item.windows)) if isinstance(item, Block) else item)
            rows, held = rows + _size(ahead[-1])[0], held + _size(ahead[-1])[1]
            while self._enough(ahead, rows, held):
                entry = ahead.popleft()
                rows, held = rows - _size(entry)[0], held - _size(entry)[1]
                yield entry
        yield from ahead

    def _enough(self, ahead: deque[_Begin | _Decoding | _End], rows: int, held: int) -> bool:
        """Say whether the first that waits should be written before more is read."""
        if not ahead:
            return False
        plenty = rows - _size(ahead[0])[0] >= self.forecaster.rows_ahead
        return plenty or len(ahead) > ITEMS_AHEAD or held > BYTES_AHEAD

    def _write(self, begin: _Begin, stream: Iterator[_Begin | _Decoding | _End], commits: Executor) -> Future[None]:
        """Score and write the blocks up to the unit's end; a thread then makes the part visible."""
        tally = Tally()
        with ExitStack() as stack:
            writer = stack.enter_context(open_part(self.out, begin.unit.part_path, begin.form))
            for entry in stream:
                if isinstance(entry, _Decoding):
                    self._add(entry, tally, writer)
                elif isinstance(entry, _End):
                    if entry.error:
                        raise entry.error
                    break
            part = self._finish(begin.unit, tally, writer)
            return commits.submit(self._commit, part, stack.pop_all())

    def _commit(self, part: Part, unclosed: ExitStack) -> None:
        """Sync and rename what has been written: threads wait for the disk, which small files do little else than."""
        with self.clock.time("write"):
            unclosed.close()
        self.made[part.unit.part_path] = part

    def _add(self, entry: _Decoding, tally: Tally, writer: PartWriter) -> None:
        manifest, block = self.forecaster.manifest, entry.block
        prediction, seconds = entry.forecast.result()
        self.stop.check()
        self.clock.add("decode", seconds)
        with self.clock.time("write"):
            windows = block.windows.rejecting(~np.isfinite(prediction).all(axis=1), "prediction_not_finite")
            tally.add(windows, score_block(windows, prediction, manifest.target_features, manifest.season_length))
            filled = np.zeros(len(windows), bool)
            if fallback := self.job.fallback:
                target, season = manifest.target_features, manifest.season_length
                prediction, filled = fill(windows, prediction, fallback, target, season)
            tally.filled += int(filled.sum())
            writer.add(block.keys, prediction, windows.reasons, filled)
        self.progress(block.rows_read)

    def _finish(self, unit: Unit, tally: Tally, writer: PartWriter) -> Part:
        self._refuse_replaced(unit)
        part = self._part(unit, tally, writer)
        self.feed.check(part)
        self.stop.check()
        with self.clock.time("write"):
            writer.finish(part)
        return part

    def _part(self, unit: Unit, tally: Tally, writer: PartWriter) -> Part:
        return Part(
            unit=unit,
            bundle_id=self.forecaster.manifest.bundle_id,
            options=self.job.numbers_digest(),
            mode=self.job.mode,
            device=str(parse_device(self.job.device)),
            version=__version__,
            maker=maker_of(self.forecaster.manifest, self.job.mode, self.job.precision),
            columns=dict(sorted(self.job.columns.items())),
            scored=tally.scored,
            rejects=dict(sorted(tally.rejects.items())),
            score=tally.score,
            filled=tally.filled,
            layout=self.job.layout,
            rows_a_window=writer.form.rows_a_window,
            casts=self.feed.casts(unit),
        )

    def _refuse_replaced(self, unit: Unit) -> None:
        if self.dataset.identity(unit.path) != self.sources[unit.path].identity:
            raise ReplacedError(
                explain(f"{unit.path} was replaced while it was read", remedy="run again when it is at rest")
            )


def _size(entry: _Begin | _Decoding | _End) -> tuple[int, int]:
    """Return the rows of what waits, and the bytes of its columns."""
    return (len(entry.block.windows), entry.block.keys.nbytes) if isinstance(entry, _Decoding) else (0, 0)
