"""Make a decoder's call for one time step instead of the whole horizon."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from export.calls import Call
from runner.errors import CertificationError, explain

LOOKS_UP = frozenset({"Attention", "AdditiveAttention", "MultiHeadAttention", "Dot", "Matmul", "Einsum"})
"""What may read all steps of the encoder for one step of the decoder."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How the horizon is cut into steps.

    Attributes:
        horizon: H, which becomes 1.
        cells: recurrent layers are unrolled.
    """

    horizon: int
    cells: bool = False


def refuse(call: Call, why: str) -> NoReturn:
    """Refuse a model because of one of its layers.

    Raises:
        CertificationError: always.
    """
    what = f"the decoder cannot be run step by step: layer {call.name}"
    expected = "LSTM or GRU layers with return_sequences=True, and other layers that look at one step alone"
    remedy = "train the model without that layer in its decoder, or move it before the decoder, into the encoder"
    raise CertificationError(explain(what, got=why, expected=expected, remedy=remedy))


def own(function: Callable[[Any], Any], name: str) -> Any:
    """Return operations of ours as one layer: Keras would name them one by one, as it has named the model's."""
    import keras

    return keras.layers.Lambda(function, name=name)


def run_one_step(cut: Cut, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], states: list[Any] | None) -> Any:
    """Make a call for one step.

    Args:
        cut: H, and whether to unroll.
        call: as it was recorded, for all steps.
        args: its arguments for one step.
        kwargs: its named arguments for one step.
        states: of a recurrent layer [B, U]; None for all others.

    Returns:
        Its outputs, [B, 1, ...] where it gave [B, H, ...]; of a recurrent layer the sequence, then the next states.

    Raises:
        CertificationError: the layer does not work step by step.
    """
    try:
        outputs = _recurrent(cut, call, args, kwargs, states) if states is not None else _other(cut, call, args, kwargs)
    except CertificationError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever a layer says to an input of one step is a refusal)
        refuse(call, f"it does not take one step alone: {_first_line(error)}")
    whole, single = call.gives()[0], outputs[0] if isinstance(outputs, list | tuple) else outputs
    if len(whole.shape) < 2 or whole.shape[1] != cut.horizon:
        refuse(call, f"it gives {_axes(whole)}, which has no axis for the steps of the horizon ({cut.horizon})")
    if tuple(single.shape[1:]) != (1, *whole.shape[2:]):
        refuse(call, f"for one step it gives {_axes(single)}, for all of them {_axes(whole)}")
    return outputs


def _recurrent(cut: Cut, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], states: list[Any] | None) -> Any:
    layer = call.operation
    if not layer.return_sequences:
        refuse(call, "it returns its last step alone (return_sequences=False)")
    sequence = args[0] if args else kwargs["sequences"]
    if cut.cells or not layer.return_state:
        layer = _around(layer, unroll=cut.cells)
    return layer(sequence, initial_state=states)


def _around(layer: Any, *, unroll: bool) -> Any:
    """Return a recurrent layer around the same cell, so with the same weights, that returns its states."""
    import keras

    name = f"{layer.name}_{'unrolled' if unroll else 'step'}"
    return keras.layers.RNN(layer.cell, return_sequences=True, return_state=True, unroll=unroll, name=name)


def _other(cut: Cut, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import keras
    from keras import ops

    operation = call.operation
    kind = type(operation).__name__
    if kind not in LOOKS_UP and any(has_all_steps(given, cut.horizon) for given in keras.tree.flatten((args, kwargs))):
        refuse(call, "it takes a tensor of the encoder step by step that another layer looks up whole")
    if kind == "RepeatVector":
        return own(lambda given: given[:, None], f"{operation.name}_step")(args[0])
    if kind == "Lambda":  # it may have been told a shape, with all steps in it
        return keras.layers.Lambda(operation.function, arguments=operation.arguments, name=f"{operation.name}_step")(
            *args
        )
    whole = call.gives()[0]
    if kind == "Reshape" and len(whole.shape) > 1 and whole.shape[1] == cut.horizon:
        return own(lambda given: ops.reshape(given, (-1, 1, *whole.shape[2:])), f"{operation.name}_step")(args[0])
    return operation(*args, **kwargs)


def has_all_steps(given: Any, horizon: int) -> bool:
    """Tell whether a tensor has an axis for the whole horizon, [B, H, ...]."""
    shape: Any = getattr(given, "shape", ())
    return horizon > 1 and len(shape) > 2 and shape[0] is None and shape[1] == horizon


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _axes(tensor: Any) -> str:
    return f"[{', '.join(['B', *(str(axis) for axis in tensor.shape[1:])])}]"
