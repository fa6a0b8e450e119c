"""Layers that were left as they are in training: dropout that is on, and recurrent layers that keep their state."""

from typing import Any

import numpy as np

from export.calls import Call, Tensors, replay
from export.dissected import Dissected
from export.keras_machine import Compiled, compiled, context_of
from runner.batch import F32, F64, WindowBatch
from runner.gap.case import Alternative, Case
from runner.gap.machine import Encoded, unroll
from runner.gap.suspects import Suspect

DRAWS = 24
LIKE_A_DRAW = (0.6, 1.6)
"""How far forecasts lie from the mean of runs with dropout, in deviations of these runs, if they are one of them."""
GROUPS = 4
"""Of cells, by how much these runs differ there: noise of somebody else's has another size in some of them."""


def dropout_suspect(training: Any, case: Case) -> Suspect | None:
    """Judge whether forecasts were made with dropout on: whether they look like one more of such runs.

    Args:
        training: the training model, its inputs named and ordered as ours.
        case: the forecasts.

    Returns:
        None where the model draws nothing in training.
    """
    run = compiled(training, training=True)
    fed = [] if case.batch.future_known is None else [case.batch.future_known]
    arrays = [*context_of(case.batch), case.inputs[:, :, None], *fed]
    draws = np.stack([run(arrays)[0].reshape(case.given.shape).astype(np.float64) for _ in range(DRAWS)])
    spread = draws.std(axis=0, ddof=1)
    if float(spread.max()) < 1e-6 * case.scale:
        return None
    distance = np.abs(case.given - draws.mean(axis=0))
    said = (
        "The predictions lie as far from the model's as runs with dropout lie from each other: it was left on; run the "
        "model with training=False, or with predict."
    )
    return Suspect("dropout", said, float(distance.max()) / case.scale, _is_a_draw(distance, spread))


def _is_a_draw(distance: F64, spread: F64) -> bool:
    """Tell whether distances from a mean are as large as the spread says, where it is small and where it is large."""
    order = np.argsort(spread, axis=None)
    far = (distance.ravel()[order] / np.maximum(spread.ravel()[order], np.finfo(np.float32).tiny)) ** 2
    typical = [float(np.sqrt(group.mean())) for group in np.array_split(far, GROUPS) if len(group)]
    return LIKE_A_DRAW[0] < min(typical) and max(typical) < LIKE_A_DRAW[1]


def stateful_alternative(
    parts: Dissected, case: Case, whole: WindowBatch, rows: np.ndarray, batch_size: int
) -> Alternative | None:
    """Simulate an encoder that begins each batch with the states which the batch before left.

    Args:
        parts: of the training model.
        case: the forecasts to be explained.
        whole: all windows in the order of the data [M, ...].
        rows: which of them the case has [N].
        batch_size: of the first batch: the number of the first row that is wrong.

    Returns:
        Forecasts for the windows of the second batch, NaN for others; None where the encoder cannot be given a state.
    """
    encoder = _encoder_with_states(parts)
    second = (rows >= batch_size) & (rows < 2 * batch_size)
    if encoder is None or not second.any():
        return None
    run, widths = encoder
    before = whole.take(rows[second] - batch_size)
    zeros = [np.zeros((len(before), width), np.float32) for width in widths]
    left = run([*context_of(before), *zeros])[-len(widths) :]
    begun = run([*context_of(case.batch.take(np.flatnonzero(second))), *left])
    prediction = np.full_like(case.given, np.nan)
    prediction[second] = _run_from(case, second, dict(zip(parts.states, begun, strict=False)))
    said = (
        f"A recurrent layer of the encoder is stateful: after {batch_size} windows, a batch, it went on from the "
        "states of the batch before; set stateful=False, or reset the states before each batch."
    )
    return Alternative("stateful", said, prediction)


def _run_from(case: Case, rows: np.ndarray, state: dict[str, F32]) -> F32:
    """Run the loop of some windows from other states."""
    batch = case.batch.take(np.flatnonzero(rows))
    memory = {name: tensor[rows] for name, tensor in case.encoded.memory.items()}
    encoded = Encoded(case.encoded.previous[rows], state, memory)
    return unroll(case.machine, encoded, batch.future_known, np.ascontiguousarray(case.inputs[rows]))


def _encoder_with_states(parts: Dissected) -> tuple[Compiled, list[int]] | None:
    """Return the encoder with the first state of its recurrent layers as inputs, their last as outputs; and widths."""
    import keras

    begun: list[Any] = []
    left: list[Any] = []

    def make(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = call.operation
        if not hasattr(layer, "cell"):
            return layer(*args, **kwargs)
        inputs = [keras.Input((layer.units,), name=f"{layer.name}_{i}") for i in range(_state_count(layer))]
        settings = {"return_sequences": layer.return_sequences, "go_backwards": layer.go_backwards}
        again = keras.layers.RNN(layer.cell, return_state=True, name=f"{layer.name}_stateful", **settings)
        output, *last = again(args[0] if args else kwargs["sequences"], initial_state=inputs)
        begun.extend(inputs)
        left.extend(last)
        return [output, *last] if layer.return_state else output

    own = [call for call in parts.encoder if hasattr(call.operation, "cell")]
    wrapped = [call for call in parts.encoder if type(call.operation).__name__ == "Bidirectional"]
    unknown = wrapped or any(call.kwargs.get("initial_state") is not None for call in own)
    first = [tensor for layer in parts.recurrent for tensor in layer.initial or ()]
    if not own or unknown or len(first) != len(parts.states):
        return None
    tensors: Tensors = {id(tensor): tensor for tensor in parts.context}
    made = replay(parts.encoder, tensors, make)
    model = keras.Model([*parts.context, *begun], [*(made[id(tensor)] for tensor in first), *left])
    return compiled(model), [tensor.shape[1] for tensor in begun]


def _state_count(layer: Any) -> int:
    return len(layer.cell.state_size) if isinstance(layer.cell.state_size, list | tuple) else 1
