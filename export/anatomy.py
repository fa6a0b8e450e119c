"""Take a trained model apart: an encoder and a decoder of a single step, around the layers of the model itself."""

from typing import Any

import numpy as np

from export.calls import Call, Tensors, replay
from export.config import Start
from export.dissected import Dissected, Recurrent, sort_calls
from export.model import Forecasters
from export.model_inputs import INPUT_ROLES
from export.same_forecasts import refuse_other_forecasts
from export.steps import Cut, own, run_one_step
from runner.batch import Feature, features_of
from runner.errors import CertificationError, explain
from runner.schema import Sizes


def dissect(training: Any, start: Start, feature: Feature, sizes: Sizes | None = None) -> Forecasters:
    """Make encoder and single-step decoder of a training model, around the same layers.

    Args:
        training: a Functional Keras model (past, past_observed?, decoder input, future_known?) -> predictions.
        start: the decoder's first input: a constant in raw units, or the last observed target.
        feature: index of the target among the past features, of several targets one for each.
        sizes: C, H, F, K and M, for a model that leaves C or H open.

    Returns:
        The models, sharing every weight with the one given, whose stateful layers are so no more. Inputs have our names
        and our order.

    Raises:
        CertificationError: the model cannot be run step by step; says which layer is in the way, and why.
    """
    return forecasters_of(sort_calls(training, sizes), start, feature)


def forecasters_of(parts: Dissected, start: Start, feature: Feature) -> Forecasters:
    """Build encoder and step from sorted calls, and refuse them if they do not forecast as the training model does.

    Raises:
        CertificationError: as `dissect`.
    """
    import keras

    previous = start_tensor(parts.inputs["past"], parts.inputs.get("past_observed"), start, features_of(feature))
    states = [tensor for layer in parts.recurrent for tensor in _first_state(layer, parts.inputs["past"])]
    states += [_flat(tensor, name) for name, tensor in parts.ahead.items()]
    inputs = [parts.inputs[role] for role in INPUT_ROLES if role in parts.inputs]
    output = _with_last_axis(parts.output)
    try:
        encoder = keras.Model(parts.context, [previous, *states, *parts.memory.values()], name="encoder")
        step, between = step_model(parts)
        cell_step, _ = step_model(parts, cells=True)
        models = Forecasters(
            training=keras.Model(inputs, output, name="training"),
            encoder=encoder,
            step=step,
            states=parts.states,
            memory=tuple(parts.memory),
            widths={
                **{name: tuple(tensor.shape[1:]) for name, tensor in zip(parts.states, states, strict=True)},
                **{name: tuple(tensor.shape[1:]) for name, tensor in parts.memory.items()},
            },
            cell_step=cell_step,
        )
    except CertificationError:
        raise
    except ValueError as error:
        remedy = "give every layer a name of its own"
        raise CertificationError(explain("Keras refuses the parts", got=error, remedy=remedy)) from error
    refuse_other_forecasts(models, parts.decoder, inputs, between)
    return models


def start_tensor(past: Any, observed: Any, start: Start, features: tuple[int, ...]) -> Any:
    """Return the decoder's first input as a tensor [B, M], from the context's."""
    from keras import ops

    def last(given: list[Any]) -> Any:
        raw, flags = given
        steps = np.arange(1, past.shape[1] + 1, dtype=np.float32)
        seen = ops.equal(ops.max(flags * steps, axis=1, keepdims=True), steps)
        return joined([ops.sum(ops.where(seen, raw[:, :, index], 0.0), axis=1, keepdims=True) for index in features])

    def joined(columns: list[Any]) -> Any:
        return ops.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]

    name = "freerun_previous_0"
    if start != "last":
        constants = np.full(len(features), start, np.float32)
        return own(lambda raw: ops.zeros_like(raw[:, 0, :1]) + constants, name)(past)
    if observed is None:
        return own(lambda raw: joined([raw[:, -1, index : index + 1] for index in features]), name)(past)
    return own(last, name)([past, observed])


