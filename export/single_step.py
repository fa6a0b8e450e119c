"""Build encoder, single step and training form around the layers of an inference model."""

import math
from typing import Any

from export.anatomy import start_tensor
from export.calls import Call, Tensors, as_recorded, replay
from export.config import Start
from export.inference import UnrolledLoop, refuse_call
from export.model import Forecasters
from export.repeats import Column, needed
from export.steps import own
from runner.errors import CertificationError, explain


def forecasters_of_loop(loop: UnrolledLoop, start: Start, feature: int) -> Forecasters:
    """Make encoder and step of an unrolled loop, and the model with which its weights can be run teacher-forced.

    Args:
        loop: of an inference model.
        start: the decoder's first input: a constant, or the last observed target.
        feature: index of the target among the past features.

    Returns:
        The models, sharing every weight with the one given. `training` repeats the step over the decoder's input.

    Raises:
        CertificationError: a step reads the inputs past encoder and states; says at which layer.
    """
    import keras

    begins = {name: _flat(_first(loop, column, name), name) for name, column in loop.states.items()}
    for tensor in (*begins.values(), *loop.memory.values()):
        _refuse_future(loop, tensor)
    previous = start_tensor(loop.inputs["past"], loop.inputs.get("past_observed"), start, (feature,))
    try:
        encoder = keras.Model(loop.context, [previous, *begins.values(), *loop.memory.values()], name="encoder")
        step, cell_step = _step_model(loop), _step_model(loop, cells=True)
        training = _training_model(loop, encoder, cell_step)
    except ValueError as error:
        raise CertificationError(explain("Keras refuses the parts of the inference model", got=error)) from error
    crossing = {**begins, **loop.memory}
    return Forecasters(
        training=training,
        encoder=encoder,
        step=step,
        states=tuple(loop.states),
        memory=tuple(loop.memory),
        widths={name: tuple(tensor.shape[1:]) for name, tensor in crossing.items()},
        cell_step=cell_step,
    )


def _step_model(loop: UnrolledLoop, *, cells: bool = False) -> Any:
    """Return the model of the second step: what it reads of the first becomes its inputs.

    Args:
        loop: of an inference model.
        cells: unroll the recurrent layers, so that no loop is left.
    """
    import keras

    at = 1 if len(loop.predictions) > 2 else 0  # the states after it are read by a third
    inputs, tensors = _step_inputs(loop, at)
    prediction = loop.predictions[at]
    following = {name: column[at + 1] for name, column in loop.states.items()}
    _refuse_fed_back(loop, following, set(tensors), prediction)
    calls, others = needed([prediction, *following.values()], set(tensors), loop.makers)
    if others:
        reader = next(call for call in calls if any(tensor is others[0] for tensor in call.reads()))
        why = f"in each step it reads another part of the input {others[0].name}"
        remedy = "let the steps read one step of future_known, or all of the context"
        refuse_call(reader.gives()[0], loop.makers, why, remedy)
    made = replay(calls, tensors, _unrolled if cells else as_recorded)
    outputs = [_like(made[id(prediction)], inputs["previous"])]
    outputs += [_flat(made[id(tensor)], f"{name}_next") for name, tensor in following.items()]
    return keras.Model(list(inputs.values()), outputs, name="decoder_step")


def _step_inputs(loop: UnrolledLoop, at: int) -> tuple[dict[str, Any], Tensors]:
    """Return the inputs of a step by name, and what stands for the tensors that the step reads."""
    import keras

    inputs = {"previous": keras.Input((1, 1), name="previous")}
    tensors: Tensors = {id(column[at]): _like(inputs["previous"], column[at]) for column in loop.previous}
    if "future_known" in loop.inputs:
        width = loop.inputs["future_known"].shape[2]
        inputs["future_known"] = keras.Input((1, width), name="future_known")
        tensors |= {id(column[at]): _like(inputs["future_known"], column[at]) for column in loop.known}
    for name, column in loop.states.items():
        if column[at] is None or id(column[at]) in tensors:
            refuse_call(column[1], loop.makers, "the first step is not like the others", "begin with a state of zeros")
        inputs[name] = keras.Input((math.prod(column[at].shape[1:]),), name=name)
        tensors[id(column[at])] = _like(inputs[name], column[at])
    for name, tensor in loop.memory.items():
        tensors[id(tensor)] = inputs[name] = keras.Input(tuple(tensor.shape[1:]), name=name)
    return inputs, tensors


