"""Score one file after the other in one process, through all of a run but the opening of the bundle.

And say what each must become, by another way: the whole file read at once, and forecast as one batch.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import REASONS
from runner.bundle import audit_bundle, open_bundle
from runner.cli import cli
from runner.config import Job
from runner.device import parse_device
from runner.forecaster import Decoding, Forecaster, open_forecaster
from runner.report import Report, versions
from runner.run import run_job
from runner.schema import match, sizes_of
from runner.score import score_block
from runner.stop import Stop
from runner.terminal import run_command
from runner.validate import validate

NAME = "m.parquet"
OPTIONS: dict[str, Any] = {"batch_size": 16, "workers": 1, "max_reject_rate": 1.0}
FLAGS = ("--batch-size", "16", "--workers", "1", "--max-reject-rate", "1", "--quiet")


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the rows of a file; all in a form that compares NaN as equal to itself.

    Attributes:
        copied: the columns that are taken over from the input.
        predictions, reasons: one entry a row.
        masked_mse: the report's.
    """

    rows: int
    copied: dict[str, str]
    predictions: list[list[float] | None]
    reasons: list[str | None]
    masked_mse: float | None

    def difference(self, other: "Scored") -> str | None:
        """Say which attribute differs first; None where none does."""
        names = ("rows", "copied", "predictions", "reasons", "masked_mse")
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)


@dataclass(frozen=True, slots=True)
class Scorer:
    """An opened bundle, and a folder to score in.

    Attributes:
        bundle: its folder.
        path: the input; out: the output folder.
    """

    bundle: Path
    path: Path
    out: Path
    forecaster: Forecaster

    def score(self, content: bytes) -> Report:
        """Score a file of this content into an empty folder."""
        self.path.write_bytes(content)
        return self.run(self.path)

    def run(self, source: Path, **options: Any) -> Report:
        """Score a file or folder into an empty folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        return self.rerun(source, **options)

    def rerun(self, source: Path, **options: Any) -> Report:
        """Score a file or folder into whatever is there."""
        return run_job(Job(self.bundle, str(source), self.out, **{**OPTIONS, **options}), Stop(), lambda *_: None)

    def command(self, content: bytes) -> tuple[int, str]:
        """Do the same by the command itself; return its exit code and what it said on stderr."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.path.write_bytes(content)
        arguments = ["freerun", "score", str(self.bundle), str(self.path), "--out", str(self.out), *FLAGS]
        with tempfile.TemporaryFile() as messages, patch.object(sys, "argv", arguments):
            kept = os.dup(1), os.dup(2)
            os.dup2(messages.fileno(), 1)
            os.dup2(messages.fileno(), 2)
            try:
                code = run_command(cli)
            finally:
                for number, descriptor in enumerate(kept, start=1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
            messages.seek(0)
            return code, messages.read().decode(errors="replace")

    def visible(self) -> set[str]:
        """Return the files of the output folder that say that something was made, and what is unfinished."""
        found = {str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()}
        return found - {".lock", "_report.json", "_ledger.json", "_unfinished.json"}

    def found(self, report: Report) -> Scored:
        """Read back what was made."""
        part = pq.ParquetFile(self.out / NAME).read()
        copied = part.drop_columns(["prediction", "reject_reason", "bundle_id"])
        predictions, reasons = part["prediction"].to_pylist(), part["reject_reason"].to_pylist()
        return Scored(len(part), _texts(copied), predictions, reasons, report.total.masked_mse)

    def expected(self, table: pa.Table) -> Scored:
        """Say what a table must become."""
        manifest = self.forecaster.manifest
        sizes = sizes_of(manifest)
        layout, _ = match(table.schema, NAME, sizes, {}, teacher=False)
        copied = _texts(table.select(layout.copied))
        if not len(table):
            return Scored(0, copied, [], [], None)
        (batch,) = table.unify_dictionaries().combine_chunks().to_batches()
        windows = validate(batch, layout, sizes, flags_past=manifest.past_observed, teacher=False)
        prediction = self.forecaster.predict(windows, teacher=False)
        windows = windows.rejecting(~np.isfinite(prediction).all(axis=1), "prediction_not_finite")
        score = score_block(windows, prediction, manifest.target.feature, manifest.season_length)
        reasons = [REASONS[code] or None for code in windows.reasons]
        predictions = [None if reason else row for row, reason in zip(prediction.tolist(), reasons, strict=True)]
        return Scored(len(table), copied, predictions, reasons, score.masked_mse(score.model) if score else None)


@contextmanager
def opened(bundle: Path, folder: Path) -> Iterator[Scorer]:
    """Open a bundle once for many runs; nothing is synced, as no power fails here."""
    found, device = open_bundle(bundle), parse_device("cpu")
    audited = audit_bundle(found)
    known = versions()
    (folder / "in").mkdir(parents=True)
    with open_forecaster(audited, Decoding(device, "fp32", OPTIONS["batch_size"], 1), Stop()) as forecaster:

        @contextmanager
        def again(*_: object) -> Iterator[Forecaster]:
            yield forecaster

        with (
            patch("runner.forecaster.open_forecaster", again),
            patch("runner.run.open_bundle", lambda *_: found),
            patch("runner.execution.audit_bundle", lambda *_: audited),
            patch("runner.execution.versions", lambda: known),
            patch("os.fsync", lambda _: None),
        ):
            yield Scorer(bundle, folder / "in" / NAME, folder / "out", forecaster)


def _texts(table: pa.Table) -> dict[str, str]:
    window = {"window": 1 << 20, "container_window": 1 << 20, "element_size_limit": 1 << 20}
    return {
        name: f"{_kind(column.type)} {_whole(column).to_string(**window)}"
        for name, column in zip(table.schema.names, table.columns, strict=True)
    }


def _kind(kind: pa.DataType) -> str:
    """Describe a type but for the names of list items, which Parquet has a word of its own for."""
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_kind(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{'large_' * pa.types.is_large_list(kind)}list<{_kind(kind.value_type)}>"
    return str(kind)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks()
