"""Read a bundle's golden windows: a Parquet file that came with it, so it is trusted no more than the graphs are."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import F32, WindowBatch
from runner.dataset import READ_ERRORS, first_line
from runner.errors import BundleError, explain
from runner.manifest import LARGEST_WINDOW, Manifest
from runner.pages import held_by
from runner.schema import match, sizes_of
from runner.static import as_numbers
from runner.validate import validate

MOST_WINDOWS = 64
"""Export writes 8."""
MOST_ITEMS = 8 * LARGEST_WINDOW


@dataclass(frozen=True, slots=True)
class Golden:
    """Windows of the validation data and their certified free-running forecasts [B, H * M]."""

    windows: WindowBatch
    certified: F32


def read_golden(content: bytes, name: str, manifest: Manifest) -> Golden:
    """Return the golden windows of a precision.

    Args:
        content: the file's bytes.
        name: what to call it in messages.
        manifest: the lengths that they must have.

    Raises:
        BundleError: the file is not readable, does not fit the manifest, or holds more than golden windows can.
    """
    sizes = replace(sizes_of(manifest), static=as_numbers(manifest.static))
    try:
        table = _table(content)
        batch = table.drop_columns(["prediction"]).combine_chunks().to_batches()[0]
        layout, problems = match(batch.schema, "", sizes, {}, teacher=False)
        if problems:
            raise BundleError(explain(f"the golden windows of {name} do not fit the manifest", got=problems))
        with np.errstate(over="ignore"):  # what float32 cannot hold is no forecast of ours, and agrees with none
            certified = np.array(table.column("prediction").to_pylist(), np.float32)
    except (*READ_ERRORS, IndexError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(explain(f"the golden windows cannot be read from {name}", got=first_line(error))) from error
    windows = validate(batch, layout, sizes, flags_past=manifest.past_observed, teacher=False)
    expected = (len(windows), manifest.cells)
    if certified.shape != expected or len(windows.good_rows()) != len(windows):
        what = f"the golden windows of {name} do not fit the manifest"
        got = f"{len(windows.good_rows())} good windows and forecasts {list(certified.shape)}"
        raise BundleError(explain(what, got=got, expected=f"{len(windows)} and {list(expected)}"))
    return Golden(windows, certified)


def _table(content: bytes) -> Any:
    """Read the file, once it is known that its pages decode to no more than golden windows can be."""
    held = held_by(content)
    file = pq.ParquetFile(pa.BufferReader(content))
    if file.metadata.num_rows > MOST_WINDOWS or max(held.items, held.size // 4) > MOST_ITEMS:
        got = f"{file.metadata.num_rows} windows of {held.items} numbers in {held.size} bytes"
        raise ValueError(f"it holds {got}, expected at most {MOST_WINDOWS} of {MOST_ITEMS}")
    table = file.read(use_threads=False)
    table.validate(full=True)
    return table
