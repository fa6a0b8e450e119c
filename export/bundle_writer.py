"""Put a certified pair of graphs into a folder that appears as a whole, or not at all."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.certify import Candidate, Certificate, tolerance_of
from export.config import TrainConfig
from export.graphs import OPSET, GraphPair
from export.model import Forecasters
from export.windows import Statistics
from runner.batch import F32, WindowBatch
from runner.digests import canonical
from runner.errors import OutputError, UsageError, explain
from runner.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, bundle_id_of
from runner.report import versions
from runner.schema import Sizes
from runner.storage import TEMPORARY
from runner.totals import Score

NOT_YET = {"file": "pending", "bytes": 0, "sha256": "0" * 64}


def draft_manifest(
    config: TrainConfig,
    sizes: Sizes,
    statistics: Statistics,
    feature: int,
    models: Forecasters,
    graphs: GraphPair,
    *,
    flagged: bool,
) -> dict[str, Any]:
    """Return the manifest with everything but what certifying finds; enough for the runner's loop."""
    names = config.feature_names or [f"f{index}" for index in range(sizes.past)]
    constant = None if config.start == "last" else float(config.start)
    tolerance = tolerance_of(statistics.target_level, statistics.target_scale)
    return {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "export_id": graphs.export_id,
        "context_length": sizes.context,
        "horizon": sizes.horizon,
        "season_length": config.season_length,
        "features": {
            "past": names,
            "future_known": config.future_names or [f"k{index}" for index in range(sizes.future)],
        },
        "past_observed": flagged,
        "target": {"name": names[feature], "feature": feature, "scale": statistics.target_scale},
        "start": {"kind": "last" if constant is None else "constant", "value": constant},
        "scaling": config.scaling,
        "encoder": _graph(
            "encoder.onnx", graphs.encoder, [entry.name for entry in models.encoder.inputs], ["previous_0"]
        ),
        "decoder_step": _graph(
            "decoder_step.onnx",
            graphs.decoder_step,
            [entry.name for entry in models.step.inputs if entry.name in {"previous", "future_known"}],
            ["prediction"],
        ),
        "states": [
            {"encoder_output": name, "step_input": name, "step_output": f"{name}_next", "width": models.widths[name][0]}
            for name in models.states
        ],
        "memory": [
            {"encoder_output": name, "step_input": name, "shape": list(models.widths[name])} for name in models.memory
        ],
        "mask": {"excluded": 1},
        "excluded_share": statistics.excluded_share,
        "tolerances": {"parity": tolerance, "golden": tolerance},
        "control_flow": [],
        "opset": OPSET,
        "producers": _producers(),
    }


def provisional(draft: dict[str, Any]) -> Manifest:
    """Return the draft as a manifest for the parity check, its losses and files still to come."""
    nothing = {"masked_mse": None, "observed_mse": None}
    certified = {"windows": 1, "teacher_forced": nothing, "free_running": nothing}
    return _manifest({**draft, "certified": certified, "golden": NOT_YET, "certificate": NOT_YET})


def write_bundle(
    path: Path, candidate: Candidate, draft: dict[str, Any], certificate: Certificate, golden: tuple[WindowBatch, F32]
) -> Manifest:
    """Write the bundle under a temporary name beside its place, sync it, and rename it.

    Args:
        path: where the bundle goes; nothing may be there.
        candidate: the certified graphs.
        draft: the manifest so far.
        certificate: what was measured.
        golden: windows and their forecasts [B, H].

    Raises:
        UsageError: something is there already.
        OutputError: it cannot be written.
    """
    files = {
        "encoder.onnx": candidate.graphs.encoder,
        "decoder_step.onnx": candidate.graphs.decoder_step,
        "golden.parquet": _golden(*golden, candidate.graphs.export_id),
        "certificate.json": _certificate(certificate, candidate),
    }
    manifest = _manifest(
        {
            **draft,
            "certified": _certified(certificate),
            "golden": _pinned("golden.parquet", files["golden.parquet"]),
            "certificate": _pinned("certificate.json", files["certificate.json"]),
        }
    )
    files[MANIFEST_FILE] = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True).encode() + b"\n"
    _write_folder(path, files)
    return manifest


def refuse_existing(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UsageError: there is something at the path.
    """
    if os.path.lexists(path):
        raise UsageError(explain(f"{path} exists", remedy="give --out a new name: a bundle is never changed in place"))


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync(temporary)
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OutputError(explain(f"cannot write the bundle {path}", got=error.strerror)) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(values: dict[str, Any]) -> Manifest:
    """Close a manifest: its id is the digest of all the rest."""
    content = Manifest.model_validate_json(canonical({**values, "bundle_id": "0" * 64})).model_dump(mode="json")
    return Manifest.model_validate_json(canonical({**content, "bundle_id": bundle_id_of(content)}))


def _pinned(name: str, content: bytes) -> dict[str, Any]:
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _graph(name: str, content: bytes, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {**_pinned(name, content), "tensors": {role: role for role in [*inputs, *outputs]}}


def _producers() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), **{name: version(name) for name in ("tensorflow", "keras", "tf2onnx")}}


def _losses(score: Score) -> dict[str, float | None]:
    return {"masked_mse": score.masked_mse(score.model), "observed_mse": score.observed_mse(score.model)}


def _certified(certificate: Certificate) -> dict[str, Any]:
    forced, free = certificate.runner
    return {"windows": free.windows, "teacher_forced": _losses(forced), "free_running": _losses(free)}


def _certificate(certificate: Certificate, candidate: Candidate) -> bytes:
    forced, free = certificate.runner
    keras_forced, keras_free = certificate.keras
    content = {
        "export_id": candidate.graphs.export_id,
        "tolerance": certificate.tolerance,
        "unit": "the target's deviation for predictions and memory; for states their largest value, at least 1",
        "largest_difference": certificate.largest,
        "audit": {name: asdict(facts) for name, facts in certificate.audit.items()},
        "parity": [asdict(entry) for entry in certificate.parity],
        "losses": {
            "keras": {"teacher_forced": _losses(keras_forced), "free_running": _losses(keras_free)},
            "runner": {"teacher_forced": _losses(forced), "free_running": _losses(free)},
            "windows": free.windows,
            "per_step": {"teacher_forced": forced.by_step(forced.model), "free_running": free.by_step(free.model)},
        },
        "config": candidate.config.model_dump(),
        "producers": _producers(),
    }
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _golden(windows: WindowBatch, prediction: F32, export_id: str) -> bytes:
    columns = {"past": windows.past, "past_observed": windows.past_observed, "future_known": windows.future_known}
    arrays = {
        name: _nested(values) for name, values in {**columns, "prediction": prediction}.items() if values is not None
    }
    table = pa.table(arrays).replace_schema_metadata({"freerun.export_id": export_id})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _nested(values: F32) -> pa.Array:
    array: pa.Array = pa.array(np.ascontiguousarray(values).ravel())
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