def _training_model(loop: UnrolledLoop, encoder: Any, step: Any) -> Any:
    """Return past, past_observed?, decoder_input [B, H, 1], future_known? -> prediction [B, H, 1]."""
    import keras

    horizon, width = len(loop.predictions), len(loop.states)
    inputs = {entry.name: keras.Input(entry.shape[1:], name=entry.name) for entry in encoder.inputs}
    context = list(inputs.values())
    inputs["decoder_input"] = keras.Input((horizon, 1), name="decoder_input")
    if "future_known" in loop.inputs:
        inputs["future_known"] = keras.Input(loop.inputs["future_known"].shape[1:], name="future_known")
    _, *rest = encoder(context)
    states, memory, predictions = rest[:width], rest[width:], []
    for h in range(horizon):
        given = [inputs[role][:, h : h + 1] for role in ("decoder_input", "future_known") if role in inputs]
        prediction, *states = step([*given, *states, *memory])
        predictions.append(prediction)
    return keras.Model(list(inputs.values()), keras.ops.concatenate(predictions, axis=1), name="training")


def _unrolled(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import keras

    layer = call.operation
    if not isinstance(layer, keras.layers.RNN):
        return as_recorded(call, args, kwargs)
    given = {"return_sequences": layer.return_sequences, "return_state": layer.return_state}
    return keras.layers.RNN(layer.cell, unroll=True, name=f"{layer.name}_unrolled", **given)(*args, **kwargs)


def _first(loop: UnrolledLoop, column: Column, name: str) -> Any:
    """Return what a state begins with: zeros, where the first step is given none."""
    if column[0] is not None:
        return column[0]
    from keras import ops

    axes = tuple(column[1].shape[1:])
    return own(lambda past: ops.zeros((ops.shape(past)[0], *axes)), f"freerun_{name}_0")(loop.inputs["past"])


def _flat(tensor: Any, name: str) -> Any:
    """Return a state as [B, U]."""
    if len(tensor.shape) == 2:
        return tensor
    from keras import ops

    width = math.prod(tensor.shape[1:])
    return own(lambda given: ops.reshape(given, (-1, width)), f"freerun_{name}_flat")(tensor)


def _like(tensor: Any, other: Any) -> Any:
    """Return a tensor with the axes of another one."""
    axes = tuple(other.shape[1:])
    if tuple(tensor.shape[1:]) == axes:
        return tensor
    from keras import ops

    return ops.reshape(tensor, (-1, *axes))


def _refuse_future(loop: UnrolledLoop, tensor: Any) -> None:
    """Refuse an encoder that reads what is known of the horizon: it would need all of it at once."""
    future = loop.inputs.get("future_known")
    if future is None:
        return
    calls, inputs = needed([tensor], set(), loop.makers)
    if any(entry is future for entry in inputs):
        reader = next(call for call in calls if any(read is future for read in call.reads()))
        why = "it reads future_known for all steps at once, or before the loop"
        remedy = "let each step read its own, future_known[:, t:t+1]"
        refuse_call(reader.gives()[0], loop.makers, why, remedy)


def _refuse_fed_back(loop: UnrolledLoop, following: dict[str, Any], given: set[int], prediction: Any) -> None:
    """Refuse a loop in which a prediction lives on otherwise than as the next step's input."""
    for tensor in following.values():
        calls, _ = needed([tensor], given, loop.makers)
        if any(call is loop.makers[id(prediction)] for call in calls):
            remedy = "feed the prediction itself to the next step"
            refuse_call(tensor, loop.makers, "it makes something else of the prediction for later steps", remedy)
