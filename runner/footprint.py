"""Bound what one run of a graph may take: memory and multiply-adds, both for one window of the batch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

LARGEST_FOOTPRINT = 1 << 24
"""Elements alive at once, a window; 64 MiB in float32."""
MOST_WORK = 1 << 34
"""Multiply-adds a window: some seconds of one processor. The largest forecaster thought of takes a third of it."""


class Step(NamedTuple):
    """One node, as far as its cost goes.

    Attributes:
        reads: the computed tensors that it takes.
        makes: the tensors that it gives, with their elements a window.
        scratch: elements that its kernel needs meanwhile.
        work: multiply-adds, and one for each element that it gives.
        constant: it depends on no input, so onnxruntime computes it once and keeps it.
    """

    reads: AbstractSet[str]
    makes: Mapping[str, int]
    scratch: int
    work: int
    constant: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a graph takes a window: elements alive at once at most, and multiply-adds."""

    elements: int
    work: int


def cost_of(steps: Sequence[Step], outputs: Sequence[str]) -> Cost:
    """Follow the nodes in the order in which onnxruntime runs them, and keep account of what is alive.

    Args:
        steps: the nodes in the file's order, which is one that can be run.
        outputs: tensors that stay alive to the end.
    """
    readers = Counter(chain(outputs, chain.from_iterable(step.reads for step in steps)))
    sizes = {name: size for step in steps for name, size in step.makes.items()}
    kept = {name for step in steps if step.constant for name in step.makes}
    alive = peak = sum(sizes[name] for name in kept)
    for step in (steps[index] for index in _order(steps)):
        if not step.constant:
            alive += sum(step.makes.values())
        peak = max(peak, alive + step.scratch)
        readers.subtract(step.reads)
        alive -= sum(sizes[name] for name in (*step.reads, *step.makes) if not readers[name] and name not in kept)
    return Cost(peak, sum(step.work for step in steps))


def _order(steps: Sequence[Step]) -> Iterator[int]:
    """Give the nodes in onnxruntime's order: from those that nobody reads back to what each needs, that one first."""
    makers = {name: index for index, step in enumerate(steps) for name in step.makes}
    read = {makers[name] for step in steps for name in step.reads}
    stack = [(index, False) for index in range(len(steps)) if index not in read]
    seen: set[int] = set()
    while stack:
        index, ready = stack.pop()
        if ready:
            yield index
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack += [(maker, False) for maker in sorted({makers[name] for name in steps[index].reads} - seen)]
