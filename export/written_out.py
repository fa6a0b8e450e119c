"""Write operators of TensorFlow out in those that a bundle may hold, where tf2onnx writes another one or none."""

from typing import Any

import numpy as np

from export.recurrence import Handlers


def written_out() -> Handlers:
    """Return how the operators of `gelu`, `celu`, `leaky_relu` and of a cell's gates are written."""
    return {"Erfc": (_erfc, []), "Expm1": (_expm1, []), "LeakyRelu": (_leaky_relu, []), "Split": (_split, [])}


def _erfc(graph: Any, node: Any, *_: Any) -> None:
    erf = graph.make_node("Erf", list(node.input))
    _replace(graph, node, "Sub", [_number(graph, 1.0), erf.output[0]])


def _expm1(graph: Any, node: Any, *_: Any) -> None:
    exponential = graph.make_node("Exp", list(node.input))
    _replace(graph, node, "Sub", [exponential.output[0], _number(graph, 1.0)])


def _leaky_relu(graph: Any, node: Any, *_: Any) -> None:
    slope = node.get_attr_value("alpha")
    less = graph.make_node("Mul", [node.input[0], _number(graph, slope)])
    _replace(graph, node, "Max" if slope <= 1 else "Min", [node.input[0], less.output[0]])


def _split(graph: Any, node: Any, *_: Any) -> None:
    """Name the sizes of the parts: how many there are is a setting that the audit does not take."""
    axis, given, count = int(node.inputs[0].get_tensor_value()), node.input[1], node.get_attr_value("num_split")
    sizes = np.full(count, graph.get_shape(given)[axis] // count, np.int64)
    _replace(graph, node, "Split", [given, _constant(graph, sizes)], {"axis": axis})


def _number(graph: Any, value: float) -> str:
    return _constant(graph, np.array(value, np.float32))


def _constant(graph: Any, values: np.ndarray[Any, Any]) -> str:
    from tf2onnx.utils import make_name

    return str(graph.make_const(make_name("numbers"), values).output[0])


def _replace(graph: Any, node: Any, operator: str, inputs: list[str], settings: dict[str, int] | None = None) -> None:
    name, outputs, types, shapes = node.name, list(node.output), node.output_dtypes, node.output_shapes
    graph.remove_node(name)
    graph.make_node(operator, inputs, outputs=outputs, name=name, attr=settings, dtypes=types, shapes=shapes)
