"""Make the int8 form of a certified forecaster, and let it out only if it forecasts as well, row by row by itself."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle_writer import CertifiedForm, add_precision, losses
from export.certify import BATCH_SIZES, GOLDEN_WINDOWS, first_windows, losses_of, production_loop
from export.forms import FormGraphs, make_form
from export.graphs import GraphPair
from export.recipe import InputLayout
from export.series import open_series
from export.source import TrainingWindows
from export.windows import open_windows
from runner.batch import F32, WindowBatch
from runner.bundle import audit_bundle, open_bundle
from runner.decode import Loop
from runner.errors import BusyError, CertificationError, InputError, UsageError, explain
from runner.manifest import Manifest
from runner.schema import sizes_of
from runner.totals import Score

LARGEST_CHANGE = 0.01
"""Share of the float32 form's free-running masked MSE by which int8 may change it."""
STRANGER = np.float32(1e3)
"""What the inputs of a row are multiplied by when its neighbours must not notice it."""


def quantize_bundle(
    path: Path, valid: str, columns: dict[str, str], layout: InputLayout = "windows"
) -> tuple[Manifest, CertifiedForm]:
    """Add the int8 form to a bundle; one with another id takes its place.

    Args:
        path: the bundle.
        valid: data to certify on.
        columns: role -> column name, only where they differ.
        layout: what a row of it is.

    Raises:
        UsageError: the bundle holds int8 already, or knows no time grid.
        BundleError, InputError: the bundle or the data cannot be used.
        CertificationError: int8 forecasts otherwise; the bundle stays as it is.
        OutputError: the bundle cannot be written.
        BusyError: it is being quantized already.
    """
    path = path.absolute()
    with _held(path):
        return _quantize(path, valid, columns, layout)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock on the bundle's folder itself: it leaves nothing behind, and the kernel frees a dead process's."""
    open_bundle(path)  # what is no bundle is refused as that
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(explain(f"{path} is being quantized already", remedy="wait for it")) from error
        yield
    finally:
        os.close(folder)


def _quantize(path: Path, valid: str, columns: dict[str, str], layout: InputLayout) -> tuple[Manifest, CertifiedForm]:
    bundle = open_bundle(path)
    audit_bundle(bundle)
    manifest = bundle.manifest
    if "int8" in manifest.precisions:
        raise UsageError(explain(f"{path} holds int8 already", remedy="export it again to make it anew"))
    windows = _windows(manifest, valid, columns) if layout == "windows" else _series(manifest, valid, columns)
    graphs = bundle.graphs("fp32")
    pair = GraphPair(graphs["encoder"], graphs["decoder_step"], manifest.export_id)
    fp32 = FormGraphs(pair.encoder, pair.decoder_step, graphs.get("fused"))
    form = certified_int8(pair, fp32, manifest, windows)
    return add_precision(bundle, "int8", form), form


def _windows(manifest: Manifest, valid: str, columns: dict[str, str]) -> TrainingWindows:
    told = sizes_of(manifest) if manifest.others or manifest.static else None  # what the data does not tell
    windows = open_windows(valid, manifest.past_width, columns, told)
    if windows.sizes != sizes_of(manifest):
        raise InputError(explain(f"{valid} does not fit the bundle", got=windows.sizes, expected=sizes_of(manifest)))
    return replace(windows, flagged=manifest.past_observed)


def _series(manifest: Manifest, valid: str, columns: dict[str, str]) -> TrainingWindows:
    if manifest.freq is None:
        remedy = "train it with --layout long, or give windows as VALID"
        raise UsageError(explain("--layout long needs a bundle that knows its time grid", got="none", remedy=remedy))
    return open_series(valid, manifest, columns, manifest.freq, manifest.horizon)


def certified_int8(pair: GraphPair, fp32: FormGraphs, manifest: Manifest, valid: TrainingWindows) -> CertifiedForm:
    """Write the graphs in int8 and hold them against the float32 form on the validation windows.

    Args:
        pair: the certified float32 graphs.
        fp32: the form that production runs in float32.
        manifest: names, shapes and the target's deviation.
        valid: validation windows.

    Raises:
        CertificationError: the masked MSE changes by 1 % or more, or a forecast depends on the rest of its batch.
        InputError: no target counts.
    """
    graphs = make_form(pair, manifest, "int8")
    loop = production_loop(manifest, graphs)
    _refuse_dependence(loop, first_windows(valid, max(BATCH_SIZES)))
    before, after = losses_of(manifest, fp32, valid), losses_of(manifest, graphs, valid)
    found = (change(*scores, manifest.target_width) for scores in zip(before, after, strict=True))
    changes = dict(zip(("teacher_forced", "free_running"), found, strict=True))
    if not abs(changes["free_running"]) < LARGEST_CHANGE:
        raise CertificationError(
            explain(
                "int8 forecasts otherwise than float32",
                got=f"a free-running masked MSE changed by {changes['free_running']:+.2%}",
                expected=f"less than {LARGEST_CHANGE:.0%}",
                remedy="leave int8 out (precision = ['fp32']); a training goes on from its last epoch",
            )
        )
    golden = first_windows(valid, GOLDEN_WINDOWS)
    certificate = {
        "export_id": manifest.export_id,
        "change": changes,
        "change_allowed": LARGEST_CHANGE,
        "batch_sizes": list(BATCH_SIZES),
        "losses": {"fp32": _both(before), "int8": _both(after), "windows": after[1].windows},
        "producers": manifest.producers,
    }
    return CertifiedForm(graphs, (golden, loop(golden, False)), after, certificate)


def change(before: Score, after: Score, targets: int = 1) -> float:
    """Return by which share of `before` the masked MSE has changed; of several targets, that of the one most changed.

    Raises:
        InputError: nothing was observed, so nothing can be said.
    """
    pairs = [(before.of_target(index, targets), after.of_target(index, targets)) for index in range(targets)]
    return max((_change(*pair) for pair in pairs), key=abs)


def _change(before: Score, after: Score) -> float:
    old, new = before.masked_mse(before.model), after.masked_mse(after.model)
    if old is None or new is None:
        raise InputError(explain("every target of the validation windows is excluded", remedy="give others as --valid"))
    return (new - old) / old if old else float(new != old)


def _refuse_dependence(loop: Loop, windows: WindowBatch) -> None:
    """Forecast rows in batches of several sizes, and beside a row far out of range: not a bit may differ."""
    whole = loop(windows, False)
    for size in BATCH_SIZES:
        parts = [loop(windows.take(slice(at, at + size)), False) for at in range(0, len(windows), size)]
        _refuse_difference(np.concatenate(parts), whole, f"in batches of {size}")
    strange = replace(windows, past=np.concatenate([windows.past[:1] * STRANGER, windows.past[1:]]))
    _refuse_difference(loop(strange, False)[1:], whole[1:], "beside a row far out of range")


def _refuse_difference(found: F32, expected: F32, where: str) -> None:
    if found.tobytes() != expected.tobytes():
        got = f"{int((found != expected).any(axis=1).sum())} of {len(expected)} rows differ {where}"
        raise CertificationError(explain("int8 forecasts depend on the rest of the batch", got=got, expected="none"))


def _both(scores: tuple[Score, Score]) -> dict[str, Any]:
    return {"teacher_forced": losses(scores[0]), "free_running": losses(scores[1])}
