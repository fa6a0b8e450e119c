"""Prove that the graphs, driven by the runner's own loop, do what the Keras models do; or refuse them."""

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.calls import operations_of
from export.config import BundleConfig
from export.examples import context_inputs, start_values
from export.forms import FormGraphs
from export.graphs import OPSET, GraphPair, signatures
from export.model import BASE, Forecasters
from export.recurrence import OPERATORS
from export.source import TrainingWindows, trainable
from export.training import free_running, teacher_forced
from export.windows import Statistics
from runner.audit import GraphFacts, audit_graph
from runner.batch import F32, F64, WindowBatch
from runner.decode import Loop, encoder_feeds, teacher_inputs
from runner.device import Device, cpu_count
from runner.errors import BundleError, CertificationError, InputError, explain
from runner.forecaster import Forecaster, open_loop
from runner.gap.windows import digest_of
from runner.manifest import Manifest
from runner.score import score_block
from runner.session import open_session
from runner.stop import Stop
from runner.totals import Score

BATCH_SIZES = (1, 2, 7, 64)
PARITY = 1e-5
"""The largest difference allowed, in target deviations; for states in units of their largest value, at least 1."""
RESOLUTION_STEPS = 4
"""Predictions may differ by so many float32 steps at the target's level, where that is more than PARITY."""
GOLDEN_WINDOWS = 8
OPERATOR_OF_CELL = {"LSTMCell": "LSTM", **OPERATORS}
"""The ONNX operator that a Keras layer of such cells becomes."""
VALIDATION_BATCH = 128
COARSEST = 1e-2
"""Deviations that a tolerance may reach at most; beyond it, it would let anything pass."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest absolute differences between Keras and the runner's loop for one batch size.

    Attributes:
        encoder: by output of the encoder.
        step: by output of one step.
        teacher_forced, free_running: by horizon step, in deviations of the target; the largest of several targets.
        fused_teacher_forced, fused_free_running: the same for the fused graph; empty where there is none.
    """

    batch_size: int
    encoder: dict[str, float]
    step: dict[str, float]
    teacher_forced: tuple[float, ...]
    free_running: tuple[float, ...]
    fused_teacher_forced: tuple[float, ...] = ()
    fused_free_running: tuple[float, ...] = ()

    def largest(self) -> float:
        return max(
            *self.encoder.values(), *self.step.values(), *(v for values in self.loops().values() for v in values)
        )

    def loops(self) -> dict[str, tuple[float, ...]]:
        """Return the differences by horizon step of each loop that was run."""
        return {
            "teacher-forced": self.teacher_forced,
            "free-running": self.free_running,
            "fused teacher-forced": self.fused_teacher_forced,
            "fused free-running": self.fused_free_running,
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured before a bundle was let out.

    Attributes:
        audit: operators of each graph.
        parity: one entry for each batch size.
        keras, runner: exact losses on the validation windows, (teacher-forced, free-running).
        tolerance: the largest difference allowed in predictions, in deviations of the target.
        windows_digest: of the validation windows.
    """

    audit: dict[str, GraphFacts]
    parity: tuple[Parity, ...]
    keras: tuple[Score, Score]
    runner: tuple[Score, Score]
    tolerance: float
    windows_digest: str

    @property
    def largest(self) -> float:
        return max((entry.largest() for entry in self.parity), default=0.0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair of graphs that asks to be let out, and the Keras models that it must equal."""

    models: Forecasters
    graphs: FormGraphs
    manifest: Manifest
    config: BundleConfig


def tolerance_for(statistics: Statistics) -> float:
    """Return the largest difference allowed in predictions, in deviations of each target: the widest of theirs.

    Raises:
        CertificationError: float32 cannot tell the targets apart.
    """
    return max(tolerance_of(target.level, target.scale) for target in statistics.targets)


def tolerance_of(level: float, deviation: float) -> float:
    """Return the largest difference allowed in predictions, in deviations of the target.

    A forecast of 101,325 with a deviation of 220 cannot be told in float32 to 1e-5 deviations: one step of float32 is
    already 3.5e-5 of them.

    Args:
        level: the largest absolute target seen in training.
        deviation: of the targets.

    Raises:
        CertificationError: float32 cannot tell the targets apart.
    """
    resolution = RESOLUTION_STEPS * float(np.spacing(np.float32(level))) / deviation
    if resolution > COARSEST:
        what = f"float32 cannot hold a target of {level:.6g} that deviates by {deviation:.3g}"
        raise CertificationError(explain(what, remedy="subtract an offset from the target and its past feature"))
    return max(PARITY, resolution)


def audit_pair(models: Forecasters, graphs: GraphPair) -> dict[str, GraphFacts]:
    """Check both graphs: names and axes by role, no control flow, recurrent layers as operators, the opset asked for.

    Raises:
        CertificationError: anything of that is not so.
    """
    encoder, step = signatures(models)
    try:
        facts = {
            "encoder": audit_graph(graphs.encoder, "the encoder", encoder),
            "decoder_step": audit_graph(graphs.decoder_step, "the decoder step", step),
        }
    except BundleError as error:
        raise CertificationError(str(error)) from error
    problems: list[tuple[str, object, object]] = []
    for (name, found), model in zip(facts.items(), (models.encoder, models.step), strict=True):
        for kind, wanted in recurrent_operators(model).items():
            if found.operators.get(kind, 0) < wanted:
                problems.append((f"{name}: {kind} operators", found.operators.get(kind, 0), wanted))
    problems += [(f"{name}: opset", found.opset, OPSET) for name, found in facts.items() if found.opset != OPSET]
    if problems:
        raise CertificationError(_table("the converted graphs are not what was asked for", problems))
    return facts


def recurrent_operators(model: Any) -> Counter[str]:
    """Return how many ONNX operators of each kind a model's recurrent layers should become, at least.

    Both directions of a bidirectional layer may be one operator.
    """
    layers = [getattr(operation, "forward_layer", operation) for operation in operations_of(model)]
    kinds = [OPERATOR_OF_CELL.get(type(getattr(layer, "cell", None)).__name__) for layer in layers]
    return Counter(kind for kind in kinds if kind)


def certify(
    candidate: Candidate, valid: TrainingWindows, audit: dict[str, GraphFacts], keras_losses: tuple[Score, Score]
) -> Certificate:
    """Compare Keras and the runner's loop on validation windows.

    Args:
        candidate: the graphs, their manifest, and the Keras models.
        valid: validation windows.
        audit: what `audit_pair` found.
        keras_losses: the Keras models' losses on all of them, (teacher-forced, free-running).

    Returns:
        All differences and losses.

    Raises:
        CertificationError: a difference above the tolerance; a table names all of them.
    """
    sample = first_windows(valid, max(BATCH_SIZES))
    parity = tuple(_compare(candidate, _repeat(sample, size)) for size in BATCH_SIZES)
    losses = losses_of(candidate.manifest, candidate.graphs, valid)
    digest = digest_of(trainable(block) for block in valid.blocks())
    certificate = Certificate(audit, parity, keras_losses, losses, candidate.manifest.tolerances.parity, digest)
    problems = [*_differences(certificate), *_loss_differences(certificate, candidate.manifest.scales)]
    if problems:
        raise CertificationError(_table("the graphs do not do what the Keras model does", problems))
    return certificate


def first_windows(valid: TrainingWindows, count: int) -> WindowBatch:
    """Return up to `count` good windows with a target, from the front of the data.

    Raises:
        InputError: there is none.
    """
    for block in valid.blocks():
        kept = trainable(block)
        if len(kept):
            return kept.take(slice(0, count))
    raise InputError("the validation data has no good window with a target")


def production_loop(manifest: Manifest, graphs: FormGraphs) -> Loop:
    """Return the loop that the runner would use for these graphs, on the CPU, for batches of any size."""
    return open_loop(manifest, graphs.by_key(), Device("cpu"), Stop())


def losses_of(manifest: Manifest, graphs: FormGraphs, valid: TrainingWindows) -> tuple[Score, Score]:
    """Score all validation windows with the runner's own loop; return both scores, (teacher-forced, free-running)."""
    totals: dict[bool, Score] = {}
    loop = open_loop(manifest, graphs.by_key(), Device("cpu"), Stop(), VALIDATION_BATCH)
    with ThreadPoolExecutor(cpu_count()) as pool:
        forecaster = Forecaster(manifest, loop, pool, VALIDATION_BATCH)
        for block in valid.blocks():
            kept = trainable(block)
            for teacher in (True, False):
                prediction = forecaster.predict(kept, teacher=teacher)
                score = score_block(kept, prediction, manifest.target_features, manifest.season_length)
                if score:
                    totals[teacher] = totals[teacher] + score if teacher in totals else score
    return totals[True], totals[False]


def _compare(candidate: Candidate, batch: WindowBatch) -> Parity:
    """Run Keras, the two graphs in the plain loop, and the fused graph over the same windows."""
    models, manifest, config = candidate.models, candidate.manifest, candidate.config
    feature = manifest.target_features
    keras = {True: teacher_forced(models, batch, config, feature), False: free_running(models, batch)}
    plain = replace(candidate.graphs, fused=None)
    loops = [
        production_loop(manifest, graphs) for graphs in (plain, candidate.graphs) if graphs.fused or graphs is plain
    ]
    found = [
        _by_step(loop(batch, teacher) - keras[teacher], manifest.scales) for loop in loops for teacher in (True, False)
    ]
    return Parity(len(batch), *_inner_differences(candidate, batch), *found)


def _inner_differences(candidate: Candidate, batch: WindowBatch) -> tuple[dict[str, float], dict[str, float]]:
    """Compare every output of the encoder, and of one step from Keras' own state, by name."""
    models, manifest, graphs = candidate.models, candidate.manifest, candidate.graphs
    encoder, step = (
        open_session(graph, name, Device("cpu"), threads=1, stop=Stop())
        for name, graph in (("encoder", graphs.encoder), ("decoder_step", graphs.decoder_step))
    )
    context = models.encoder.predict_on_batch(context_inputs(batch))
    encoded = dict(zip(models.encoder_roles, context, strict=True))
    start = start_values(batch, candidate.config, manifest.target_features)
    feeds = {"previous": teacher_inputs(start, batch)[:, None, -manifest.target_width :]}
    if batch.future_known is not None:
        feeds["future_known"] = np.ascontiguousarray(batch.future_known[:, -1:])
    feeds |= {name: encoded[name] for name in (*models.states, *models.memory)}
    returned = dict(zip(models.step_roles, models.step.predict_on_batch(list(feeds.values())), strict=True))
    raw = ("location", "scale", BASE, f"{BASE}_next")
    units: dict[str, float | F64] = dict.fromkeys(raw, max(manifest.scales))
    units |= dict.fromkeys(("previous_0", "prediction"), np.array(manifest.scales))
    return (
        _by_name(encoder(encoder_feeds(manifest, batch)), encoded, units),
        _by_name(step(feeds), returned, units),
    )


def _by_name(found: dict[str, F32], expected: dict[str, Any], units: dict[str, float | F64]) -> dict[str, float]:
    differences = {}
    for name, value in expected.items():
        other = np.asarray(value)
        unit = units.get(name, max(1.0, float(np.abs(other).max())))  # cell states grow with the context
        differences[name] = float(np.max(np.abs(found[name].reshape(other.shape) - other) / unit))
    return differences


def _by_step(difference: F32, scales: tuple[float, ...]) -> tuple[float, ...]:
    """Return the largest difference of each step, each target's in its own deviation [H]."""
    largest = np.abs(difference).max(axis=0).reshape(-1, len(scales))
    return tuple((largest / np.array(scales)).max(axis=1).tolist())


def _repeat(batch: WindowBatch, size: int) -> WindowBatch:
    return batch.take(np.resize(np.arange(len(batch)), size))


def _differences(certificate: Certificate) -> list[tuple[str, object, object]]:
    problems: list[tuple[str, object, object]] = []
    for entry in certificate.parity:
        found = {f"encoder {name}": value for name, value in entry.encoder.items()}
        found |= {f"step {name}": value for name, value in entry.step.items()}
        for mode, values in entry.loops().items():
            found |= {f"{mode} step {index + 1}": value for index, value in enumerate(values)}
        for name, value in found.items():
            allowed = PARITY if "hidden" in name or "cell" in name else certificate.tolerance
            if not value <= allowed:
                problems.append((f"batch {entry.batch_size}: {name}", f"{value:.3g}", f"at most {allowed:.3g}"))
    return problems


def _loss_differences(certificate: Certificate, scales: tuple[float, ...]) -> list[tuple[str, object, object]]:
    problems: list[tuple[str, object, object]] = []
    modes = zip(("teacher-forced", "free-running"), certificate.runner, certificate.keras, strict=True)
    for (mode, *both), (index, scale) in itertools.product(modes, enumerate(scales)):
        ours, theirs = (score.of_target(index, len(scales)) for score in both)
        got, expected = ours.observed_mse(ours.model), theirs.observed_mse(theirs.model)
        if got is not None and expected is not None and not abs(got - expected) <= certificate.tolerance * scale**2:
            which = f" of target {index + 1}" if len(scales) > 1 else ""
            problems.append((f"{mode} observed MSE{which} on all windows", got, expected))
    return problems


def _table(title: str, rows: Sequence[tuple[str, object, object]]) -> str:
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  got {got}, expected {expected}" for name, got, expected in rows]
    return "\n".join([f"{title}; no bundle was written:", *lines])
