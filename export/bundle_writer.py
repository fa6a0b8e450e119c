"""Put a certified pair of graphs into a folder that appears as a whole, or not at all."""

import ctypes
import hashlib
import io
import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.certify import Certificate, tolerance_for
from export.config import BundleConfig, Scaling
from export.forms import FormGraphs
from export.graphs import OPSET, GraphPair
from export.model import Forecasters
from export.windows import Statistics
from runner.batch import F32, Feature, WindowBatch, features_of
from runner.bundle import Bundle
from runner.digests import canonical
from runner.errors import BundleError, OutputError, UsageError, explain
from runner.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, bundle_id_of, parse_manifest
from runner.precision import Precision
from runner.report import versions
from runner.schema import Sizes
from runner.storage import TEMPORARY
from runner.totals import Score

NOT_YET = {"file": "pending", "bytes": 0, "sha256": "0" * 64}


def draft_manifest(
    config: BundleConfig,
    sizes: Sizes,
    statistics: Statistics,
    feature: Feature,
    models: Forecasters,
    graphs: GraphPair,
    *,
    scaling: Scaling,
) -> dict[str, Any]:
    """Return the manifest with everything but its files and what certifying finds; enough for the runner's loop."""
    names = config.feature_names or [f"f{index}" for index in range(sizes.past)]
    constant = None if config.start == "last" else config.start
    tolerance = tolerance_for(statistics)
    target, *others = (
        {"name": names[index], "feature": index, "scale": found.scale}
        for index, found in zip(features_of(feature), statistics.targets, strict=True)
    )
    context = [entry.name for entry in models.encoder.inputs]
    step = [entry.name for entry in models.step.inputs if entry.name in {"previous", "future_known"}]
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
        "past_observed": "past_observed" in context,
        "static": sizes.static and sizes.static.model_dump(mode="json"),
        "target": target,
        "others": others,
        "start": {"kind": "last" if constant is None else "constant", "value": constant},
        "scaling": scaling,
        "encoder": {**NOT_YET, "tensors": {role: role for role in [*context, "previous_0"]}},
        "decoder_step": {**NOT_YET, "tensors": {role: role for role in [*step, "prediction"]}},
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


@dataclass(frozen=True, slots=True)
class CertifiedForm:
    """A precision that may be let out.

    Attributes:
        golden: windows and their forecasts [B, H].
        losses: of the runner's loop on the validation windows, (teacher-forced, free-running).
        certificate: the record of what was measured.
    """

    graphs: FormGraphs
    golden: tuple[WindowBatch, F32]
    losses: tuple[Score, Score]
    certificate: dict[str, Any]


def write_bundle(path: Path, values: dict[str, Any], forms: dict[Precision, CertifiedForm]) -> Manifest:
    """Write a bundle under a temporary name beside its place, sync it, and rename it.

    Args:
        path: where the bundle goes; nothing may be there.
        values: the manifest's draft.
        forms: what it is to hold; fp32 is among them.

    Raises:
        UsageError: something is there already.
        OutputError: it cannot be written.
    """
    refuse_existing(path)
    files: dict[str, bytes] = {}
    closed = {**values, **_form(values, forms["fp32"], "", files), "precisions": {}}
    for precision in sorted(forms.keys() - {"fp32"}):
        closed["precisions"][precision] = _form(values, forms[precision], f"{precision}/", files)
    return _write_folder(path, closed, files)


def add_precision(bundle: Bundle, precision: Precision, form: CertifiedForm) -> Manifest:
    """Put another bundle in the place of this one: the same, and one precision more. Readers see one or the other.

    Raises:
        OutputError: it cannot be written; the bundle is as it was.
        UsageError: another bundle stands there by now; it is left alone.
    """
    values = bundle.manifest.model_dump(mode="json")
    files = dict(bundle.contents)
    precisions = {**values["precisions"], precision: _form(values, form, f"{precision}/", files)}
    closed = {**values, "format_version": FORMAT_VERSION, "precisions": precisions}
    return _write_folder(bundle.path, closed, files, replaces=bundle.manifest.bundle_id)


