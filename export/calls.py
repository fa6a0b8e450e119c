"""A Keras model as the list of calls that it makes, so that they can be made again on other tensors, or differently."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One operation applied to symbolic tensors.

    Attributes:
        operation: a layer, or one of Keras' operations.
        args, kwargs: what it was called with; tensors anywhere inside them.
        outputs: a tensor, or a list or other structure of them.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def name(self) -> str:
        """Return what the layer or operation is called in its model, and what it is."""
        return f"{self.operation.name} ({type(self.operation).__name__})"

    def reads(self) -> list[Any]:
        """Return the tensors among the arguments."""
        return [given for given in _flat((self.args, self.kwargs)) if is_tensor(given)]

    def gives(self) -> list[Any]:
        """Return the tensors that come out."""
        return _flat(self.outputs)


def operations_of(model: Any) -> list[Any]:
    """Return what a Functional model calls, in order; models inside it are opened."""
    found: list[Any] = []
    for node in _nodes(_functional(model)):
        found += operations_of(node.operation) if is_functional(node.operation) else [node.operation]
    return found


Tensors = dict[int, Any]
"""What stands for a tensor now, by the identity of the tensor that was there when the calls were recorded."""
Make = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]
"""Makes a call with other arguments; returns outputs of the same structure."""


def is_functional(operation: Any) -> bool:
    """Tell whether a layer is a model whose calls can be listed."""
    return hasattr(_functional(operation), "_nodes_by_depth")


def record(model: Any, inputs: Iterable[Any]) -> tuple[list[Any], tuple[Call, ...]]:
    """Run a Functional model on other symbolic inputs, with the same layers, and note every call.

    What only training needs is left out: a stateful layer of the model is so no more, and of a `TimeDistributed(Dense)`
    the `Dense` is called, which does the same in one product.

    Args:
        model: Functional or Sequential; models inside it are opened.
        inputs: one tensor for each of its inputs, in their order.

    Returns:
        Its outputs, and the calls in an order in which they can be made.
    """
    calls: list[Call] = []
    return _run(_functional(model), list(inputs), calls), tuple(calls)


def replay(calls: Iterable[Call], tensors: Tensors, make: Make) -> Tensors:
    """Make calls again; calls of which no tensor is there are left out.

    Args:
        calls: in an order in which they can be made.
        tensors: what stands for the tensors that the calls begin with.
        make: makes one call.

    Returns:
        `tensors`, and what stands for every output.
    """
    known = dict(tensors)
    for call in calls:
        if any(id(tensor) in known for tensor in call.reads()):
            args, kwargs = (_filled(structure, known) for structure in (call.args, call.kwargs))
            known |= zip(map(id, call.gives()), _flat(make(call, args, kwargs)), strict=False)
    return known


def as_recorded(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call as it was made."""
    return call.operation(*args, **kwargs)


def _run(model: Any, inputs: list[Any], calls: list[Call]) -> list[Any]:
    tensors = dict(zip(map(id, model.inputs), inputs, strict=True))
    for node in _nodes(model):
        args, kwargs = node.arguments.fill_in(tensors)
        if is_functional(node.operation):
            outputs: Any = _run(_functional(node.operation), _flat(args[0]), calls)
        else:
            call = _for_inference(node.operation, args, kwargs)
            calls.append(call)
            outputs = call.outputs
        tensors |= zip(map(id, node.outputs), _flat(outputs), strict=True)
    return [tensors[id(output)] for output in model.outputs]


def _for_inference(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    for layer in (operation, *(getattr(operation, name, None) for name in ("forward_layer", "backward_layer"))):
        if getattr(layer, "stateful", False):
            layer.stateful = False
    inner = getattr(operation, "layer", None)
    if type(operation).__name__ == "TimeDistributed" and type(inner).__name__ == "Dense":
        operation, kwargs = inner, {}  # its mask is the other layers' affair
    return Call(operation, args, kwargs, operation(*args, **kwargs))


def _functional(model: Any) -> Any:
    return getattr(model, "_functional", None) or model  # what a Sequential model is inside


def _nodes(model: Any) -> list[Any]:
    """Return the calls of a model in order. Keras has no public way to them."""
    by_depth = model._nodes_by_depth  # noqa: SLF001
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _filled(structure: Any, known: Tensors) -> Any:
    import keras

    return keras.tree.map_structure(lambda given: known.get(id(given), given), structure)


def _flat(structure: Any) -> list[Any]:
    import keras

    return list(keras.tree.flatten(structure))


def is_tensor(given: Any) -> bool:
    """Tell whether an argument is a symbolic tensor."""
    import keras

    return isinstance(given, keras.KerasTensor)
