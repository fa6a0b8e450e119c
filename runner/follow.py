"""Follow the shapes through a graph, from its inputs and constants to its outputs, without running it."""

from collections.abc import Mapping, Sequence
from typing import Any

from runner.footprint import Cost, Step, cost_of
from runner.operators import OPERATORS, products
from runner.proto import constant, settings_of
from runner.shapes import BATCH, MisfitError, Tensor, elements, shown

Axes = Sequence[int | str]


def follow(graph: Any, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> Cost:
    """Work out every shape of a graph, and add up what it takes to make the tensors.

    Args:
        graph: a GraphProto of our part of the schema, of allowed operators and sound constants.
        inputs: the axes of what it takes; a string is the batch.
        outputs: the axes of what it must return.

    Raises:
        MisfitError: a shape does not follow, or is too large; or an output is of another.
    """
    known = {tensor.name: constant(tensor) for tensor in graph.initializer}
    stays = set(known)
    known |= {name: _tensor(axes) for name, axes in inputs.items()}
    given = frozenset(known)
    steps = []
    for node in graph.node:
        try:
            steps.append(_step(node, known, given, stays))
        except (MisfitError, ValueError, LookupError, TypeError, OverflowError) as error:
            why = error if isinstance(error, MisfitError) else f"its inputs or attributes do not fit ({error!r})"
            raise MisfitError(f"{node.op_type} '{node.name}': {why}") from error
    for name, axes in outputs.items():
        expected = _tensor(axes).axes
        if name not in known or known[name].axes != expected:
            found = shown(known[name].axes) if name in known else "never made"
            raise MisfitError(f"output '{name}': it is {found}, expected {shown(expected)}")
    return cost_of(steps, [name for name in outputs if name not in given])


def _step(node: Any, known: dict[str, Tensor], given: frozenset[str], stays: set[str]) -> Step:
    """Add a node's outputs to what is known, and to what stays the same in every run if they do; return its cost."""
    kind, names, outputs = node.op_type, list(node.input), list(node.output)
    operator, settings = OPERATORS[kind], settings_of(node)
    reads = {name for name in names if name}
    if strange := [name for name in settings if name not in operator.settings]:
        raise MisfitError(f"it has the attributes {strange}, expected {sorted(operator.settings)}")
    if missing := [name for name in reads if name not in known]:
        raise MisfitError(f"its inputs {sorted(missing)} are not made before it")
    sources = [known[name] if name else None for name in names]
    if kind != "Concat" and any(source and 0 in source.axes and source.items is None for source in sources):
        raise MisfitError("one of its inputs is empty, and only Concat may take such")  # onnxruntime's LSTM aborts
    made = operator.rule(sources, settings, len(outputs))
    makes = {name: elements(tensor) for name, tensor in zip(outputs, made, strict=True) if name}
    if any(name in known for name in makes) or len(makes) + outputs.count("") != len(outputs):
        raise MisfitError("one of its outputs is made already")
    known.update((name, tensor) for name, tensor in zip(outputs, made, strict=True) if name)
    work, scratch = products(kind, sources, made)
    fixed = kind == "Shape" or reads <= stays
    if fixed:
        stays.update(makes)
    return Step(reads - given, makes, scratch, work + sum(makes.values()), fixed)


def _tensor(axes: Sequence[int | str]) -> Tensor:
    return Tensor(tuple(BATCH if isinstance(axis, str) else axis for axis in axes))