def _form(values: dict[str, Any], form: CertifiedForm, folder: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Lay a form's files beside the others; return its part of the manifest."""
    tensors = {name: values[name]["tensors"] for name in ("encoder", "decoder_step")}
    tensors["fused"] = Manifest.fused_names(tensors["encoder"], tensors["decoder_step"])
    forced, free = form.losses
    entry: dict[str, Any] = {
        "fused": None,
        "certified": {"windows": free.windows, "teacher_forced": losses(forced), "free_running": losses(free)},
    }
    contents = {
        **{name: (f"{folder}{name}.onnx", graph) for name, graph in form.graphs.by_key().items()},
        "golden": (f"{folder}golden.parquet", _golden(*form.golden, values["export_id"])),
        "certificate": (f"{folder}certificate.json", _json(form.certificate)),
    }
    for key, (name, content) in contents.items():
        files[name] = content
        entry[key] = _pinned(name, content) | ({"tensors": tensors[key]} if key in tensors else {})
    return entry


def refuse_existing(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UsageError: there is something at the path.
    """
    if os.path.lexists(path):
        raise UsageError(explain(f"{path} exists", remedy="give --out a new name: a bundle is never changed in place"))


def _write_folder(path: Path, values: dict[str, Any], files: dict[str, bytes], replaces: str | None = None) -> Manifest:
    manifest = _manifest(values)
    files = {**files, MANIFEST_FILE: _json(manifest.model_dump(mode="json"))}
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for folder in {(temporary / name).parent for name in files}:
            _sync(folder)
        if replaces is None:
            temporary.rename(path)
        else:
            _exchange(temporary, path)
            _refuse_another(temporary, path, replaces)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(explain(f"cannot write the bundle {path}", got=error.strerror)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _refuse_another(replaced: Path, path: Path, expected: str) -> None:
    """Look at what was exchanged away; if it is not what the new bundle was made of, whatever it is, put it back."""
    try:
        found = parse_manifest((replaced / MANIFEST_FILE).read_bytes()).bundle_id
    except (OSError, BundleError):
        found = "something else"
    if found != expected:
        _exchange(replaced, path)
        raise UsageError(
            explain(f"{path} was replaced meanwhile", got=found, expected=expected, remedy="run the command again")
        )


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders' names in one step, so that there is a whole bundle under the name at every instant."""
    at_here, exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_here, os.fsencode(new), at_here, os.fsencode(old), exchange):
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())} (folders' names cannot be exchanged)")


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


def _producers() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), **{name: version(name) for name in ("tensorflow", "keras", "tf2onnx")}}


def losses(score: Score) -> dict[str, float | None]:
    """Return both means of a score, as manifest and certificate write them."""
    return {"masked_mse": score.masked_mse(score.model), "observed_mse": score.observed_mse(score.model)}


def certificate_of(
    certificate: Certificate, origin: dict[str, Any], export_id: str, targets: int = 1
) -> dict[str, Any]:
    """Return the record of what was measured of the float32 form.

    Args:
        certificate: what was measured.
        origin: where the weights come from, and what was chosen.
        export_id: of the graphs.
        targets: M.
    """
    forced, free = certificate.runner
    keras_forced, keras_free = certificate.keras
    return {
        "export_id": export_id,
        "windows_digest": certificate.windows_digest,
        "tolerance": certificate.tolerance,
        "unit": "the target's deviation for predictions and memory; for states their largest value, at least 1",
        "largest_difference": certificate.largest,
        "audit": {name: asdict(facts) for name, facts in certificate.audit.items()},
        "parity": [asdict(entry) for entry in certificate.parity],
        "losses": {
            "keras": {"teacher_forced": losses(keras_forced), "free_running": losses(keras_free)},
            "runner": {"teacher_forced": losses(forced), "free_running": losses(free)},
            "windows": free.windows,
            "per_step": {
                "teacher_forced": forced.by_step(forced.model, targets),
                "free_running": free.by_step(free.model, targets),
            },
        },
        **origin,
        "producers": _producers(),
    }


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _golden(windows: WindowBatch, prediction: F32, export_id: str) -> bytes:
    columns = {**windows.context(), "future_known": windows.future_known}
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
