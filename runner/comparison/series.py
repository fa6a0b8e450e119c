"""Windows of a comparison that are cut from series: the same origins for both bundles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.comparison.source import NAMES, PairedBlock, by_contender
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, UsageError, explain
from runner.freq import parse_freq
from runner.long.cut import Cutter
from runner.long.files import opened
from runner.long.layout import LongLayout, match_long
from runner.long.origins import Origins, Roll, roll_of, rolling
from runner.long.panel import Panel, read_panel
from runner.long.series import Seen, whole_series
from runner.manifest import Manifest
from runner.parts import Unit
from runner.reader import block_size, read_steps
from runner.schema import check_schemas, sizes_of
from runner.stop import Stop


@dataclass(frozen=True, slots=True)
class Cutting:
    """How windows roll over the series of a comparison, as the command line says it."""

    stride: int = 1
    origin_from: str | None = None
    origin_to: str | None = None
    freq: str | None = None

    def roll(self, layout: LongLayout) -> Roll:
        """Return it on a file's time grid.

        Raises:
            UsageError: a bound is no time of the data, or they are the wrong way round.
        """
        return roll_of(self.stride, self.origin_from, self.origin_to, layout.grid)


@dataclass(frozen=True, slots=True)
class SeriesLayout:
    """A dataset of which a row is a time step.

    Attributes:
        dataset: where it is.
        manifests: of the old bundle and the new one.
        layouts: where the roles are for each of them, by file.
        cutting: which windows.
        total: windows of all files.
    """

    dataset: Dataset
    manifests: tuple[Manifest, Manifest]
    layouts: Mapping[str, tuple[LongLayout, LongLayout]]
    cutting: Cutting
    total: int = 0

    def blocks(self, stop: Stop) -> Iterator[PairedBlock]:
        """Yield the windows series by series, in the order of their origins.

        Raises:
            InputError: a file is damaged, or its series do not stand together.
        """
        first = 0
        for path, layouts in self.layouts.items():
            old, new = (
                Cutter(m, layout.grid, with_target=True) for m, layout in zip(self.manifests, layouts, strict=True)
            )
            for panels in self._panels(path, layouts, stop):
                for origins in self._origins(panels[0], layouts[0]):
                    names = panels[0].names.take(origins.series).to_pylist()
                    batches = old.cut(panels[0], origins), new.cut(panels[1], origins)
                    yield PairedBlock(batches, first, [str(name) for name in names])
                    first += len(names)

    def count(self, stop: Stop) -> int:
        """Count the windows."""
        return sum(
            len(origins.step)
            for path, layouts in self.layouts.items()
            for panels in self._panels(path, layouts, stop)
            for origins in self._origins(panels[0], layouts[0])
        )

    def _origins(self, panel: Panel, layout: LongLayout) -> Iterator[Origins]:
        context = max(manifest.context_length for manifest in self.manifests)
        padded = all(manifest.past_observed for manifest in self.manifests)
        most = min(block_size(sizes_of(manifest)).rows for manifest in self.manifests)
        roll = self.cutting.roll(layout)
        return rolling(panel, context, self.manifests[0].horizon, roll, most, padded=padded)

    def _panels(self, path: str, layouts: tuple[LongLayout, LongLayout], stop: Stop) -> Iterator[tuple[Panel, Panel]]:
        """Read the series of a file as either bundle sees them."""
        (old, new), seen = layouts, Seen()
        words, columns = ([*dict.fromkeys([*a, *b])] for a, b in ((old.words, new.words), (old.columns, new.columns)))
        with opened(self.dataset, path, words) as file:
            pieces = read_steps(file, Unit(path, None, 0, 0, ""), columns, stop)
            for rows, starts in whole_series(pieces, old.unique_id):
                panels = [read_panel(rows, starts, *each) for each in zip(layouts, self.manifests, strict=True)]
                seen.add(panels[0].names)
                yield panels[0], panels[1]


def series_layout(
    text: str, manifests: tuple[Manifest, Manifest], columns: Mapping[str, str], cutting: Cutting, stop: Stop
) -> SeriesLayout:
    """Find a dataset of time steps, check that it fits both bundles, and count its windows.

    Args:
        text: path or URI.
        manifests: of the old bundle and the new one.
        columns: role or feature -> column name, only where they differ.
        cutting: which windows.
        stop: ends the counting.

    Raises:
        UsageError: a bundle has several targets, the two were trained on different time grids, or none is known.
        InputError: no files, or columns that do not fit one of the two; all problems are listed.
    """
    freq = parse_freq(cutting.freq or _freq(manifests))
    dataset, layouts = open_dataset(text), {}
    offenders: dict[str, list[str]] = {}
    for path in dataset.paths():
        with dataset.open(path) as file:
            found = [match_long(file.schema_arrow, path, manifest, columns, freq) for manifest in manifests]
        offenders[path] = by_contender([problems for _, problems in found])
        old, new = (layout for layout, _ in found)
        if old and new:
            layouts[path] = old, new
            if old.target != new.target:
                offenders[path].append(f"the target is column '{old.target}' to OLD and '{new.target}' to NEW")
    if not offenders:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    check_schemas(offenders)
    whole = SeriesLayout(dataset, manifests, layouts, cutting)
    return SeriesLayout(dataset, manifests, layouts, cutting, whole.count(stop))


def _freq(manifests: tuple[Manifest, Manifest]) -> str:
    for name, manifest in zip(NAMES, manifests, strict=True):
        if manifest.others:
            what = f"the long layout has one target, {name} has several"
            raise UsageError(explain(what, got=", ".join(target.name for target in manifest.targets)))
    known = {manifest.freq for manifest in manifests if manifest.freq}
    if len(known) != 1:
        got = ", ".join(sorted(known)) or "none"
        raise UsageError(explain("nobody says how long a time step is", got=got, remedy="--freq h, say"))
    return known.pop()
