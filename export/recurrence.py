"""Write recurrent layers as the ONNX operator that does the same, where tf2onnx would write a loop.

While a model is traced, the loop of each such layer is a Python function that is never called. TensorFlow keeps it as
one node with a token, and when tf2onnx asks what to make of that node, it becomes the operator. All around it, states
that come and go, a second direction, layers above, is traced as ever.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.errors import CertificationError, explain

F32 = npt.NDArray[np.float32]
Handlers = dict[str, tuple[Callable[..., None], list[str]]]
"""What tf2onnx asks about an operator of TensorFlow, by its name."""
ACTIVATIONS = {"activation": "tanh", "recurrent_activation": "sigmoid"}
"""Those that ONNX takes where nothing else is said, by Keras' attribute."""
BEFORE_THE_FIRST = np.iinfo(np.int64).min
"""Where a Slice that goes backwards ends if it takes everything."""


OPERATORS = {"GRUCell": "GRU", "SimpleRNNCell": "RNN"}
"""The operator for each of Keras' cells, both with their gates in the same order. tf2onnx itself writes LSTM."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What has been put in place of loops so far.

    Attributes:
        nodes: operator and attributes by TensorFlow's token.
        refused: what is to be said of layers that have no such operator.
    """

    nodes: dict[bytes, tuple[str, dict[str, int]]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


@contextlib.contextmanager
def as_operators(model: Any) -> Iterator[Handlers]:
    """Let a model be traced with operators in place of loops; yield what tf2onnx needs to be told.

    Args:
        model: a Keras model; its layers are as before afterwards.

    Raises:
        CertificationError: a layer does what its operator cannot do.
    """
    layers = [layer for layer in recurrent_layers(model) if _operator(layer.cell)]
    written, log = _Written(), logging.getLogger("tf2onnx.shape_inference")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it warns of the nodes that hold a place
        for layer in layers:
            layer.inner_loop = _stand_in(layer, written)
        yield {
            "PyFunc": (lambda graph, node, *_: _write_operator(graph, node, written), []),
            "ReverseV2": (lambda graph, node, *_: _write_slice(graph, node), []),
        }
    finally:
        log.setLevel(level)
        for layer in layers:
            layer.__dict__.pop("inner_loop", None)
    if written.refused:
        raise CertificationError("\n".join(written.refused))


def recurrent_layers(model: Any) -> list[Any]:
    """Return the layers around a cell, wherever in the model. Keras has no public way to those inside others."""
    return [layer for layer in model._flatten_layers() if hasattr(layer, "cell")]  # noqa: SLF001


def _operator(cell: Any) -> str | None:
    """Return the operator for a cell; None for one of another kind, derived ones included."""
    import keras

    return next((operator for name, operator in OPERATORS.items() if type(cell) is getattr(keras.layers, name)), None)


def _stand_in(layer: Any, written: _Written) -> Callable[..., Any]:
    """Return what to trace in place of a layer's loop.

    Raises:
        CertificationError: its activations are not those of the operator.
    """
    import tensorflow as tf

    _refuse_activations(layer)
    operator, units, constants = OPERATORS[type(layer.cell).__name__], layer.cell.units, _constants(layer.cell)
    settings = {"hidden_size": units}
    if getattr(layer.cell, "reset_after", False):
        settings["linear_before_reset"] = 1

    def inner_loop(sequences: Any, initial_state: Any, mask: Any = None, training: Any = False) -> Any:  # noqa: ARG001
        if mask is not None:
            written.refused.append(_said(layer, "a mask", "none", "mark missing steps by past_observed instead"))
        state = initial_state[0] if isinstance(initial_state, list | tuple) else initial_state
        x = tf.transpose(tf.reverse(sequences, [1]) if layer.go_backwards else sequences, [1, 0, 2])
        y, last = tf.numpy_function(_never_called, [x, *constants, tf.expand_dims(state, 0)], [tf.float32, tf.float32])
        written.nodes[y.op.get_attr("token")] = operator, settings
        y = tf.squeeze(tf.ensure_shape(y, [x.shape[0], 1, None, units]), [1])
        last = tf.squeeze(tf.ensure_shape(last, [1, None, units]), [0])
        return last, tf.transpose(y, [1, 0, 2]), [last]

    return inner_loop


def _never_called(*_: Any) -> Any:
    raise AssertionError("it holds a place in a graph that is only converted")


def _constants(cell: Any) -> tuple[F32, F32, F32]:
    """Return a cell's weights as the operator wants them: W [1, G*U, I], R [1, G*U, U] and both biases [1, 2*G*U]."""
    kernel, recurrent = (np.asarray(weights, np.float32).T[None] for weights in (cell.kernel, cell.recurrent_kernel))
    biases = np.zeros((2, kernel.shape[1]), np.float32)
    if cell.bias is not None:
        given = np.atleast_2d(np.asarray(cell.bias))  # of the inputs alone, or one more of the state
        biases[: len(given)] = given
    return kernel, recurrent, biases.reshape(1, -1)


def _refuse_activations(layer: Any) -> None:
    import keras

    for attribute, usual in ACTIVATIONS.items():
        got = getattr(layer.cell, attribute, None)
        if got is not None and got is not getattr(keras.activations, usual):
            name = getattr(got, "__name__", str(got))
            raise CertificationError(_said(layer, f"{attribute} = {name}", usual, "train it with that"))


def _said(layer: Any, got: str, expected: str, remedy: str) -> str:
    operator = OPERATORS[type(layer.cell).__name__]
    what = f"layer {layer.name} ({type(layer).__name__}) cannot be written as the ONNX operator {operator}"
    return explain(what, got=got, expected=expected, remedy=remedy)


def _write_operator(graph: Any, node: Any, written: _Written) -> None:
    """Put the operator in the place that was held for it."""
    operator, settings = written.nodes[node.get_attr_value("token")]
    x, w, r, b, state = node.input
    _replace(graph, node, operator, [x, w, r, b, "", state], settings)


def _write_slice(graph: Any, node: Any) -> None:
    """Write a reversal as a Slice with steps of -1: tf2onnx would take six operators, one of them not allowed."""
    axes = node.inputs[1].get_tensor_value()
    ends = [[value] * len(axes) for value in (-1, BEFORE_THE_FIRST)]
    start, end, which = (_constant(graph, values) for values in (*ends, axes))
    _replace(graph, node, "Slice", [node.input[0], start, end, which, start], {})


def _constant(graph: Any, values: list[int]) -> str:
    from tf2onnx.utils import make_name

    return str(graph.make_const(make_name("numbers"), np.array(values, np.int64)).output[0])


def _replace(graph: Any, node: Any, operator: str, inputs: list[str], settings: dict[str, int]) -> None:
    name, outputs, types, shapes = node.name, list(node.output), node.output_dtypes, node.output_shapes
    graph.remove_node(name)
    graph.make_node(operator, inputs, outputs=outputs, name=name, attr=settings, dtypes=types, shapes=shapes)
