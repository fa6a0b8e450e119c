"""Work out how large each tensor of a graph gets, before anything runs it: one rule for each operator that is allowed.

These are our own rules and not ONNX's shape inference, because a graph may be written to harm: over forty `Concat`
nodes that each double a list, shape inference takes gigabytes and many seconds. A rule here looks at small tuples.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

BATCH = 1 << 40
"""Stands for the batch in every number: no other axis comes near it, so a product of axes read in base BATCH is the
polynomial that it is in the batch, coefficient by coefficient."""
END = 1 << 100
"""What a number in the file counts as that is too large for an axis: in a `Slice` it says "to the end"."""
MOST_AXES = 8
MOST_ITEMS = 1024
"""Items of a constant whose values are looked at: a list of axes, a shape, the 512 sizes of a `Split`."""
LARGEST_TENSOR = 1 << 24
"""Elements of one tensor, a window; 64 MiB in float32."""
INT32, INT64 = 6, 7
CAST_TO = frozenset({1, INT32, INT64, 9})
"""ONNX's numbers for float32, int32, int64 and bool."""


class Tensor(NamedTuple):
    """What is known of a tensor: its axes, and its items where it is a small list of integers (or one)."""

    axes: tuple[int, ...]
    items: tuple[int, ...] | None = None


class MisfitError(Exception):
    """The shape does not follow, or is not allowed. Never leaves the audit."""


Given = Sequence[Tensor | None]
Settings = Mapping[str, Any]
Rule = Callable[[Given, Settings, int], list[Tensor]]
"""From the inputs (None where one is left out), the attributes and the number of outputs, to the outputs."""


def elements(tensor: Tensor) -> int:
    """Return how many elements a tensor has a window: with B windows it never has more than B times as many.

    Raises:
        MisfitError: it grows faster than the batch, or is too large.
    """
    axes = tensor.axes
    if len(axes) > MOST_AXES or min(axes, default=0) < 0:
        raise MisfitError(f"{shown(axes)} is no shape of up to {MOST_AXES} axes")
    linear, constant = divmod(math.prod(axes), BATCH)
    if linear >= BATCH and max(axes) < END:
        raise MisfitError(f"{shown(axes)} grows faster than the batch")
    if constant + linear > LARGEST_TENSOR:
        raise MisfitError(f"{shown(axes)} is too large, expected at most {LARGEST_TENSOR} elements a window")
    return constant + linear


def shown(axes: Iterable[int]) -> str:
    """Write axes as the signature does, with the batch by its name."""
    return "[" + ", ".join("batch" if axis == BATCH else _number(axis) for axis in axes) + "]"


def _number(axis: int) -> str:
    multiple, rest = divmod(axis, BATCH)
    if not 0 < multiple < BATCH:
        return str(axis) if abs(axis) < BATCH else "unbounded"
    return f"{multiple} * batch" + (f" + {rest}" if rest else "")


def literal(number: int) -> int:
    """Return a number that stands in the file so that it can never be taken for the batch."""
    if abs(number) <= LARGEST_TENSOR:
        return number
    return END if number > 0 else -END


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that numpy's rule gives."""
    first = shapes[0]
    if shapes.count(first) == len(shapes):
        return first
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = set(sizes) - {1}
        if len(wide) > 1:
            raise MisfitError(f"{' and '.join(map(shown, shapes))} do not fit each other")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def there(given: Given, index: int) -> Tensor:
    tensor = given[index] if index < len(given) else None
    if tensor is None:
        raise MisfitError(f"input {index} is missing")
    return tensor


def _items(given: Given, index: int) -> tuple[int, ...]:
    items = there(given, index).items
    if items is None:
        raise MisfitError(f"input {index} is not a list of numbers that follows from the file")
    return items


