"""What turns a unit's rows into windows for the pipeline, and its forecasts into rows of a part."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import WindowBatch
from runner.clock import Clock
from runner.config import Job
from runner.dataset import Dataset
from runner.errors import InputError, explain
from runner.manifest import Manifest
from runner.parts import Part, Unit
from runner.reader import block_size, match_layouts, read_blocks
from runner.schema import Layout, expected_shapes, sizes_of
from runner.stop import Stop
from runner.validate import validate
from runner.writer import Form, WindowForm, copied_schema


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive windows, and what their part will tell of them.

    Attributes:
        keys: what the part's form makes its rows of, beside the forecasts [B].
        windows: the same windows [B, ...].
        rows_read: input rows that were read for them: how far the unit has come.
    """

    keys: pa.RecordBatch
    windows: WindowBatch
    rows_read: int


class Feed(Protocol):
    """A layout of the input: where windows come from, and what becomes of their forecasts."""

    def form(self, unit: Unit, file: pq.ParquetFile) -> Form:
        """Return what the rows of the unit's part are made by."""

    def blocks(self, unit: Unit, file: pq.ParquetFile) -> Iterator[Block]:
        """Yield the unit's windows in order, checked.

        Raises:
            InputError: the file is damaged, or cannot be cut into windows.
        """

    def dictionaries(self, unit: Unit) -> list[str]:
        """Return the columns that are to be read as dictionaries."""

    def casts(self, unit: Unit) -> tuple[str, ...]:
        """Return the columns that become float32 before they reach a graph."""

    def check(self, part: Part) -> None:
        """Hold a finished part against what the unit promised.

        Raises:
            InputError: nothing in it fits the bundle.
        """


@dataclass(frozen=True, slots=True)
class WindowFeed:
    """Input of which a row is a window: it keeps its place, and its columns.

    Attributes:
        layouts: where the roles are, by input file.
    """

    manifest: Manifest
    layouts: Mapping[str, Layout]
    job: Job
    clock: Clock
    stop: Stop

    def form(self, unit: Unit, file: pq.ParquetFile) -> Form:
        """Return the columns to copy, with the forecasts beside them."""
        copied = copied_schema(file.schema_arrow, self.layouts[unit.path].copied)
        return WindowForm(copied, self.manifest.bundle_id, self.job.fallback)

    def blocks(self, unit: Unit, file: pq.ParquetFile) -> Iterator[Block]:
        """Yield the rows, validated."""
        layout, sizes = self.layouts[unit.path], sizes_of(self.manifest)
        flags, teacher = self.manifest.past_observed, self.job.mode == "teacher-forced"
        naive = self.manifest.target_features if self.job.fallback else ()
        for rows in self.clock.timing("read", read_blocks(file, unit, layout, block_size(sizes), self.stop)):
            with self.clock.time("read"):
                windows = validate(rows, layout, sizes, flags_past=flags, teacher=teacher, naive=naive)
            yield Block(rows, windows, rows.num_rows)

    def dictionaries(self, unit: Unit) -> list[str]:  # noqa: ARG002
        """Return none: columns are copied as they are."""
        return []

    def casts(self, unit: Unit) -> tuple[str, ...]:
        """Return the columns that become float32."""
        return self.layouts[unit.path].casts

    def check(self, part: Part) -> None:
        """Refuse a part of which no row fits the bundle; that a row got lost is a bug."""
        if part.scored + sum(part.rejects.values()) != part.unit.rows:
            raise AssertionError(f"{part.unit.path}: {part.unit.rows} rows, {part.scored} scored, {part.rejects}")
        misfits = {reason: count for reason, count in part.rejects.items() if reason.endswith("_shape")}
        if not part.scored and misfits and sum(misfits.values()) == sum(part.rejects.values()):
            raise InputError(
                explain(
                    f"no row of {part.unit.path} fits the bundle",
                    got=misfits,
                    expected=expected_shapes(self.manifest),
                    remedy="score it with the bundle it was made for, or map the columns with --column",
                )
            )


def window_feed(
    dataset: Dataset, paths: set[str], manifest: Manifest, job: Job, clock: Clock, stop: Stop
) -> WindowFeed:
    """Check the schemas of files of windows.

    Raises:
        InputError: some do not fit; everything wrong with any of them is listed.
    """
    return WindowFeed(manifest, match_layouts(dataset, paths, manifest, job), job, clock, stop)
