"""Loops that forget a scaling that the model itself has, or apply it twice.

A model that subtracts and divides next to its inputs, and multiplies and adds next to its output, is given values with
which the network inside sees what it would see in such a loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.calls import Call, as_recorded, replay
from export.dissected import Dissected
from export.keras_machine import compiled, context_of
from export.model_inputs import CONTEXT_ROLES
from runner.batch import F32, F64, WindowBatch
from runner.gap.case import Alternative, Case, shifted_in

ARITHMETIC = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Normalization", "Rescaling"}
)
NO_CHANGE = 1e-6
KEY = "scaling_dropped"


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a model does to a tensor beside an input or its output: y = slope * x + offset.

    Attributes:
        slope, offset: [N, T, width], or what broadcasts to that.
    """

    slope: F64
    offset: F64

    def once(self, x: F32) -> F32:
        return np.asarray(self.slope * x + self.offset, np.float32)

    def undone(self, y: F32) -> F32:
        return np.asarray((y - self.offset) / self.slope, np.float32)


def scaling_faults(parts: Dissected, case: Case) -> Iterator[Alternative]:
    """Simulate loops without a scaling of the model, and with it twice."""
    yield from _fed_back(case, _after(parts, "decoder_input", case))
    yield from _not_unscaled(case, _before_the_end(parts, case))
    for role in ("past", "future_known"):
        yield from _elsewhere(case, role, _after(parts, role, case))


def _fed_back(case: Case, scaling: Scaling | None) -> Iterator[Alternative]:
    if scaling is None:
        return
    start, inputs = case.inputs[:, :1], case.inputs
    wrong = {"was not scaled": scaling.undone, "was scaled twice": scaling.once}
    for what, change in wrong.items():
        changed = change(inputs[:, :, None])[:, :, 0]
        said = f"What was fed to the decoder {what}; the model scales its input itself, so feed raw units, once."
        later = np.concatenate([start, changed[:, 1:]], axis=1)
        first = np.concatenate([changed[:, :1], inputs[:, 1:]], axis=1)
        yield from (Alternative(KEY, said, case.run(np.ascontiguousarray(fed))) for fed in (changed, later, first))


def _not_unscaled(case: Case, scaling: Scaling | None) -> Iterator[Alternative]:
    if scaling is None:
        return
    said = "The output was not unscaled, neither in the column nor where it was fed back; unscale it before both."
    yield Alternative(KEY, said, scaling.undone(case.run()[:, :, None])[:, :, 0])
    said = "The output was not unscaled in the column; write it down in raw units."
    fed = shifted_in(case.inputs[:, :1], scaling.once(case.given[:, :, None])[:, :, 0])
    if case.free:
        yield Alternative(KEY, said, scaling.undone(case.run(fed)[:, :, None])[:, :, 0])


def _elsewhere(case: Case, role: str, scaling: Scaling | None) -> Iterator[Alternative]:
    given = getattr(case.batch, role)
    if scaling is None or given is None:
        return
    for what, change in {"not scaled": scaling.undone, "scaled twice": scaling.once}.items():
        said = f"{role} was {what}; the model scales it itself, so feed raw units, once."
        changed: dict[str, Any] = {role: change(given)}
        yield Alternative(KEY, said, _with(case, replace(case.batch, **changed)).run())


def _with(case: Case, batch: WindowBatch) -> Case:
    """Return the case with states of another context; start value and memory stay those of the right one."""
    state = case.machine.encode(batch).state
    return replace(case, batch=batch, encoded=replace(case.encoded, state=state))


def _after(parts: Dissected, role: str, case: Case) -> Scaling | None:
    """Return what the model does to an input before anything else; None = nothing."""
    if role not in parts.inputs:
        return None
    first = tensor = parts.inputs[role]
    chain: list[Call] = []
    while following := _next(parts, tensor):
        chain.append(following)
        tensor = following.outputs
    given = case.given if role == "decoder_input" else getattr(case.batch, role)
    return _scaling(parts, chain, first, case, max(1.0, 2 * float(np.abs(given).max())))


def _next(parts: Dissected, tensor: Any) -> Call | None:
    readers = [call for call in (*parts.encoder, *parts.decoder) if any(read is tensor for read in call.reads())]
    fitting = [call for call in readers if _is_arithmetic(call) and call.outputs.shape == tensor.shape]
    return fitting[0] if len(fitting) == 1 else None


def _before_the_end(parts: Dissected, case: Case) -> Scaling | None:
    """Return what the model does to its output after everything else; None = nothing."""
    made = {id(tensor): call for call in parts.decoder for tensor in call.gives()}
    tensor, chain = parts.output, list[Call]()
    while (call := made.get(id(tensor))) and _is_arithmetic(call):
        sources = [read for read in call.reads() if id(read) in made and read.shape == tensor.shape]
        if len(sources) != 1:
            break
        chain.insert(0, call)
        tensor = sources[0]
    return None if len(tensor.shape) != 3 else _scaling(parts, chain, tensor, case, 10.0)


def _is_arithmetic(call: Call) -> bool:
    return type(call.operation).__name__ in ARITHMETIC and len(call.gives()) == 1


def _scaling(parts: Dissected, chain: list[Call], first: Any, case: Case, reach: float) -> Scaling | None:
    """Find slope and offset of a chain of calls by running it at two values, `reach` and `-reach`."""
    import keras

    if not chain:
        return None
    begin = keras.Input(tuple(first.shape[1:]), name="freerun_begin")
    end = replay(chain, {id(first): begin}, as_recorded)[id(chain[-1].outputs)]
    context = [parts.inputs[role] for role in CONTEXT_ROLES if role in parts.inputs]
    run = compiled(keras.Model([*context, begin], end))
    arrays = context_of(case.batch)
    shape = (len(case.batch), *begin.shape[1:])
    high, low = (run([*arrays, np.full(shape, value, np.float32)])[0].astype(np.float64) for value in (reach, -reach))
    scaling = Scaling((high - low) / (2 * reach), (high + low) / 2)
    nothing = np.abs(scaling.slope - 1).max() < NO_CHANGE and np.abs(scaling.offset).max() < NO_CHANGE
    return None if nothing or (scaling.slope == 0).any() else scaling
