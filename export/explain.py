"""What the Keras model adds to an explanation: its own loss, its loop, and what further training would win."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.anatomy import forecasters_of
from export.config import Strategy, TrainConfig
from export.dissected import Dissected, sort_calls
from export.keras_machine import compiled, context_of, machine_of_keras
from export.model import Forecasters
from export.model_file import open_model
from export.pipeline import require_tensorflow, start_tensorflow
from export.probes import further_trained
from export.scaling_faults import scaling_faults
from export.source import TrainingWindows
from export.windows import Statistics, measure, open_windows
from runner.batch import F32, WindowBatch
from runner.config import EXPLAINING_ROLES
from runner.decode import teacher_inputs
from runner.errors import InputError, explain
from runner.gap.case import Alternative, Case
from runner.gap.explain import Say
from runner.gap.forecasts import Forecast
from runner.gap.machine import Machine, unroll
from runner.gap.walk import CONTROL, FURTHER
from runner.gap.windows import LossWindows
from runner.manifest import Manifest
from runner.schema import sizes_of

SEED = 0
PROBES: dict[str, Strategy] = {CONTROL: "teacher-forcing", FURTHER: "free-running"}


@dataclass(frozen=True, slots=True)
class Further:
    """How to train a finished network further.

    Attributes:
        train: training windows, in the layout that the bundle takes.
        statistics: of them.
        epochs: as many for each way of training.
        batch_size: windows in a step of training.
        learning_rate: at the first step; it decays along a cosine to near 0.
    """

    train: TrainingWindows
    statistics: Statistics
    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class KerasModel:
    """The training model that a bundle was made from.

    Attributes:
        name: the file's.
        parts: its calls, sorted.
        models: encoder and step around its layers.
        manifest: of the bundle.
        more: how to train it further; None = not at all.
        say: takes lines for the log.
    """

    name: str
    parts: Dissected
    models: Forecasters
    manifest: Manifest
    more: Further | None
    say: Say

    def teacher_forced(self, windows: LossWindows) -> F32:
        """Return the training model's own teacher-forced forecast [N, H]."""
        batch = windows.batch
        previous = self.machine().encode(batch).previous
        known = [] if batch.future_known is None else [batch.future_known]
        (found,) = compiled(self.models.training)(
            [*context_of(batch), teacher_inputs(previous, batch)[:, :, None], *known]
        )
        return found.reshape(len(batch), -1)

    def regularisation(self) -> float:
        """Return what its regularisers add to Keras' loss."""
        return float(np.sum([float(loss) for loss in self.models.training.losses]))

    def machine(self) -> Machine:
        """Return its loop, taken apart."""
        return machine_of_keras(self.models)

    def others(self, case: Case) -> Iterable[Alternative]:
        """Yield what would be forecast with a scaling of its graph forgotten, or applied twice."""
        return scaling_faults(self.parts, case)

    def further(self, windows: LossWindows) -> tuple[Forecast, ...]:
        """Train it further both ways from the same weights, and return the free-running forecasts."""
        if self.more is None:
            return ()
        weights = self.models.training.get_weights()
        found = []
        for name, strategy in PROBES.items():
            self.say(f"training further, {strategy}, epochs: {self.more.epochs}")
            self._train(self.more, strategy)
            found.append(Forecast(name, _free_running(self.models, windows.batch)))
            self.models.training.set_weights(weights)
        return tuple(found)

    def _train(self, more: Further, strategy: Strategy) -> None:
        start = _start(self.manifest)
        config = TrainConfig(start=start, scaling=self.manifest.scaling, batch_size=more.batch_size)
        further_trained(
            self.models,
            more.train,
            more.statistics,
            config,
            self.manifest.target.feature,
            strategy=strategy,
            epochs=more.epochs,
            learning_rate=more.learning_rate,
        )


def open_keras_model(path: Path, manifest: Manifest, more: Further | None, say: Say, *, trust: bool) -> KerasModel:
    """Open the training model of a bundle.

    Raises:
        InputError: there is no such file, or its model is of other lengths than the bundle.
        UsageError: it may run code of its author, and nobody said that it is trusted.
        CertificationError: it cannot be run step by step.
    """
    training = open_model(path, trust=trust)
    sizes = sizes_of(manifest)
    parts = sort_calls(training, None)
    wanted = (sizes.context, sizes.horizon, sizes.past, sizes.future, sizes.static_width)
    if (found := _lengths(parts)) != wanted:
        remedy = "give the model that the bundle was made of"
        raise InputError(explain(f"{path} is not that", got=_said(found), expected=_said(wanted), remedy=remedy))
    models = forecasters_of(parts, _start(manifest), manifest.target.feature)
    return KerasModel(f"{path}", parts, models, manifest, more, say)


def model_opener(asked: Mapping[str, Any], say: Say) -> Callable[[Manifest], KerasModel]:
    """Return what opens the model that the flags of `explain-gap` name, once the bundle is known.

    Args:
        asked: `model`, `trust_model`; `train`, `column`, `epochs`, `batch_size` and `learning_rate`.
        say: takes lines for the log.

    Raises:
        UsageError: TensorFlow is not installed.
    """
    require_tensorflow()

    def opened(manifest: Manifest) -> KerasModel:
        start_tensorflow(SEED)
        more = None
        if asked["train"] is not None:
            roles = {role: name for role, name in asked["column"].items() if role not in EXPLAINING_ROLES}
            told = sizes_of(manifest) if manifest.static else None  # which the data does not tell
            train = open_windows(asked["train"], manifest.past_width, roles, told)
            train = replace(train, flagged=manifest.past_observed)
            more = Further(train, measure(train), asked["epochs"], asked["batch_size"], asked["learning_rate"])
        _refuse_another(asked["model"], Path(asked["bundle"]) / manifest.certificate.file)
        return open_keras_model(asked["model"], manifest, more, say, trust=asked["trust_model"])

    return opened


def _start(manifest: Manifest) -> float | Literal["last"]:
    """Return the start value of a bundle, which has one target here."""
    return manifest.start.value if isinstance(manifest.start.value, float) else "last"


def _refuse_another(path: Path, certificate: Path) -> None:
    """Refuse a model of which the bundle's certificate says that it is another file.

    Raises:
        InputError: it is.
    """
    source = json.loads(certificate.read_bytes()).get("source", {})
    if source.get("model") == "training" and path.is_file():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != source["sha256"]:
            what, remedy = f"{path} is not the model that the bundle was made of", "give that file, or convert this one"
            raise InputError(
                explain(what, got=f"sha256 {found}", expected=f"{source['sha256']} (certificate.json)", remedy=remedy)
            )


def _said(lengths: tuple[int, ...]) -> str:
    context, horizon, past, future, static = lengths
    also = f", {static} static" if static else ""
    return f"context {context}, horizon {horizon}, {past} past and {future} future features{also}"


def _lengths(parts: Dissected) -> tuple[int, ...]:
    """Return C, H, F, K and S."""
    context, width = parts.inputs["past"].shape[1:]
    future, static = (
        parts.inputs[role].shape[-1] if role in parts.inputs else 0 for role in ("future_known", "static")
    )
    return context, parts.horizon, width, future, static


def _free_running(models: Forecasters, batch: WindowBatch) -> F32:
    machine = machine_of_keras(models)
    return unroll(machine, machine.encode(batch), batch.future_known)
