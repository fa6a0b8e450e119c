"""A bundle made by hand, without TensorFlow, and data to score with it: what most tests start from."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.forms import make_form
from export.graphs import GraphPair
from runner.audit import EXPORT_ID_KEY
from runner.batch import WindowBatch
from runner.decode import decode
from runner.digests import canonical
from runner.manifest import FORMAT_VERSION, Manifest, bundle_id_of
from runner.terminal import run_command

C, F, H, K, U = 6, 2, 4, 1, 3
"""Context, past features, horizon, future features and units of the hand-made bundle."""


@dataclass(frozen=True, slots=True)
class Weights:
    """LSTM weights in Keras' layout: kernels [inputs, 4U], recurrent [U, 4U], bias [4U], gates i, f, c, o."""

    encoder: tuple[np.ndarray, np.ndarray, np.ndarray]
    decoder: tuple[np.ndarray, np.ndarray, np.ndarray]
    dense: np.ndarray
    bias: float
    static: np.ndarray


STATIC = {
    "numbers": ["size"],
    "categories": [
        {"name": "shop", "values": ["north", "south"], "unknown": "reject"},
        {"name": "kind", "values": ["open"], "unknown": "reserved"},
    ],
}
"""Static features of the hand-made bundle that has some; times their weights, they are added to its hidden state."""
S = 3


