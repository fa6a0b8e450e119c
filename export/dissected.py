"""The calls of a training model, sorted into encoder and decoder by what they depend on.

Everything that can be reached from the decoder's inputs is the decoder; all else is the encoder. What the decoder's
recurrent layers begin with are the states; what else the decoder reads of the encoder is the memory. Nothing is found
by the name or the place of a layer.
"""

from dataclasses import dataclass
from typing import Any

from export.calls import Call
from export.model_inputs import CONTEXT_ROLES, DECODER_ROLES, recorded
from export.steps import LOOKS_UP, has_all_steps, refuse
from runner.errors import CertificationError, explain
from runner.schema import Sizes

STATE_NAMES = {"LSTM": ("hidden", "cell"), "GRU": ("hidden",), "SimpleRNN": ("hidden",)}


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A recurrent layer of the decoder.

    Attributes:
        call: where it is called.
        names: of its states, hidden state first.
        initial: the encoder's tensors that it begins with; None = it begins with zeros.
    """

    call: Call
    names: tuple[str, ...]
    initial: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Dissected:
    """The calls of a training model, sorted.

    Attributes:
        inputs: symbolic inputs by role; `decoder_input` [B, H, M] and `future_known` [B, H, K] are the decoder's.
        encoder, decoder: calls in order.
        recurrent: the decoder's recurrent layers in order.
        memory: the encoder's tensors that the decoder reads whole at each step, by name.
        ahead: those that it reads step by step [B, H, K], by name: states that hold what is still to come.
        output: what the training model returns, [B, H, M], or [B, H] of one target.
        horizon: H.
    """

    inputs: dict[str, Any]
    encoder: tuple[Call, ...]
    decoder: tuple[Call, ...]
    recurrent: tuple[Recurrent, ...]
    memory: dict[str, Any]
    ahead: dict[str, Any]
    output: Any
    horizon: int

    @property
    def context(self) -> list[Any]:
        return [self.inputs[role] for role in CONTEXT_ROLES if role in self.inputs]

    @property
    def states(self) -> tuple[str, ...]:
        return (*(name for layer in self.recurrent for name in layer.names), *self.ahead)


def sort_calls(training: Any, sizes: Sizes | None = None) -> Dissected:
    """Record a training model's calls, and tell the decoder's from the encoder's.

    Raises:
        CertificationError: the model is no encoder and decoder; says which layer is in the way, and why.
    """
    inputs, outputs, calls = recorded(training, sizes)
    makers = ", ".join(_maker(output, calls) for output in outputs)
    if len(outputs) != 1:
        remedy = "keras.Model(inputs, its output of that target)"
        raise CertificationError(
            explain(
                "the model has several outputs", got=makers, expected="the predictions of one target", remedy=remedy
            )
        )
    downstream = {id(inputs[role]) for role in DECODER_ROLES if role in inputs}
    for call in calls:
        if any(id(tensor) in downstream for tensor in call.reads()):
            downstream |= set(map(id, call.gives()))
    horizon, targets = inputs["decoder_input"].shape[1:]
    fitting = {(horizon, targets), (horizon,)} if targets == 1 else {(horizon, targets)}
    if id(outputs[0]) not in downstream or tuple(outputs[0].shape[1:]) not in fitting:
        what, got = "the model's output is no forecast by its decoder", f"{list(outputs[0].shape)} of layer {makers}"
        expected = f"[B, {horizon}, {targets}] from the decoder's input"
        remedy = f"end the model with one number a step for each target, Dense({targets})"
        raise CertificationError(explain(what, got=got, expected=expected, remedy=remedy))
    decoder = _decoder(calls, downstream, horizon)
    encoder = tuple(call for call in calls if not any(call is other for other in decoder))
    recurrent = _recurrent(decoder, downstream)
    if not recurrent:
        what = "the model's decoder has no recurrent layer, so there is no state to carry"
        got, remedy = ", ".join(call.name for call in decoder), "a decoder of LSTM or GRU layers"
        raise CertificationError(explain(what, got=got, expected=remedy, remedy=f"train a model with {remedy}"))
    memory, ahead = _read_beside(decoder, recurrent, inputs)
    if not memory and not ahead and all(layer.initial is None for layer in recurrent):
        refuse(
            recurrent[0].call, "it begins with zeros and reads nothing of the encoder, so the context does not matter"
        )
    return Dissected(inputs, encoder, decoder, recurrent, memory, ahead, outputs[0], horizon)


def _maker(tensor: Any, calls: tuple[Call, ...]) -> str:
    """Return the name of the layer that gives a tensor."""
    found = (call.name for call in reversed(calls) if any(tensor is given for given in call.gives()))
    return next(found, "none")


def _decoder(calls: tuple[Call, ...], downstream: set[int], horizon: int) -> tuple[Call, ...]:
    """Return the calls that the decoder makes, those included that repeat a tensor of the encoder for each step."""
    read = {id(tensor) for call in calls if set(map(id, call.gives())) & downstream for tensor in call.reads()}
    return tuple(
        call
        for call in calls
        if set(map(id, call.gives())) & downstream
        or (
            getattr(call.operation, "n", None) == horizon and _kind(call) == "RepeatVector" and id(call.outputs) in read
        )
    )


def _recurrent(decoder: tuple[Call, ...], downstream: set[int]) -> tuple[Recurrent, ...]:
    found: list[Recurrent] = []
    for call in decoder:
        if hasattr(call.operation, "cell") or _kind(call) == "Bidirectional":
            names = _state_names(call, len(found))
            given = call.kwargs.get("initial_state", call.args[1] if len(call.args) > 1 else None)
            initial = None if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)
            if initial and any(id(tensor) in downstream for tensor in initial):
                refuse(call, "its first state depends on the decoder's input, so an encoder cannot hand it over")
            found.append(Recurrent(call, names, initial))
    return tuple(found)


def _state_names(call: Call, index: int) -> tuple[str, ...]:
    if _kind(call) == "Bidirectional" or getattr(call.operation, "go_backwards", False):
        refuse(call, "it reads the horizon backwards too: step 1 would need what is predicted last")
    if _kind(call) not in STATE_NAMES:
        refuse(call, f"its states are not known (expected {', '.join(STATE_NAMES)})")
    return tuple(name if index == 0 else f"{name}_{index}" for name in STATE_NAMES[_kind(call)])


def _read_beside(
    decoder: tuple[Call, ...], recurrent: tuple[Recurrent, ...], inputs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name what the decoder reads of the encoder beside the states: what it reads whole, and what step by step."""
    horizon = inputs["decoder_input"].shape[1]
    own = {id(tensor) for call in decoder for tensor in call.gives()}
    own |= {id(inputs[role]) for role in DECODER_ROLES if role in inputs}
    whole: dict[int, Any] = {}
    by_step: dict[int, Any] = {}
    for call in decoder:
        layer = next((layer for layer in recurrent if layer.call is call), None)
        initial = {id(tensor) for tensor in (layer.initial or () if layer else ())}
        for tensor in call.reads():
            if id(tensor) not in own | initial:
                kind = by_step if has_all_steps(tensor, horizon) and _kind(call) not in LOOKS_UP else whole
                kind[id(tensor)] = tensor
    return _named("memory", whole), _named("ahead", {key: by_step[key] for key in by_step if key not in whole})


def _named(name: str, tensors: dict[int, Any]) -> dict[str, Any]:
    return {name if index == 0 else f"{name}_{index}": tensor for index, tensor in enumerate(tensors.values())}


def _kind(call: Call) -> str:
    return type(call.operation).__name__
