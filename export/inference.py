"""Read an inference model: the loop over the horizon, unrolled, in which each prediction is the next step's input.

What crosses from step to step is told by what it is, not by its name: the prediction before, a slice of the known
covariates, what all steps share (the memory), and the rest (the states).
"""

from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from export.calls import record
from export.config import Start
from export.dissected import STATE_NAMES
from export.inference_inputs import ROLES, roles_of
from export.repeats import Column, Makers, crossings, made_alike, makers_of, predictions_of
from runner.batch import F32
from runner.errors import CertificationError, explain
from runner.schema import Sizes
from runner.score import naive_last

WINDOWS = 4
SEED = 0
Kind = Literal["memory", "previous", "known", "state"]
"""What a column is that crosses into the steps."""


@dataclass(frozen=True, slots=True)
class UnrolledLoop:
    """The loop of an inference model. A column has one tensor for each step.

    Attributes:
        inputs: symbolic inputs by role.
        output: what the model returns, [B, H] or [B, H, 1].
        makers: of all tensors.
        predictions: by step.
        previous: where the prediction before is read.
        known: where `future_known` of the step is read.
        states: the recurrent tensors by name.
        memory: what all steps read of the context, by name.
        drawn: values of the inputs by role, that the model was run on.
        first: what stood for the prediction before the first one, on these [WINDOWS, 1].
    """

    inputs: dict[str, Any]
    output: Any
    makers: Makers
    predictions: Column
    previous: tuple[Column, ...]
    known: tuple[Column, ...]
    states: dict[str, Column]
    memory: dict[str, Any]
    drawn: dict[str, F32]
    first: F32

    @property
    def context(self) -> list[Any]:
        return [self.inputs[role] for role in ROLES[:2] if role in self.inputs]

    def first_maker(self) -> str:
        """Return the name of the layer that gives what stands for the prediction before the first."""
        return maker_of(self.previous[0][0], self.makers)

    def start(self) -> tuple[Start, int | None] | None:
        """Return the first decoder input, and the feature whose last value it is; None where it is neither of these."""
        if np.ptp(self.first) == 0:
            return float(self.first[0, 0]), None
        past = self.drawn["past"].astype(np.float64)
        there = self.drawn["past_observed"] == 1 if "past_observed" in self.drawn else np.ones(past.shape[:2], bool)
        for feature in range(past.shape[2]):
            if np.array_equal(naive_last(past[:, :, feature], there).astype(np.float32), self.first[:, 0]):
                return "last", feature
        return None


def read_loop(model: Any, sizes: Sizes) -> UnrolledLoop:
    """Find the loop in an inference model.

    Args:
        model: a Functional model (past, past_observed?, future_known?) -> predictions [B, H] or [B, H, 1].
        sizes: C, H, F and K.

    Raises:
        CertificationError: there is none, or its steps are not alike; says which layer is in the way, and why.
    """
    import keras

    roles = roles_of(model)
    inputs = {role: keras.Input(sizes.shape(role), name=role) for role in ROLES if role in roles}
    outputs, calls = record(model, [inputs[role] for role in sorted(roles, key=roles.__getitem__)])
    makers = makers_of(calls)
    if len(outputs) != 1:
        got = ", ".join(makers[id(output)].name for output in outputs)
        remedy = "keras.Model(inputs, its output of that target)"
        raise CertificationError(explain("the model has several outputs", got=got, expected="one", remedy=remedy))
    predictions = predictions_of(outputs[0], sizes.horizon, makers)
    _refuse_unlike(predictions, makers, 1)
    columns = crossings(predictions, makers)
    drawn = {role: _draw(role, entry) for role, entry in inputs.items()}
    values = _values(inputs, drawn, [outputs[0], *predictions, *(tensor for column in columns for tensor in column)])
    _refuse_changed(outputs[0], predictions, values, makers)
    return _sorted(inputs, outputs[0], makers, predictions, columns, drawn, values)


def refuse_call(tensor: Any, makers: Makers, why: str, remedy: str) -> NoReturn:
    """Refuse an inference model because of the layer that gives a tensor.

    Raises:
        CertificationError: always.
    """
    call = makers.get(id(tensor))
    layer = f"layer {call.name}" if call else f"input {getattr(tensor, 'name', 'without a name')}"
    what = f"no single step can be taken out of the inference model: {layer}"
    raise CertificationError(explain(what, got=why, remedy=f"{remedy}; or give the training model"))


def _draw(role: str, entry: Any) -> F32:
    rng = np.random.default_rng([SEED, ROLES.index(role)])
    shape = (WINDOWS, *entry.shape[1:])
    drawn = rng.random(shape) < 0.5 if role == "past_observed" else rng.normal(size=shape)
    return drawn.astype(np.float32)


