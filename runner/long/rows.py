"""What the parts say of windows that were cut from series: a row a step, or a row a window."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.batch import F32, GOOD, Bool, Index
from runner.freq import Grid
from runner.long.layout import LongLayout
from runner.long.origins import Origins
from runner.long.panel import Panel
from runner.long.text import is_text
from runner.writer import BUNDLE, REASON, SOURCE, WindowForm, repeated, sources, words

STEP, PHASE = "step", "phase"


def keys_of(panel: Panel, origins: Origins, grid: Grid) -> pa.RecordBatch:
    """Return what a part tells of windows beside forecasts: the series, and the origin as time, step and phase."""
    phase = panel.phase[origins.series]
    columns = {
        "unique_id": panel.names.take(pa.array(origins.series)),
        "origin": grid.times(origins.step, phase),
        STEP: pa.array(origins.step),
        PHASE: pa.array(phase),
    }
    return pa.RecordBatch.from_pydict(columns)


@dataclass(frozen=True, slots=True)
class StepForm:
    """A row is a step of a forecast.

    Attributes:
        layout: of the input.
        bundle_id: who made the forecasts.
        fallback: what fills rejects.
        rows_a_window: H.
    """

    layout: LongLayout
    bundle_id: str
    fallback: str | None
    rows_a_window: int

    @property
    def schema(self) -> pa.Schema:
        """Return the columns."""
        kind = self.layout.grid.kind
        named = self.layout.id_type
        named = pa.dictionary(pa.int32(), named) if is_text(named) else named
        keys = [("unique_id", named), ("ds", kind), ("step", pa.int32()), ("origin", kind)]
        return pa.schema(
            [*(pa.field(*key) for key in keys), pa.field("prediction", pa.float32()), SOURCE, REASON, BUNDLE]
        )

    def rows(
        self, keys: pa.RecordBatch, prediction: F32, reasons: npt.NDArray[np.uint8], filled: Bool
    ) -> pa.RecordBatch:
        """Make a row of each step, null where there is no forecast."""
        windows, horizon = prediction.shape
        each = np.repeat(np.arange(windows), horizon)
        step = np.tile(np.arange(1, horizon + 1), windows)
        origin, phase = (np.asarray(keys.column(name))[each] for name in (STEP, PHASE))
        nothing = ~((reasons == GOOD) | filled)[each]
        columns = [
            _each(keys.column("unique_id"), each),
            self.layout.grid.times(origin + step, phase),
            pa.array(step.astype(np.int32)),
            keys.column("origin").take(pa.array(each)),
            pa.array(prediction.ravel(), mask=nothing),
            sources(self.fallback, reasons[each], filled[each]),
            words(reasons[each]),
            repeated(self.bundle_id, len(each)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _each(names: pa.Array, places: Index) -> pa.Array:
    """Return names as often as wanted; text as a dictionary, of which Parquet needs no more than the places."""
    return (names.dictionary_encode() if is_text(names.type) else names).take(pa.array(places))


def window_form(layout: LongLayout, bundle_id: str, fallback: str | None) -> WindowForm:
    """Return a form of which a row is a window, with its series and its origin."""
    keys = pa.schema([("unique_id", layout.id_type), ("origin", layout.grid.kind)])
    return WindowForm(keys, bundle_id, fallback)
