"""Windows a second of every kind of model that `freerun-export convert` takes, beside Keras, in one run.

    python benchmarks/converted_speed.py [KIND ...]

Builds each kind at a realistic size with drawn weights, converts it, and lets two take turns: Keras' `predict`
of the unrolled inference model (the model's own layers, called once a step), at the best of some batch sizes; and the
runner's loop as `freerun score` runs it, which has to make the same forecasts. From memory to memory, no Parquet.
Writes the table into docs/convert.md; of kinds that are named it only prints the rows.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bench import machine
from in_memory import windows_of
from rounds import CHECKED, Contestant, Racer, Rates, compare

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "convert.md"
BEGIN, END = "<!-- speed -->\n", "<!-- end of speed -->\n"
CONTEXT, HORIZON, UNITS = 48, 24, 64
WINDOWS, SEED, ROUNDS = 4096, 3, 7
BATCHES = (32, 256, 1024)
SAME = 1e-4
"""Deviations of the target by which two forecasts may differ that are to be compared for speed."""
PACKAGES = ("keras", "tensorflow", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Kind:
    """A model file, the bundle that was made of it, a file with windows [N, C, F], and how many targets it has."""

    model: Path
    bundle: Path
    windows: Path
    targets: int


def keras_predict(kind: Kind) -> Racer:
    """Run the unrolled inference model at the batch size that suits it best."""
    model, past = unrolled(kind), np.load(kind.windows)
    speeds = {}
    for batch in BATCHES:
        model.predict(past[:batch], batch_size=batch, verbose=0)
        speeds[batch] = _speed(lambda batch=batch: model.predict(past, batch_size=batch, verbose=0), past)
    best = max(speeds, key=lambda batch: speeds[batch])
    found = model.predict(past[:CHECKED], batch_size=best, verbose=0).reshape(CHECKED, -1)
    return Racer(lambda: _speed(lambda: model.predict(past, batch_size=best, verbose=0), past), found, f"{best}")


def unrolled(kind: Kind) -> Any:
    """Return encoder and step around the model's layers as one model, each prediction the next step's input."""
    from export.anatomy import dissect  # noqa: PLC0415  (TensorFlow, in this contestant's process alone)
    from export.model_file import open_model  # noqa: PLC0415
    from export.pipeline import start_tensorflow  # noqa: PLC0415
    from runner.schema import Sizes  # noqa: PLC0415

    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # TensorFlow's own default, and faster
    start_tensorflow(SEED)
    import keras  # noqa: PLC0415, TID251

    features = np.load(kind.windows, mmap_mode="r").shape[2]
    sizes, feature = Sizes(CONTEXT, HORIZON, features, 0, kind.targets), tuple(range(kind.targets))
    models = dissect(open_model(kind.model, trust=True), -1.0, feature, sizes)
    past = keras.Input((CONTEXT, features))
    previous, *rest = models.encoder(past)
    states, memory, steps = rest[: len(models.states)], rest[len(models.states) :], []
    previous = keras.ops.expand_dims(previous, 1)
    for _ in range(HORIZON):
        previous, *states = models.step([previous, *states, *memory])
        steps.append(previous)
    return keras.Model(past, keras.ops.concatenate(steps, axis=1))


def runner_loop(kind: Kind) -> Racer:
    """Run the bundle as `freerun score` decodes."""
    from runner.bundle import audit_bundle, open_bundle  # noqa: PLC0415  (in this contestant's process alone)
    from runner.config import Job  # noqa: PLC0415
    from runner.device import parse_device  # noqa: PLC0415
    from runner.forecaster import open_forecaster  # noqa: PLC0415
    from runner.stop import Stop  # noqa: PLC0415
    from runner.tune import settle  # noqa: PLC0415

    past, stop = np.load(kind.windows), Stop()
    opened = audit_bundle(open_bundle(kind.bundle), "fp32")
    how = settle(Job(kind.bundle, "", Path()), opened, parse_device("cpu"), len(past), stop)
    batch, first = windows_of(past), windows_of(past[:CHECKED])

    def run() -> float:
        with open_forecaster(opened, how, stop) as forecaster:
            forecaster.predict(first, teacher=False)
            return _speed(lambda: forecaster.predict(batch, teacher=False), past)

    with open_forecaster(opened, how, stop) as forecaster:
        return Racer(run, forecaster.predict(first, teacher=False))


def row(name: str, found: dict[str, Rates], scale: float) -> str:
    """Return a kind's row: the medians, and the median of the rounds' ratios; `scale` is the target's deviation.

    Raises:
        RuntimeError: the two do not forecast the same.
    """
    keras, ours = found["keras"], found["runner"]
    difference = float(np.abs(keras.forecast - ours.forecast).max()) / scale
    if difference > SAME:
        raise RuntimeError(f"{name}: the forecasts differ by {difference:.2g} deviations")
    ratio = statistics.median(a / b for a, b in zip(ours.rates, keras.rates, strict=True))
    rates = [statistics.median(one.rates) for one in (keras, ours)]
    return f"| {name} | {rates[0]:,.0f} | {keras.note} | {rates[1]:,.0f} | {ratio:.1f} |\n"


def about() -> str:
    """Return what was measured, and where."""
    found, packages = machine(), ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"C {CONTEXT}, H {HORIZON}, {UNITS} units, {WINDOWS:,} windows, medians of {ROUNDS} alternating rounds; "
        f"{found['processor']}, {found['processors granted']} cores; {packages}.\n\n"
    )


def race(work: Path, name: str, build: Any, drawn: tuple[Any, Any], targets: int) -> str:
    """Convert a kind of model, and return its row.

    Args:
        work: a folder for its files.
        name: of the kind.
        build: makes its Keras model.
        drawn: windows to certify on, and to forecast.
        targets: how many it has.
    """
    import teams  # noqa: PLC0415  (the models that the tests convert too)
    from export.config import load_bundle_config  # noqa: PLC0415
    from export.convert import Source, convert_model  # noqa: PLC0415
    from export.pipeline import start_tensorflow  # noqa: PLC0415

    work.mkdir()
    start_tensorflow(SEED)
    kind = Kind(work / "model.keras", work / "bundle", work / "windows.npy", targets)
    np.save(kind.windows, drawn[1].past)
    build().save(kind.model)
    source = Source(kind.model, str(teams.write(work / "valid.parquet", drawn[0])))
    config = load_bundle_config(None, ("target_feature=" + ",".join(map(str, range(targets))),))
    convert_model(source, kind.bundle, config, lambda _line: None, trust=True)
    both = [("keras", keras_predict), ("runner", runner_loop)]
    found = compare([Contestant(key, key, make, kind) for key, make in both], ROUNDS, work, lambda _line: None)
    return row(name, found, drawn[1].target.std())


def main() -> None:
    """Convert and measure each kind, and rewrite the table."""
    sys.path.insert(0, str(ROOT / "tests" / "export"))
    import teams  # noqa: PLC0415  (the models that the tests convert too)

    teams.CONTEXT, teams.HORIZON, teams.UNITS = CONTEXT, HORIZON, UNITS
    work, asked = Path(tempfile.mkdtemp(prefix="converted-")), sys.argv[1:]
    kinds = [(name, build, (teams.draw(), teams.draw(1, WINDOWS)), 1) for name, build in teams.MODELS.items()]
    for name, (targets, scales) in teams.SEVERAL.items():
        drawn = tuple(
            teams.draw_several(targets, max(scales, default=1.0), count) for count in (teams.WINDOWS, WINDOWS)
        )
        kinds.append((name, lambda name=name: teams.build_several(name)[0], drawn, targets))
    table = "| model | Keras, windows a second | its best batch | freerun | ratio |\n|---|---|---|---|---|\n"
    for index, (name, build, drawn, targets) in enumerate(kinds):
        if not asked or name in asked:
            table += race(work / f"{index}", name, build, drawn, targets)
            print(table.splitlines()[-1], flush=True)
    if asked:
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + about() + table + END + rest.partition(END)[2])


def _speed(run: Any, past: np.ndarray) -> float:
    started = time.perf_counter()
    run()
    return len(past) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
