"""What repeats in an unrolled loop: the same calls on other tensors, between one prediction and the next."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from export.calls import Call, is_tensor
from runner.errors import CertificationError, explain

Column = tuple[Any, ...]
"""The tensors that stand at the same place of each step; None where the first step has nothing there."""
Makers = dict[int, Call]
"""What gives a tensor, by the tensor's identity."""


def makers_of(calls: Iterable[Call]) -> Makers:
    """Return which call gives which tensor."""
    return {id(tensor): call for call in calls for tensor in call.gives()}


def predictions_of(output: Any, horizon: int, makers: Makers) -> Column:
    """Return the tensors that the output of an unrolled loop was put together from, one for each step.

    Raises:
        CertificationError: it was not put together from as many; names the layer that was.
    """
    found = list(_single_numbers(output, makers))
    if len(found) != horizon:
        what = f"the output of layer {makers[id(output)].name} is not put together from single predictions"
        got, expected = f"{len(found)} tensors of one number", f"{horizon}, one for each step"
        remedy = "concatenate the predictions of the steps along the time, and nothing else"
        raise CertificationError(explain(what, got=got, expected=expected, remedy=remedy))
    return tuple(found)


def crossings(predictions: Column, makers: Makers) -> list[Column]:
    """Return what crosses into each step: what it reads that was there before, and what it reads unlike other steps.

    Walks back from the predictions of all steps at once, as long as these were made alike by calls of their own step.

    Args:
        predictions: by step, at least two.
        makers: of all tensors.

    Returns:
        In the order in which the model makes them; what all steps share is the same tensor all along a column.
    """
    blocks = _blocks(predictions, makers)
    found: dict[tuple[int, ...], Column] = {}
    seen: set[tuple[int, ...]] = set()
    waiting = [predictions]
    while waiting:
        column = waiting.pop()
        key = tuple(map(id, column))
        if key not in seen:
            seen.add(key)
            inner = _read_alike(column, makers, blocks)
            if inner is None:
                found[key] = column
            else:
                waiting += inner
    place = {key: index for index, key in enumerate(makers)}
    return sorted(found.values(), key=lambda column: place.get(id(column[1]), -1))


def made_alike(tensors: Sequence[Any], makers: Makers) -> bool:
    """Tell whether tensors are the same output of the same layer, or of equal layers without weights."""
    calls = [makers.get(id(tensor)) for tensor in tensors]
    first = calls[0]
    if first is None:
        return False
    place = _place(first, tensors[0])
    return all(
        call is not None and _place(call, tensor) == place and _same_operation(first.operation, call.operation)
        for call, tensor in zip(calls, tensors, strict=True)
    )


def needed(targets: Iterable[Any], given: set[int], makers: Makers) -> tuple[tuple[Call, ...], list[Any]]:
    """Return the calls that make tensors out of given ones, in order, and what else these begin with.

    Args:
        targets: what is to be made.
        given: identities of the tensors that are there.
        makers: of all tensors.
    """
    wanted: set[int] = set()
    others: dict[int, Any] = {}
    waiting = list(targets)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in given:
            continue
        call = makers.get(id(tensor))
        if call is None:
            others[id(tensor)] = tensor
        elif id(call) not in wanted:
            wanted.add(id(call))
            waiting += call.reads()
    in_order = {id(call): call for call in makers.values() if id(call) in wanted}
    return tuple(in_order.values()), list(others.values())


def _single_numbers(tensor: Any, makers: Makers) -> Iterable[Any]:
    if all(axis == 1 for axis in tensor.shape[1:]):
        yield tensor
        return
    call = makers.get(id(tensor))
    if call is None or getattr(call.operation, "weights", []):
        yield from ()
        return
    for read in call.reads():
        yield from _single_numbers(read, makers)


def _blocks(predictions: Column, makers: Makers) -> list[set[int]]:
    """Return for each step the calls that its prediction needs and the ones before it did not."""
    before: set[int] = set()
    blocks = []
    for prediction in predictions:
        block: set[int] = set()
        waiting = [prediction]
        while waiting:
            call = makers.get(id(waiting.pop()))
            if call is not None and id(call) not in before | block:
                block.add(id(call))
                waiting += call.reads()
        blocks.append(block)
        before |= block
    return blocks


def _read_alike(column: Column, makers: Makers, blocks: list[set[int]]) -> list[Column] | None:
    """Return what the calls read that made a column, by step; None where they are not the same calls in each step."""
    if all(tensor is column[0] for tensor in column) or not made_alike(column, makers):
        return None
    calls = [makers[id(tensor)] for tensor in column]
    if any(id(call) not in block for call, block in zip(calls[1:], blocks[1:], strict=True)):
        return None
    rows = [_arguments(call) for call in calls]
    if hasattr(calls[0].operation, "cell") and len(rows[0]) == 1:
        rows[0] = [*rows[0], *[None] * (len(rows[1]) - 1)]  # a layer that is given no state begins with zeros
    if len(set(map(len, rows))) > 1:
        return None
    inner = []
    for values in zip(*rows, strict=True):
        if any(map(is_tensor, values[1:])):
            inner.append(values)
        elif not all(_equal(values[0], value) for value in values[1:]):
            return None
    return inner


def _arguments(call: Call) -> list[Any]:
    import keras

    if not hasattr(call.operation, "cell"):
        return list(keras.tree.flatten((call.args, {key: call.kwargs[key] for key in sorted(call.kwargs)})))
    sequence = call.args[0] if call.args else call.kwargs["sequences"]
    given = call.kwargs.get("initial_state", call.args[1] if len(call.args) > 1 else None)
    return [sequence, *([] if given is None else keras.tree.flatten(given))]


def _place(call: Call, tensor: Any) -> int:
    return next(index for index, given in enumerate(call.gives()) if given is tensor)


def _same_operation(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or getattr(one, "weights", []) or getattr(other, "weights", []):
        return False
    try:
        return _settings(one) == _settings(other)
    except NotImplementedError:  # an operation that cannot be saved
        return False


def _settings(operation: Any) -> str:
    return repr({key: value for key, value in operation.get_config().items() if key != "name"})


def _equal(one: Any, other: Any) -> bool:
    if is_tensor(one) or is_tensor(other) or type(one) is not type(other):
        return False
    return bool(np.array_equal(one, other)) if hasattr(one, "shape") else bool(one == other)
