"""Where the windows of a comparison come from: each row as both bundles would see it, a bounded number at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from runner.batch import WindowBatch
from runner.dataset import Dataset, open_dataset
from runner.errors import InputError, explain
from runner.gap.extra_columns import EXTRA_ROLES, names_of, problems_of, read_extra
from runner.manifest import Manifest
from runner.parts import Unit
from runner.reader import block_size, read_blocks
from runner.schema import OUTPUT_COLUMNS, Layout, check_schemas, match, sizes_of
from runner.stop import Stop
from runner.validate import validate

NAMES = ("OLD", "NEW")


@dataclass(frozen=True, slots=True)
class PairedBlock:
    """Consecutive rows, as each bundle sees them.

    Attributes:
        batches: the same rows for the old one and for the new one [B, ...].
        first: position of the first row in the data.
        series: the name of each row's series [B]; None where the data has none.
    """

    batches: tuple[WindowBatch, WindowBatch]
    first: int
    series: list[str] | None


class WindowSource(Protocol):
    """Windows that two bundles can be compared on."""

    @property
    def total(self) -> int:
        """Return how many rows there are."""

    def blocks(self, stop: Stop) -> Iterator[PairedBlock]:
        """Yield all rows, in order."""


@dataclass(frozen=True, slots=True)
class WindowsLayout:
    """A dataset of which a row is a window.

    Attributes:
        dataset: where it is.
        manifests: of the old bundle and the new one.
        layouts: where the roles are for each of them, by file.
        columns: role -> column name, only where they differ.
        total: rows of all files.
    """

    dataset: Dataset
    manifests: tuple[Manifest, Manifest]
    layouts: Mapping[str, tuple[Layout, Layout]]
    columns: Mapping[str, str]
    total: int

    def blocks(self, stop: Stop) -> Iterator[PairedBlock]:
        """Yield all rows, in order.

        Raises:
            InputError: a file is damaged.
        """
        sizes, first, names = sizes_of(self.manifests[0]), 0, names_of(self.columns)
        size = min((block_size(sizes_of(manifest)) for manifest in self.manifests), key=lambda size: size.rows)
        for path, layouts in self.layouts.items():
            roles = {**layouts[0].roles, **layouts[1].roles}
            both = replace(layouts[0], roles=roles, categories=layouts[0].categories + layouts[1].categories)
            with self.dataset.open(path) as file:
                for block in read_blocks(file, Unit(path, None, 0, 0, ""), both, size, stop):
                    old, new = map(self._batch, (block, block), layouts, self.manifests)
                    extra = read_extra(block, np.arange(block.num_rows), names, sizes)
                    yield PairedBlock((old, new), first, extra.series)
                    first += block.num_rows

    @staticmethod
    def _batch(block: pa.RecordBatch, layout: Layout, manifest: Manifest) -> WindowBatch:
        return validate(block, layout, sizes_of(manifest), flags_past=manifest.past_observed, teacher=False)


def windows_layout(text: str, manifests: tuple[Manifest, Manifest], columns: Mapping[str, str]) -> WindowsLayout:
    """Find a dataset of windows, and check that it fits both bundles.

    Args:
        text: path or URI.
        manifests: of the old bundle and the new one.
        columns: role -> column name, only where they differ; `series` may be among the roles.

    Raises:
        InputError: no files, or columns that do not fit one of the two; all problems are listed.
    """
    dataset, layouts, total = open_dataset(text), {}, 0
    offenders: dict[str, list[str]] = {}
    mapped = {role: name for role, name in columns.items() if role not in EXTRA_ROLES}
    extra = {role: name for role, name in columns.items() if role == "series"}
    for path in dataset.paths():
        with dataset.open(path) as file:
            schema = file.schema_arrow
            inputs = pa.schema([entry for entry in schema if entry.name not in OUTPUT_COLUMNS])  # nothing is written
            found = [match(inputs, path, sizes_of(manifest), mapped, teacher=False) for manifest in manifests]
            offenders[path] = [*_problems(found), *problems_of(schema, extra, sizes_of(manifests[0]))]
            copied = tuple(name for name in schema.names if name == names_of(columns)["series"])
            old, new = (replace(layout, copied=copied) for layout, _ in found)
            layouts[path], total = (old, new), total + file.metadata.num_rows
    if not layouts:
        raise InputError(explain(f"no Parquet files in {text}", expected="*.parquet"))
    check_schemas(offenders)
    return WindowsLayout(dataset, manifests, layouts, columns, total)


def by_contender(problems: list[list[str]]) -> list[str]:
    """Return what is wrong with a file, and for which of the bundles, from the problems of each."""
    lines = dict.fromkeys(line for found in problems for line in found)
    wrong = {line: [name for name, found in zip(NAMES, problems, strict=True) if line in found] for line in lines}
    return [f"{' and '.join(names)}: {line}" for line, names in wrong.items()]


def _problems(found: list[tuple[Layout, list[str]]]) -> list[str]:
    told = by_contender([problems for _, problems in found])
    return told if "target" in found[0][0].roles else [*told, "there is no target, so nothing can be compared"]
