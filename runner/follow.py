"""Follow the shapes through a graph, from its inputs and constants to its outputs, without running it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.footprint import Cost, Step, cost_of
from runner.operators import OPERATORS, products
from runner.proto import constant, settings_of
from runner.shapes import BATCH, MOST_AXES, Given, MisfitError, Tensor, elements, shown

Axes = Sequence[int | str]
MOST_NAMES = 600_000
"""Five for each of the most nodes that a graph may have; export needs less than four."""


def follow(graph: Any, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> Cost:
    """Work out every shape of a graph, and add up what it takes to make the tensors.

    Args:
        graph: a GraphProto of our part of the schema, of allowed operators and sound constants.
        inputs: the axes of what it takes; a string is the batch.
        outputs: the axes of what it must return.

    Raises:
        MisfitError: a shape does not follow, or is too large; or an output is of another.
    """
    trace = _Trace()
    trace.fixed.update(tensor.name for tensor in graph.initializer)
    trace.known.update((tensor.name, trace.unique(constant(tensor))) for tensor in graph.initializer)
    trace.known.update((name, trace.unique(_tensor(axes))) for name, axes in inputs.items())
    given, steps = frozenset(trace.known), []
    for node in graph.node:
        try:
            steps.append(trace.step(node, given))
        except (MisfitError, ValueError, LookupError, TypeError, OverflowError) as error:
            why = error if isinstance(error, MisfitError) else f"its inputs or attributes do not fit ({error!r})"
            raise MisfitError(f"{node.op_type} '{node.name}': {why}") from error
    for name, axes in outputs.items():
        found, expected = trace.known.get(name), _tensor(axes).axes
        if found is None or found.axes != expected:
            told = "never made" if found is None else shown(found.axes)
            raise MisfitError(f"output '{name}': it is {told}, expected {shown(expected)}")
    return cost_of(steps, [name for name in outputs if name not in given])


class _Made(NamedTuple):
    """What a node makes of its inputs: the tensors, their elements a window, and what that takes."""

    tensors: list[Tensor]
    sizes: list[int]
    work: int
    scratch: int


@dataclass(slots=True)
class _Trace:
    """What is known so far.

    Attributes:
        known: every tensor that has been made, by name; equal ones are the same object.
        fixed: names of those that are the same in every run.
        made: what became of nodes that were seen before: the steps of a horizon are alike.
        tensors: each tensor by its value.
        names: how many inputs and outputs of nodes were seen.
    """

    known: dict[str, Tensor] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    made: dict[Any, _Made] = field(default_factory=dict)
    tensors: dict[Tensor, Tensor] = field(default_factory=dict)
    names: int = 0

    def unique(self, tensor: Tensor) -> Tensor:
        return self.tensors.setdefault(tensor, tensor)

    def step(self, node: Any, given: frozenset[str]) -> Step:
        """Add a node's outputs to what is known, and to what is fixed if they are; return its cost."""
        kind, names, outputs = node.op_type, list(node.input), list(node.output)
        self.names += len(names) + len(outputs)
        if self.names > MOST_NAMES:
            raise MisfitError(f"more than {MOST_NAMES} inputs and outputs of nodes")
        reads = {name for name in names if name}
        if not reads <= self.known.keys():
            raise MisfitError(f"its inputs {sorted(reads - self.known.keys())} are not made before it")
        sources = [self.known[name] if name else None for name in names]
        settings = [attribute.SerializeToString() for attribute in node.attribute]
        key = kind, len(outputs), *settings, *map(id, sources)
        made = self.made.get(key)
        if made is None:
            made = self.made[key] = self._make(node, sources)
        makes = {name: size for name, size in zip(outputs, made.sizes, strict=True) if name}
        if len(makes) + outputs.count("") != len(outputs) or not self.known.keys().isdisjoint(makes):
            raise MisfitError("one of its outputs is made already")
        self.known.update((name, tensor) for name, tensor in zip(outputs, made.tensors, strict=True) if name)
        fixed = kind == "Shape" or reads <= self.fixed
        if fixed:
            self.fixed.update(makes)
        return Step(reads - given, makes, made.scratch, made.work, fixed)

    def _make(self, node: Any, sources: Given) -> _Made:
        operator, settings = OPERATORS[node.op_type], settings_of(node)
        if strange := [name for name in settings if name not in operator.settings]:
            raise MisfitError(f"it has the attributes {strange}, expected {sorted(operator.settings)}")
        if node.op_type != "Concat" and any(source and 0 in source.axes and source.items is None for source in sources):
            raise MisfitError("one of its inputs is empty, and only Concat may take such")  # onnxruntime's LSTM aborts
        made = operator.rule(sources, settings, len(node.output))
        sizes = [elements(tensor) for tensor in made]
        work, scratch = products(node.op_type, sources, made)
        return _Made([self.unique(_short(tensor)) for tensor in made], sizes, work + sum(sizes), scratch)


def _short(tensor: Tensor) -> Tensor:
    """Forget what a computed list holds if it is longer than any shape: a hundred thousand of them take memory."""
    return Tensor(tensor.axes) if tensor.items and len(tensor.items) > MOST_AXES else tensor


def _tensor(axes: Axes) -> Tensor:
    return Tensor(tuple(BATCH if isinstance(axis, str) else axis for axis in axes))