def _place(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise MisfitError(f"there is no axis {axis} among {rank}")
    return axis % rank


def _places(axes: Iterable[int], rank: int) -> set[int]:
    found = [_place(axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise MisfitError(f"axes {sorted(found)} name one twice")
    return set(found)


def broadcasting(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    return [Tensor(broadcast([tensor.axes for tensor in given if tensor is not None]))]


def same(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    return [Tensor(there(given, 0).axes)]


def identity(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    return [there(given, 0)]


def cast(given: Given, settings: Settings, _count: int) -> list[Tensor]:
    tensor, to = there(given, 0), settings["to"]
    if to not in CAST_TO:
        raise MisfitError(f"it casts to type {to}, expected one of {sorted(CAST_TO)}")
    exact = to == INT64 or (to == INT32 and all(n == BATCH or abs(n) < END for n in tensor.items or ()))
    return [tensor if exact else Tensor(tensor.axes)]


def shape(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    axes = there(given, 0).axes
    return [Tensor((len(axes),), axes)]


def filled(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    return [Tensor(_items(given, 0))]


def expand(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    return [Tensor(broadcast([there(given, 0).axes, _items(given, 1)]))]


def reshape(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    tensor, wanted = there(given, 0), _items(given, 1)
    axes = [tensor.axes[_place(index, len(tensor.axes))] if size == 0 else size for index, size in enumerate(wanted)]
    total = math.prod(tensor.axes)
    if axes.count(-1) == 1:
        known = math.prod(size for size in axes if size != -1)
        axes[axes.index(-1)] = total // known if known else 0
    if math.prod(axes) != total:
        raise MisfitError(f"{shown(tensor.axes)} cannot be shaped as {shown(wanted)}")
    return [Tensor(tuple(axes), tensor.items if len(axes) <= 1 else None)]


def squeeze(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    tensor = there(given, 0)
    out = _places(_items(given, 1), len(tensor.axes))
    if any(tensor.axes[place] != 1 for place in out):
        raise MisfitError(f"{shown(tensor.axes)} cannot lose axes {sorted(out)}")
    return [Tensor(tuple(size for place, size in enumerate(tensor.axes) if place not in out), tensor.items)]


def unsqueeze(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    tensor, wanted = there(given, 0), _items(given, 1)
    rank = len(tensor.axes) + len(wanted)
    new, rest = _places(wanted, rank), iter(tensor.axes)
    axes = tuple(1 if place in new else next(rest) for place in range(rank))
    return [Tensor(axes, tensor.items if rank <= 1 else None)]


def transpose(given: Given, settings: Settings, _count: int) -> list[Tensor]:
    axes = there(given, 0).axes
    order = settings.get("perm", range(len(axes))[::-1])
    if sorted(order) != list(range(len(axes))):
        raise MisfitError(f"{list(order)} is no order of {len(axes)} axes")
    return [Tensor(tuple(axes[place] for place in order))]


def concat(given: Given, settings: Settings, _count: int) -> list[Tensor]:
    parts = [there(given, index) for index in range(len(given))]
    first = parts[0].axes
    place = _place(settings["axis"], len(first))
    if any(part.axes[:place] != first[:place] or part.axes[place + 1 :] != first[place + 1 :] for part in parts):
        raise MisfitError(f"{' and '.join(shown(part.axes) for part in parts[:3])} do not fit at axis {place}")
    axes = (*first[:place], sum(part.axes[place] for part in parts), *first[place + 1 :])
    lists = [part.items for part in parts]
    known = len(axes) == 1 and axes[0] <= MOST_AXES and all(items is not None for items in lists)
    return [Tensor(axes, tuple(item for items in lists for item in items or ()) if known else None)]


def split(given: Given, settings: Settings, count: int) -> list[Tensor]:
    axes, sizes = there(given, 0).axes, _items(given, 1)
    place = _place(settings.get("axis", 0), len(axes))
    if len(sizes) != count or sum(sizes) != axes[place]:
        raise MisfitError(f"{shown(axes)} does not come apart into {count} outputs of {list(sizes[:8])}")
    return [Tensor((*axes[:place], size, *axes[place + 1 :])) for size in sizes]


def cut(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    tensor, starts, ends = there(given, 0), _items(given, 1), _items(given, 2)
    which = _items(given, 3) if len(given) > 3 and given[3] else range(len(starts))
    steps = _items(given, 4) if len(given) > 4 and given[4] else (1,) * len(starts)
    axes, items = list(tensor.axes), tensor.items
    _places(which, len(axes))
    for axis, *cut in zip(which, starts, ends, steps, strict=True):
        place = _place(axis, len(axes))
        kept = _cut_places(axes[place], *cut)
        if axes[place] >= BATCH and len(kept) != axes[place]:  # what is left would not be a polynomial in the batch
            raise MisfitError(f"{shown(axes)} cannot be cut at the batch")
        axes[place] = len(kept)
        items = items and tuple(items[at] for at in kept)
    return [Tensor(tuple(axes), items)]


def _cut_places(size: int, start: int, end: int, step: int) -> range:
    """Return which places of an axis a Slice keeps. It is nearly Python's own rule."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    return range(min(max(start, 0), high), min(max(end, low), high), step)


def gather(given: Given, settings: Settings, _count: int) -> list[Tensor]:
    tensor, which = there(given, 0), there(given, 1)
    place = _place(settings.get("axis", 0), len(tensor.axes))
    items = None
    if tensor.items is not None and which.items is not None:
        items = tuple(tensor.items[_place(index, len(tensor.items))] for index in which.items)
    return [Tensor((*tensor.axes[:place], *which.axes, *tensor.axes[place + 1 :]), items)]


def pad(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    axes, pads = there(given, 0).axes, _items(given, 1)
    if len(given) > 3 or len(pads) != 2 * len(axes) or min(pads) < 0:
        raise MisfitError(f"{shown(axes)} cannot be padded by {list(pads[:16])}")
    return [Tensor(tuple(sum(sizes) for sizes in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)))]


def reduce(given: Given, settings: Settings, _count: int) -> list[Tensor]:
    axes = there(given, 0).axes
    which = _items(given, 1) if len(given) > 1 and given[1] else ()
    gone = _places(which, len(axes))
    if not which and not settings.get("noop_with_empty_axes", 0):
        gone = set(range(len(axes)))
    kept = [1 if place in gone else size for place, size in enumerate(axes)]
    if not settings.get("keepdims", 1):
        kept = [size for place, size in enumerate(axes) if place not in gone]
    return [Tensor(tuple(kept))]


def product(given: Given, settings: Settings, count: int) -> list[Tensor]:
    (made,) = reduce(given, settings, count)
    items = there(given, 0).items
    if items is None or len(there(given, 0).axes) != 1 or made.axes not in {(), (1,)}:
        return [made]
    return [Tensor(made.axes, (_multiplied(items),))]


def _multiplied(items: tuple[int, ...]) -> int:
    """Multiply small numbers, one of which may hold the batch: no product may come near what stands for it."""
    batch = [divmod(item, BATCH) for item in items if item >= BATCH]
    rest = math.prod(item for item in items if item < BATCH)
    linear, constant = (batch or [(0, 1)])[0]
    if len(batch) > 1 or min(items, default=0) < 0 or max(linear, constant, 1) * rest > LARGEST_TENSOR:
        raise MisfitError(f"the product of {shown(items[:MOST_AXES])} is too large, or grows faster than the batch")
    return (linear * BATCH + constant) * rest


def matmul(given: Given, _settings: Settings, _count: int) -> list[Tensor]:
    left, right = there(given, 0).axes, there(given, 1).axes
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise MisfitError(f"{shown(left)} and {shown(right)} have no product")
    return [Tensor((*broadcast([left[:-2], right[:-2]]), left[-2], right[-1]))]


def gemm(given: Given, settings: Settings, count: int) -> list[Tensor]:
    (product,) = matmul(given[:2], settings, count)
    bias = given[2].axes if len(given) > 2 and given[2] else ()
    if len(product.axes) != 2 or broadcast([product.axes, bias]) != product.axes:
        raise MisfitError(f"{shown(bias)} cannot be added to {shown(product.axes)}")
    return [product]


def recurrent(gates: int, states: int) -> Rule:
    """Return the rule of an operator that runs over the steps with so many gates, and carries so many states."""

    def rule(given: Given, settings: Settings, count: int) -> list[Tensor]:
        (steps, batch, width), units = there(given, 0).axes, there(given, 2).axes[-1]
        directions = 2 if settings.get("direction") == b"bidirectional" else 1
        rows, state = gates * units, Tensor((directions, batch, units))
        kinds = {1: (directions, rows, width), 2: (directions, rows, units), 3: (directions, 2 * rows)}
        kinds |= dict.fromkeys(range(5, 5 + states), state.axes)
        wrong = [at for at, tensor in enumerate(given) if at and tensor is not None and kinds.get(at) != tensor.axes]
        if wrong or settings.get("hidden_size", units) != units or min(steps, batch, width, units) < 1:
            raise MisfitError(f"inputs {wrong} do not fit steps of {shown((batch, width))} and {units} units")
        return [Tensor((steps, directions, batch, units)), *[state] * states][:count]

    return rule