def _values(inputs: dict[str, Any], drawn: dict[str, F32], tensors: list[Any]) -> dict[int, F32]:
    """Return what tensors are for the drawn inputs [WINDOWS, ...], by identity."""
    import keras

    wanted = list({id(tensor): tensor for tensor in tensors if isinstance(tensor, keras.KerasTensor)}.values())
    try:
        run = keras.Model(list(inputs.values()), wanted)
        found = run.predict_on_batch([drawn[role] for role in inputs])
    except Exception as error:
        raise CertificationError(explain("the inference model cannot be run", got=error)) from error
    return {id(tensor): np.asarray(value) for tensor, value in zip(wanted, found, strict=True)}


def _refuse_changed(output: Any, predictions: Column, values: dict[int, F32], makers: Makers) -> None:
    """Refuse a model that returns something else than its predictions side by side."""
    whole = values[id(output)].reshape(WINDOWS, -1)
    if not np.isfinite(whole).all():
        refuse_call(output, makers, "its forecasts are not finite", "are its weights?")
    side_by_side = np.concatenate([values[id(tensor)].reshape(WINDOWS, 1) for tensor in predictions], axis=1)
    if not np.array_equal(whole, side_by_side):
        remedy = "return them as they are; what was scaled outside the loop is told by --scaler"
        refuse_call(output, makers, "it gives something else than the predictions that are fed back", remedy)


def _sorted(
    inputs: dict[str, Any],
    output: Any,
    makers: Makers,
    predictions: Column,
    columns: list[Column],
    drawn: dict[str, F32],
    values: dict[int, F32],
) -> UnrolledLoop:
    flat = {key: value.reshape(WINDOWS, -1) for key, value in values.items()}
    kinds: dict[Kind, list[Column]] = {"memory": [], "previous": [], "known": [], "state": []}
    for column in columns:
        kinds[_kind(column, predictions, flat, drawn.get("future_known"))].append(column)
    for column in kinds["state"]:
        _refuse_unlike(column[1:], makers, 2)
    starts = [flat[id(column[0])] for column in kinds["previous"] if id(column[0]) in flat]
    if not starts or not all(_same(flat.get(id(column[0])), starts[0]) for column in kinds["previous"]):
        why = "no later step reads the prediction before it, as it is, in place of one first value"
        refuse_call(predictions[0], makers, why, "feed each prediction to the next step")
    memory = [column[0] for column in kinds["memory"]]
    return UnrolledLoop(
        inputs=inputs,
        output=output,
        makers=makers,
        predictions=predictions,
        previous=tuple(kinds["previous"]),
        known=tuple(kinds["known"]),
        states=_named(kinds["state"], makers),
        memory={"memory" if index == 0 else f"memory_{index}": tensor for index, tensor in enumerate(memory)},
        drawn=drawn,
        first=starts[0],
    )


def _kind(column: Column, predictions: Column, flat: dict[int, F32], future: F32 | None) -> Kind:
    """Tell what a column is, by the numbers that it has on drawn inputs [WINDOWS, numbers]."""
    if all(tensor is column[0] for tensor in column):
        return "memory"
    found = [flat.get(id(tensor)) for tensor in column]
    if all(_same(value, flat[id(before)]) for value, before in zip(found[1:], predictions, strict=False)):
        return "previous"
    if future is not None and all(_same(value, future[:, step]) for step, value in enumerate(found)):
        return "known"
    return "state"


def _same(value: F32 | None, other: F32) -> bool:
    return value is not None and np.array_equal(value, other)


def _refuse_unlike(tensors: Column, makers: Makers, first: int) -> None:
    """Refuse steps that are not alike: what they give must be the same output of the same layers.

    Args:
        tensors: by step.
        makers: of all tensors.
        first: number of the first of these steps.
    """
    for step, tensor in enumerate(tensors[1:], start=first + 1):
        if not made_alike([tensors[0], tensor], makers):
            why = f"step {first} gives this, where step {step} has {maker_of(tensor, makers)}: the steps are not alike"
            refuse_call(tensors[0], makers, why, "let every step make the same calls")


def maker_of(tensor: Any, makers: Makers) -> str:
    """Return the name of the layer that gives a tensor."""
    call = makers.get(id(tensor))
    return f"layer {call.name}" if call else "an input"


def _named(carried: list[Column], makers: Makers) -> dict[str, Column]:
    """Name the states as those of a training model's layers are; what no recurrent layer gives is `carried`."""
    named: dict[str, Column] = {}
    for column in carried:
        call = makers.get(id(column[1]))
        kind = type(call.operation).__name__.removesuffix("Cell") if call else ""
        names, last = STATE_NAMES.get(kind, ("carried",)), call is not None and call.gives()[-1] is column[1]
        name = names[-1] if last else names[0]
        count = sum(other.split("_")[0] == name for other in named)
        named[name if count == 0 else f"{name}_{count}"] = column
    return named