def draw_weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)

    def lstm(inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(rng.normal(0, 0.7, shape).astype(np.float32) for shape in ((inputs, 4 * U), (U, 4 * U), (4 * U,)))

    layers = lstm(F + 1), lstm(1 + K), rng.normal(size=(U, 1)).astype(np.float32), float(rng.normal())
    return Weights(*layers, rng.normal(size=(S, U)).astype(np.float32))


def numpy_lstm(x: np.ndarray, hidden: np.ndarray, cell: np.ndarray, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Run an LSTM over [B, T, inputs] in float64, written down from its definition; return the last states [B, U]."""
    kernel, recurrent, bias = weights
    for t in range(x.shape[1]):
        i, f, c, o = np.split(x[:, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
    return hidden, cell


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference_forecast(
    weights: Weights, past: Any, observed: Any, future: Any, teacher: Any = None, static: Any = None
) -> np.ndarray:
    """Forecast in float64: past [B, C, F], observed [B, C], future [B, H, K], teacher [B, H], static [B, S]."""
    x = np.concatenate([past * observed[:, :, None], observed[:, :, None]], axis=-1)
    zero = np.zeros((len(past), U))
    hidden, cell = numpy_lstm(x, zero, zero, weights.encoder)
    hidden = hidden if static is None else hidden + static @ weights.static
    previous, steps = np.full((len(past), 1), -1.0), []
    for h in range(H):
        step_input = np.concatenate([previous, future[:, h]], axis=1)[:, None]
        hidden, cell = numpy_lstm(step_input, hidden, cell, weights.decoder)
        steps.append(hidden @ weights.dense + weights.bias)
        previous = steps[-1] if teacher is None else teacher[:, h + 1 : h + 2]
    return np.concatenate(steps, axis=1)


def make_bundle(
    path: Path,
    seed: int = 0,
    *,
    fused: bool = False,
    int8: bool = False,
    static: bool = False,
    flags: bool = True,
    **changes: Any,
) -> Path:
    """Write a certified-looking bundle whose graphs come straight from onnx.helper.

    Args:
        path: its folder.
        seed: draws other weights, so another bundle.
        fused: let each form hold the graph of the whole horizon, made by the exporter of the same pair.
        int8: let the bundle hold the int8 form too, made by the exporter of the same pair.
        static: let the encoder take the static features of STATIC.
        flags: let the encoder take `past_observed`; without it the graph takes every step for observed.
        changes: keys of the manifest to replace before it is closed.
    """
    weights = draw_weights(seed)
    pair = make_pair(seed, static=static, flags=flags)
    golden = golden_windows(static=static)
    known = golden.past, golden.past_observed, golden.future_known
    expected = reference_forecast(weights, *known, static=golden.static).astype(np.float32)
    files = {
        "encoder.onnx": pair.encoder,
        "decoder_step.onnx": pair.decoder_step,
        "golden.parquet": _golden(golden if flags else replace(golden, past_observed=None), expected),
        "certificate.json": json.dumps({"export_id": pair.export_id}).encode(),
    }
    values = _manifest(files, pair.export_id)
    if static:
        values["static"] = STATIC
        values["encoder"]["tensors"]["static"] = "static"
    if not flags:
        values["past_observed"] = False
        del values["encoder"]["tensors"]["past_observed"]
    manifest = closed(values)
    if fused:
        files["fused.onnx"] = make_form(pair, manifest, "fp32").fused
        values["fused"] = {**_pin("fused.onnx", files["fused.onnx"]), "tensors": manifest.fused_tensors()}
    if int8:
        values["precisions"] = {"int8": _int8(pair, manifest, files, fused=fused)}
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    write_manifest(path, {**values, **changes})
    return path


def make_pair(seed: int = 0, *, static: bool = False, flags: bool = True) -> GraphPair:
    """Return the float32 graphs of the hand-made bundle."""
    weights = draw_weights(seed)
    export_id = hashlib.sha256(f"tiny {seed}".encode()).hexdigest()
    return GraphPair(_encoder(weights, export_id, static=static, flags=flags), _step(weights, export_id), export_id)


def golden_windows(*, static: bool = False) -> WindowBatch:
    """Return three windows, complete and without a target."""
    rng = np.random.default_rng(99)
    past, future = rng.normal(size=(3, C, F)).astype(np.float32), rng.normal(size=(3, H, K)).astype(np.float32)
    nothing = np.zeros(3, bool), np.zeros(3, np.uint8)
    features = np.float32([[0.5, 1, 1], [-1.5, 2, 0], [0.0, 2, 1]]) if static else None
    return WindowBatch(past, np.ones((3, C), np.float32), future, None, None, None, *nothing, features)


def _int8(pair: GraphPair, manifest: Manifest, files: dict[str, bytes], *, fused: bool) -> dict[str, Any]:
    """Lay the int8 files beside the others; return the form as the manifest lists it."""
    graphs = make_form(pair, manifest, "int8").by_key()
    if not fused:
        del graphs["fused"]
    golden = golden_windows(static=manifest.static is not None)
    encoder, step = plain_graph(graphs["encoder"]), plain_graph(graphs["decoder_step"])
    mine = {f"{name}.onnx": graph for name, graph in graphs.items()}
    mine["golden.parquet"] = _golden(golden, decode(encoder, step, manifest, golden, teacher=False))
    mine["certificate.json"] = json.dumps({"export_id": pair.export_id, "precision": "int8"}).encode()
    pins = {name.partition(".")[0]: _pin(f"int8/{name}", content) for name, content in mine.items()}
    files |= {f"int8/{name}": content for name, content in mine.items()}
    tensors = {
        "encoder": manifest.encoder.tensors,
        "decoder_step": manifest.decoder_step.tensors,
        "fused": manifest.fused_tensors(),
    }
    return {
        "fused": None,
        **{name: {**pin, "tensors": tensors[name]} if name in tensors else pin for name, pin in pins.items()},
        "certified": manifest.certified.model_dump(),
    }


def plain_graph(graph: bytes) -> Callable[[Any], dict[str, np.ndarray]]:
    """Return what runs a graph by onnxruntime alone: tensors by name in and out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _golden(windows: WindowBatch, prediction: np.ndarray) -> bytes:
    columns = {**windows.context(), "future_known": windows.future_known, "prediction": prediction}
    table = pa.table({name: values.tolist() for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def write_manifest(path: Path, values: dict[str, Any]) -> None:
    """Close a manifest over these values (its id included) and write it into the bundle."""
    content = {key: value for key, value in values.items() if key != "bundle_id"}
    with contextlib.suppress(ValueError):  # a test may want a manifest that does not fit
        content = closed(content).model_dump(mode="json")
    content["bundle_id"] = bundle_id_of(content)
    (path / "manifest.json").write_text(json.dumps(content))


def closed(values: dict[str, Any]) -> Manifest:
    """Read these values as a manifest, whatever their id."""
    return Manifest.model_validate_json(canonical({**values, "bundle_id": "0" * 64}))


def read_manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())


def _pin(name: str, content: bytes) -> dict[str, Any]:
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest(files: dict[str, bytes], export_id: str) -> dict[str, Any]:
    losses = {"masked_mse": 1.0, "observed_mse": 1.0}
    states = [
        {"encoder_output": name, "step_input": name, "step_output": f"{name}_next", "width": U}
        for name in ("hidden", "cell")
    ]
    pins = {name: _pin(name, content) for name, content in files.items()}
    encoder_names = {"past": "past", "past_observed": "past_observed", "previous_0": "previous_0"}
    step_names = {"previous": "previous", "future_known": "future_known", "prediction": "prediction"}
    return {
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "created_at": "2026-01-01T00:00:00+00:00",
        "export_id": export_id,
        "context_length": C,
        "horizon": H,
        "season_length": 2,
        "features": {"past": ["y", "x"], "future_known": ["k"]},
        "past_observed": True,
        "target": {"name": "y", "feature": 0, "scale": 1.0},
        "start": {"kind": "constant", "value": -1.0},
        "scaling": "none",
        "encoder": {**pins["encoder.onnx"], "tensors": encoder_names},
        "decoder_step": {**pins["decoder_step.onnx"], "tensors": step_names},
        "states": states,
        "memory": [],
        "mask": {"excluded": 1},
        "excluded_share": 0.1,
        "certified": {"windows": 3, "teacher_forced": losses, "free_running": losses},
        "tolerances": {"parity": 1e-5, "golden": 1e-5},
        "golden": pins["golden.parquet"],
        "certificate": pins["certificate.json"],
        "control_flow": [],
        "opset": 18,
        "producers": {"onnx": onnx.__version__},
    }


def _lstm_tensors(prefix: str, weights: Any) -> list[Any]:
    """Return ONNX's W, R and B; ONNX orders the gates i, o, f, c and keeps two biases."""

    def gates(matrix: np.ndarray) -> np.ndarray:
        i, f, c, o = np.split(matrix, 4, axis=-1)
        return np.concatenate([i, o, f, c], axis=-1)

    kernel, recurrent, bias = weights
    values = {
        "W": gates(kernel).T[None],
        "R": gates(recurrent).T[None],
        "B": np.concatenate([gates(bias), np.zeros(4 * U, np.float32)])[None],
    }
    return [numpy_helper.from_array(np.ascontiguousarray(v), f"{prefix}_{k}") for k, v in values.items()]


def _graph(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: list[Any], stamp: str) -> Any:
    def declare(entries: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in entries.items()]

    graph = helper.make_graph(nodes, "tiny", declare(inputs), declare(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {EXPORT_ID_KEY: stamp})
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _encoder(weights: Weights, export_id: str, *, static: bool, flags: bool) -> bytes:
    node = helper.make_node
    constants = [
        *_lstm_tensors("e", weights.encoder), _ints("axis0", 0), _ints("axis2", 2), _ints("zero", 0), _ints("one", 1),
        numpy_helper.from_array(np.array([[-1.0]], np.float32), "start"),
        numpy_helper.from_array(np.zeros((1, 1), np.float32), "nought"),
        *([] if flags else [numpy_helper.from_array(np.ones((1, 1), np.float32), "all")]),
    ]  # fmt: skip
    there = [
        node("Gather", ["past", "zero"], ["first_feature"], axis=2),
        node("Squeeze", ["first_feature", "axis2"], ["values"]),
        node("Mul", ["values", "nought"], ["noughts"]),
        node("Add", ["noughts", "all"], ["past_observed"]),
    ]
    nodes = [
        *([] if flags else there),
        node("Unsqueeze", ["past_observed", "axis2"], ["flags"]),
        node("Mul", ["past", "flags"], ["known"]),
        node("Concat", ["known", "flags"], ["joined"], axis=2),
        node("Transpose", ["joined"], ["by_time"], perm=[1, 0, 2]),
        node("LSTM", ["by_time", "e_W", "e_R", "e_B"], ["", "h", "c"], hidden_size=U),
        *(
            [
                node("Squeeze", ["h", "axis0"], ["read"]),
                node("MatMul", ["static", "s_W"], ["told"]),
                node("Add", ["read", "told"], ["hidden"]),
            ]
            if static
            else [node("Squeeze", ["h", "axis0"], ["hidden"])]
        ),
        node("Squeeze", ["c", "axis0"], ["cell"]),
        node("Slice", ["past_observed", "zero", "one", "one"], ["first"]),
        node("Mul", ["first", "nought"], ["zeros"]),
        node("Add", ["zeros", "start"], ["previous_0"]),
    ]
    inputs = {"past": (C, F), **({"past_observed": (C,)} if flags else {})}
    if static:
        inputs["static"] = (S,)
        constants.append(numpy_helper.from_array(weights.static, "s_W"))
    return _graph(nodes, inputs, {"previous_0": (1,), "hidden": (U,), "cell": (U,)}, constants, export_id)


def _step(weights: Weights, export_id: str) -> bytes:
    node = helper.make_node
    constants = [
        *_lstm_tensors("d", weights.decoder), _ints("axis0", 0), _ints("axis1", 1),
        numpy_helper.from_array(weights.dense, "dense"),
        numpy_helper.from_array(np.array([weights.bias], np.float32), "bias"),
    ]  # fmt: skip
    nodes = [
        node("Concat", ["previous", "future_known"], ["joined"], axis=2),
        node("Transpose", ["joined"], ["by_time"], perm=[1, 0, 2]),
        node("Unsqueeze", ["hidden", "axis0"], ["h0"]),
        node("Unsqueeze", ["cell", "axis0"], ["c0"]),
        node("LSTM", ["by_time", "d_W", "d_R", "d_B", "", "h0", "c0"], ["", "h", "c"], hidden_size=U),
        node("Squeeze", ["h", "axis0"], ["hidden_next"]),
        node("Squeeze", ["c", "axis0"], ["cell_next"]),
        node("MatMul", ["hidden_next", "dense"], ["weighted"]),
        node("Add", ["weighted", "bias"], ["flat"]),
        node("Unsqueeze", ["flat", "axis1"], ["prediction"]),
    ]
    inputs = {"previous": (1, 1), "future_known": (1, K), "hidden": (U,), "cell": (U,)}
    return _graph(nodes, inputs, {"prediction": (1, 1), "hidden_next": (U,), "cell_next": (U,)}, constants, export_id)


def make_table(rows: int, seed: int = 0, *, static: bool = False) -> pa.Table:
    """Return good windows for the hand-made bundle, with an id, a masked target and missing context steps."""
    rng = np.random.default_rng(seed)
    there = rng.random((rows, C)) < 0.8
    there[:, 0] = True
    past = np.where(there[:, :, None], rng.normal(size=(rows, C, F)), np.nan).astype(np.float32)
    mask = rng.random((rows, H)) < 0.1
    columns = {
        "id": np.arange(rows) + 1000 * seed,
        "past": nested(past),
        "past_observed": nested(there),
        "future_known": nested(rng.normal(size=(rows, H, K)).astype(np.float32)),
        "target": nested(np.where(mask, 1e6, rng.normal(size=(rows, H))).astype(np.float32)),
        "mask": nested(mask.astype(np.uint8)),
        "note": [f"row {index}" for index in range(rows)],
    }
    if static:
        columns["static"] = nested(rng.normal(size=(rows, 1)).astype(np.float32))
        columns["shop"] = rng.choice(["north", "south"], rows)
        columns["kind"] = rng.choice(["open", "shut"], rows)
    return pa.table(columns)


def nested(values: np.ndarray) -> pa.Array:
    """Return rows of any number of axes as nested fixed-size lists."""
    array = pa.array(np.ascontiguousarray(values).ravel())
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def write_dataset(folder: Path, rows_by_file: dict[str, int], row_group_size: int = 50) -> Path:
    """Write one file of good windows for each entry, each drawn with a seed of its own."""
    for seed, (name, rows) in enumerate(rows_by_file.items()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(make_table(rows, seed), target, row_group_size=row_group_size)
    return folder


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def run_freerun(*args: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Finished:
    """Run the `freerun` command as a user would, in a process of its own."""
    command = [sys.executable, "-c", "import sys; from runner.cli import main; main()", *map(str, args)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(env or {})}, cwd=cwd, timeout=120, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def within(monkeypatch) -> Callable[..., Finished]:
    """Return what runs one of our programs within this process, descriptors and all: a tenth of the time."""

    def run(program: Any, *args: object) -> Finished:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, monkeypatch.context() as patched:
            kept = os.dup(1), os.dup(2)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            patched.setattr("sys.argv", ["program", *map(str, args)])
            patched.setattr("sys.stdout", os.fdopen(os.dup(1), "w"))
            patched.setattr("sys.stderr", os.fdopen(os.dup(2), "w"))
            try:
                code = run_command(program)
                sys.stderr.close()
            finally:
                for target, descriptor in enumerate(kept, start=1):
                    os.dup2(descriptor, target)
                    os.close(descriptor)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return Finished(code, *texts)

    return run


@dataclass(frozen=True, slots=True)
class Tiny:
    """What the hand-made bundle is, for tests that take it apart or score with it."""

    make_bundle: Callable[..., Path] = make_bundle
    write_manifest: Callable[..., None] = write_manifest
    read_manifest: Callable[[Path], dict[str, Any]] = read_manifest
    make_table: Callable[..., pa.Table] = make_table
    write_dataset: Callable[..., Path] = write_dataset
    draw_weights: Callable[[int], Weights] = draw_weights
    reference_forecast: Callable[..., np.ndarray] = reference_forecast
    numpy_lstm: Callable[..., tuple[np.ndarray, np.ndarray]] = numpy_lstm
    make_pair: Callable[..., GraphPair] = make_pair
    golden_windows: Callable[..., WindowBatch] = golden_windows
    run_graph: Callable[[bytes], Callable[[Any], dict[str, np.ndarray]]] = plain_graph
    nested: Callable[[np.ndarray], pa.Array] = nested
    sizes: tuple[int, int, int, int, int] = (C, F, H, K, U)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def freerun() -> Callable[..., Finished]:
    return run_freerun


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hand-made bundle that no test may change."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hand-made bundle with all that a bundle can hold, that no test may change."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "full", fused=True, int8=True)


@pytest.fixture(scope="session")
def static_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hand-made bundle with static features, in every form, that no test may change."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "static", fused=True, int8=True, static=True)


@pytest.fixture(scope="session", autouse=True)
def cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep measurements of the tests away from the user's, in this process and in those it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return a folder of three files, one of them in a hive partition."""
    return write_dataset(tmp_path / "in", {"a.parquet": 130, "b.parquet": 70, "date=2026-11-23/c.parquet": 41})