def step_model(parts: Dissected, *, cells: bool = False) -> tuple[Any, Any]:
    """Return the model of one step, and one that returns what every call of the decoder gives in that step.

    Args:
        parts: sorted calls.
        cells: unroll the recurrent layers, so that no loop is left: much faster when called step by step.
    """
    import keras

    inputs = {"previous": keras.Input((1, parts.inputs["decoder_input"].shape[2]), name="previous")}
    tensors: Tensors = {id(parts.inputs["decoder_input"]): inputs["previous"]}
    if "future_known" in parts.inputs:
        known = parts.inputs["future_known"]
        tensors[id(known)] = inputs["future_known"] = keras.Input((1, known.shape[2]), name="future_known")
    for name, tensor in parts.memory.items():
        tensors[id(tensor)] = inputs[name] = keras.Input(tuple(tensor.shape[1:]), name=name)
    carried = _state_inputs(parts.recurrent)
    following: dict[str, Any] = {}
    for name, tensor in parts.ahead.items():
        carried[name] = keras.Input((tensor.shape[1] * tensor.shape[2],), name=name)
        tensors[id(tensor)], following[name] = _turned(carried[name], tensor, name)
    cut = Cut(parts.horizon, cells=cells)

    def make(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = next((layer for layer in parts.recurrent if layer.call is call), None)
        given = None if layer is None else [carried[name] for name in layer.names]
        outputs = run_one_step(cut, call, args, kwargs, given)
        if layer is not None:
            following.update(zip(layer.names, outputs[1:], strict=True))
        return outputs

    made = replay(parts.decoder, tensors, make)
    if id(parts.output) not in made:
        raise CertificationError("the decoder's output cannot be made step by step")
    prediction = _with_last_axis(made[id(parts.output)])
    order = ["previous", *(["future_known"] if "future_known" in inputs else [])]
    given = [*(inputs[role] for role in order), *carried.values(), *(inputs[name] for name in parts.memory)]
    outputs = [prediction, *(following[name] for name in parts.states)]
    seen = [made[id(call.gives()[0])] for call in parts.decoder]
    return keras.Model(given, outputs, name="decoder_step"), keras.Model(given, [*outputs, *seen])


def _state_inputs(recurrent: tuple[Recurrent, ...]) -> dict[str, Any]:
    import keras

    return {name: keras.Input((layer.call.operation.units,), name=name) for layer in recurrent for name in layer.names}


def _first_state(layer: Recurrent, past: Any) -> tuple[Any, ...]:
    """Return the encoder's tensors that a layer begins with [B, U]."""
    if layer.initial is not None:
        return layer.initial
    from keras import ops

    zeros = np.zeros((1, layer.call.operation.units), np.float32)
    return tuple(
        own(lambda raw: ops.zeros_like(raw[:, 0, :1]) + zeros, f"freerun_{name}")(past) for name in layer.names
    )


def _flat(tensor: Any, name: str) -> Any:
    """Return what is still to come, [B, H, K], as a state [B, H * K]."""
    from keras import ops

    return own(lambda given: ops.reshape(given, (-1, tensor.shape[1] * tensor.shape[2])), f"freerun_{name}")(tensor)


def _turned(state: Any, tensor: Any, name: str) -> tuple[Any, Any]:
    """Return what a step reads of such a state [B, 1, K], and the state with the next step's first [B, H * K]."""
    from keras import ops

    width = tensor.shape[2]
    now = own(lambda given: given[:, None, :width], f"freerun_{name}_now")(state)
    turn = own(lambda given: ops.concatenate([given[:, width:], given[:, :width]], axis=1), f"freerun_{name}_next")
    return now, turn(state)


def _with_last_axis(tensor: Any) -> Any:
    """Return predictions [B, H, M], where a model squeezed them to [B, H] too."""
    return tensor if len(tensor.shape) == 3 else own(lambda given: given[:, :, None], "freerun_prediction")(tensor)
