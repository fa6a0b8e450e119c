"""Hold a dissected model against the one it was made of: the decoder, step by step, must give what it gave at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.calls import Call
from export.model import Forecasters
from export.steps import refuse
from runner.errors import CertificationError, explain

WINDOWS = 3
SEED = 0
ALLOWED = 1e-4
"""In units of a tensor's largest value, at least 1: far above rounding, far below what a wrong loop does."""


def refuse_other_forecasts(models: Forecasters, decoder: tuple[Call, ...], inputs: Sequence[Any], between: Any) -> None:
    """Run the decoder at once and step by step on drawn inputs, and compare every call.

    Args:
        models: what was made of the training model.
        decoder: its calls, as recorded for the whole horizon.
        inputs: the symbolic inputs that they were recorded on.
        between: the step model with the first output of every call behind its own outputs.

    Raises:
        CertificationError: names the first layer that gives something else, so looks at more than its own step.
    """
    import keras

    rng = np.random.default_rng(SEED)
    given = {entry.name: _draw(entry, rng) for entry in inputs}
    whole_pass = keras.Model(inputs, [call.gives()[0] for call in decoder])
    try:
        at_once, stepwise = whole_pass.predict_on_batch(list(given.values())), _stepwise(models, given, between)
    except Exception as error:
        _refuse_first_that_fails(decoder, between)
        raise CertificationError(explain("the model's parts cannot be run", got=error)) from error
    for call, whole, steps in zip(decoder, _listed(at_once), stepwise, strict=True):
        if not np.isfinite(whole).all():
            refuse(call, "its forecasts are not finite: are its weights?")
        difference = np.abs(whole - steps).reshape(WINDOWS, whole.shape[1], -1).max(axis=(0, 2))
        allowed = ALLOWED * max(1.0, float(np.abs(whole).max()))
        if not (difference <= allowed).all():
            first = int(np.argmax(~(difference <= allowed))) + 1
            refuse(call, f"from step {first} on it gives something else than for the whole horizon: it looks at others")


def _refuse_first_that_fails(decoder: tuple[Call, ...], between: Any) -> None:
    """Find the layer that cannot be run on a single step though Keras has put it together."""
    import keras

    rng = np.random.default_rng(SEED)
    given = [_draw(entry, rng) for entry in between.inputs]
    for call, output in zip(decoder, between.outputs[-len(decoder) :], strict=True):
        try:
            keras.Model(between.inputs, output).predict_on_batch(given)
        except Exception as error:  # noqa: BLE001  (whatever a layer says to an input of one step is a refusal)
            refuse(call, f"it does not take one step alone: {next(iter(str(error).splitlines()), error)}")


def _stepwise(models: Forecasters, given: dict[str, Any], between: Any) -> list[Any]:
    """Return the first output of every call [windows, H, ...], made one step after the other."""
    context = [given[entry.name] for entry in models.encoder.inputs]
    _, *rest = _listed(models.encoder.predict_on_batch(context))
    states, memory = rest[: len(models.states)], rest[len(models.states) :]
    steps = []
    for h in range(given["decoder_input"].shape[1]):
        known = [given[role][:, h : h + 1] for role in ("decoder_input", "future_known") if role in given]
        _, *found = _listed(between.predict_on_batch([*known, *states, *memory]))
        states = found[: len(states)]
        steps.append(found[len(states) :])
    return [np.concatenate(outputs, axis=1) for outputs in zip(*steps, strict=True)]


def _draw(entry: Any, rng: np.random.Generator) -> Any:
    shape = (WINDOWS, *entry.shape[1:])
    if entry.name == "past_observed":
        return np.ones(shape, np.float32)
    return rng.normal(size=shape).astype(np.float32)


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
