"""Cut training windows from series in memory, batch by batch: what is held grows with the steps, not the windows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from export.source import trainable
from runner.batch import Index, WindowBatch, join
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, explain
from runner.freq import Grid, parse_freq
from runner.long.cut import Cutter
from runner.long.files import match_files, opened
from runner.long.layout import LongLayout
from runner.long.origins import Roll, Rolled, roll_over
from runner.long.panel import Panel, join_panels, read_panels
from runner.long.recipe import Recipe
from runner.parts import Unit
from runner.reader import block_size, read_steps
from runner.schema import Sizes
from runner.stop import Stop


@dataclass(frozen=True, slots=True)
class OneGrid:
    """Series of one time grid."""

    cutter: Cutter
    rolled: Rolled

    def __len__(self) -> int:
        return len(self.rolled)

    def cut(self, places: Index) -> WindowBatch:
        """Return the windows of these numbers [W, ...]."""
        return self.cutter.cut(self.rolled.panel, self.rolled.at(places))


@dataclass(frozen=True, slots=True)
class SeriesWindows:
    """Series of which a row is a time step, as windows.

    Attributes:
        place: where the data is.
        recipe: what windows look like.
        grids: the series; almost always of one time grid.
        signature: changes with the data, and with what decides which windows there are.
        stride: steps from one window of a series to the next.
    """

    place: str
    recipe: Recipe
    grids: tuple[OneGrid, ...]
    signature: str
    stride: int

    def __len__(self) -> int:
        """Return the number of windows, rejects included."""
        return sum(map(len, self.grids))

    @property
    def sizes(self) -> Sizes:
        """Return what all windows have."""
        features = self.recipe.features
        widths = len(features.past), len(features.future_known)
        return Sizes(self.recipe.context_length, self.recipe.horizon, *widths, static=self.recipe.static)

    @property
    def flagged(self) -> bool:
        """Say whether context steps may be missing."""
        return self.recipe.past_observed

    @property
    def torn(self) -> int:
        """Return how many series begin a second time, in another file."""
        panels = [grid.rolled.panel for grid in self.grids]
        return sum(len(panel) - len(panel.names.unique()) for panel in panels)

    def blocks(self) -> Iterator[WindowBatch]:
        """Yield all windows, series by series, rejects and those without a target included."""
        most = block_size(self.sizes).rows
        for begun in range(0, len(self), most):
            yield self._cut(np.arange(begun, min(begun + most, len(self))))

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[WindowBatch]:
        """Yield what is trainable once each, in full batches, in an order that depends on seed and epoch alone."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        held: list[WindowBatch] = []
        for begun in range(0, len(order), batch_size):
            held.append(trainable(self._cut(order[begun : begun + batch_size])))
            if sum(map(len, held)) >= batch_size:
                mixed = join(held)
                yield mixed.take(slice(0, batch_size))
                held = [mixed.take(slice(batch_size, None))]
        if sum(map(len, held)):
            yield join(held)

    def _cut(self, numbers: Index) -> WindowBatch:
        """Return the windows of these numbers, counted over all grids."""
        first = np.cumsum([0, *map(len, self.grids)])
        owner = np.searchsorted(first, numbers, "right") - 1
        return join([self.grids[place].cut(numbers[owner == place] - first[place]) for place in np.unique(owner)])


def open_series(text: str, recipe: Recipe, columns: Mapping[str, str], freq: str, stride: int) -> SeriesWindows:
    """Read a dataset of time steps into memory.

    Args:
        text: path or URI.
        recipe: what windows look like.
        columns: role or feature -> column name, only where they differ.
        freq: the time grid.
        stride: steps from one window of a series to the next.

    Raises:
        InputError: no files, unreadable files, columns that do not fit (all are listed), or rows of which no series
            can be made.
    """
    dataset = open_dataset(text)
    layouts = _layouts(dataset, text, recipe, columns, freq)
    panels: dict[tuple[Grid, str], list[Panel]] = defaultdict(list)
    for path, layout in layouts.items():
        for panel in _read(dataset, path, layout, recipe):
            panels[layout.grid, str(layout.id_type)].append(panel)
    grids = []
    for (grid, _), pieces in panels.items():
        panel, roll = join_panels(pieces), Roll(stride, None, None)
        pieces.clear()  # it is there twice until then
        rolled = roll_over(panel, recipe.context_length, recipe.horizon, roll, padded=recipe.past_observed)
        grids.append(OneGrid(Cutter(recipe, grid, with_target=True), rolled))
    identities = [f"{path}:{dataset.sha256(path, Stop())}" for path in layouts]
    signature = "\n".join([*identities, f"{freq} every {stride}", f"{sorted(columns.items())}"])
    return SeriesWindows(text, recipe, tuple(grids), signature, stride)


def _layouts(
    dataset: Dataset, text: str, recipe: Recipe, columns: Mapping[str, str], freq: str
) -> dict[str, LongLayout]:
    paths, grid = dataset.paths(), parse_freq(freq)
    if not paths:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    return match_files(dataset, paths, recipe, columns, grid)


def _read(dataset: Dataset, path: str, layout: LongLayout, recipe: Recipe) -> Iterator[Panel]:
    """Yield a file's series, many at once.

    Raises:
        InputError: names the file.
    """
    with opened(dataset, path, layout.words) as file:
        pieces = read_steps(file, Unit(path, None, 0, 0, ""), layout.columns, Stop())
        for panel in read_panels(pieces, layout, recipe, longest=None):
            yield _compact(panel, recipe.target.name)


def _compact(panel: Panel, target: str) -> Panel:
    """Return the panel with what only the graphs see in float32, as they do: the target is scored in its own digits."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
        numbers = {
            name: values if name == target else values.astype(np.float32, copy=False)
            for name, values in panel.numbers.items()
        }
    return replace(panel, numbers=numbers)
