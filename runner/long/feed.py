"""Series as the pipeline's input: whole files of time steps, cut into windows block by block."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import join
from runner.clock import Clock
from runner.config import Job
from runner.dataset import Dataset
from runner.feed import Block
from runner.freq import parse_freq
from runner.long.cut import Cutter
from runner.long.files import match_files, naming
from runner.long.layout import LongLayout
from runner.long.origins import Origins, latest, roll_of, rolling
from runner.long.panel import Panel, read_panels
from runner.long.rows import StepForm, keys_of, window_form
from runner.long.sort import Sorter, sort_megabytes
from runner.long.text import few_words, refuse_claims
from runner.manifest import Manifest
from runner.parts import Part, Unit
from runner.reader import block_size, read_steps
from runner.schema import sizes_of
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.writer import Form


@dataclass(frozen=True, slots=True)
class LongFeed:
    """Input of which a row is a time step.

    Attributes:
        layouts: where the roles are, by input file.
        sorter: puts rows in order; None = they are.
    """

    dataset: Dataset
    manifest: Manifest
    layouts: Mapping[str, LongLayout]
    job: Job
    clock: Clock
    stop: Stop
    sorter: Sorter | None

    def form(self, unit: Unit, file: pq.ParquetFile) -> Form:  # noqa: ARG002
        """Return the form that the job asks for."""
        layout, bundle_id, fallback = self.layouts[unit.path], self.manifest.bundle_id, self.job.fallback
        if self.job.output_layout == "windows":
            return window_form(layout, bundle_id, fallback)
        return StepForm(layout, bundle_id, fallback, self.manifest.horizon)

    def blocks(self, unit: Unit, file: pq.ParquetFile) -> Iterator[Block]:
        """Yield the windows of all series, in full blocks, whatever the file's row groups are."""
        return self.clock.timing("read", regroup(self._cut(unit, file), block_size(sizes_of(self.manifest)).rows))

    def dictionaries(self, unit: Unit) -> list[str]:
        """Return the columns of text whose words are few."""
        with self.dataset.open(unit.path) as file:
            return few_words(file.metadata, self.layouts[unit.path].words)

    def casts(self, unit: Unit) -> tuple[str, ...]:
        """Return the columns that become float32."""
        return self.layouts[unit.path].casts

    def check(self, part: Part) -> None:
        """Promise nothing: how many windows a file holds is only known once they are cut."""

    def _cut(self, unit: Unit, file: pq.ParquetFile) -> Iterator[Block]:
        layout, rows_read = self.layouts[unit.path], 0
        known, teacher = self.job.window == "rolling", self.job.mode == "teacher-forced"
        cutter = Cutter(self.manifest, layout.grid, known, self.job.fallback is not None, teacher)
        with naming(unit.path):
            for panel in self._panels(unit, file, layout):
                rows_read += len(panel.ordinal)
                for origins in self._origins(panel, layout):
                    self._refuse_late(panel, origins, layout)
                    yield Block(keys_of(panel, origins, layout.grid), cutter.cut(panel, origins), rows_read)
                    rows_read = 0

    def _refuse_late(self, panel: Panel, origins: Origins, layout: LongLayout) -> None:
        """Refuse forecasts that reach beyond what the type of `ds` holds, here where the file is known."""
        layout.grid.times(origins.step + self.manifest.horizon, panel.phase[origins.series])

    def _panels(self, unit: Unit, file: pq.ParquetFile, layout: LongLayout) -> Iterator[Panel]:
        refuse_claims(file.metadata, layout.words)
        pieces = read_steps(file, unit, layout.columns, self.stop)
        if self.sorter:
            pieces = self.sorter.sort(pieces, layout.unique_id, layout.ds)
        return read_panels(pieces, layout, self.manifest)

    def _origins(self, panel: Panel, layout: LongLayout) -> Iterator[Origins]:
        context, horizon, padded = self.manifest.context_length, self.manifest.horizon, self.manifest.past_observed
        most = block_size(sizes_of(self.manifest)).rows
        if self.job.window == "latest":
            yield from latest(panel, context, padded=padded).portions(most)
        else:
            roll = roll_of(self.job.stride, self.job.origin_from, self.job.origin_to, layout.grid)
            yield from rolling(panel, context, horizon, roll, most, padded=padded)


def long_feed(
    dataset: Dataset, paths: set[str], manifest: Manifest, job: Job, clock: Clock, stop: Stop, out: OutputFolder
) -> LongFeed:
    """Check the schemas of files of time steps; `out` is where they are sorted.

    Raises:
        InputError: some do not fit; everything wrong with any of them is listed.
        UsageError: the time grid, or a bound of it, is none.
    """
    freq = parse_freq(job.freq or manifest.freq or "")
    layouts = match_files(dataset, sorted(paths), manifest, job.columns, freq)
    for layout in layouts.values():
        roll_of(job.stride, job.origin_from, job.origin_to, layout.grid)
    sorter = Sorter(out, stop, sort_megabytes(job.max_memory)) if job.sort else None
    return LongFeed(dataset, manifest, layouts, job, clock, stop, sorter)


def regroup(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    """Regroup windows so that all blocks have exactly so many; fewer at the end."""
    pending: list[Block] = []
    held = 0
    for block in blocks:
        pending.append(block)
        held += len(block.windows)
        while held >= rows:
            whole = _joined(pending)
            rest = whole.windows.take(slice(rows, None))
            yield Block(whole.keys.slice(0, rows), whole.windows.take(slice(0, rows)), whole.rows_read)
            pending, held = [Block(whole.keys.slice(rows), rest, 0)], held - rows
    if held or sum(block.rows_read for block in pending):
        yield _joined(pending)


def _joined(blocks: list[Block]) -> Block:
    (keys,) = pa.Table.from_batches([block.keys for block in blocks]).combine_chunks().to_batches()
    return Block(keys, join([block.windows for block in blocks]), sum(block.rows_read for block in blocks))
