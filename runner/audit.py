"""Look into an ONNX graph before onnxruntime sees it; the only module of the runner that imports onnx."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx  # noqa: TID251  (this is the module that may)

from runner.errors import BundleError, explain, listing
from runner.follow import follow
from runner.footprint import LARGEST_FOOTPRINT, MOST_WORK, Cost
from runner.manifest import Graph, Manifest
from runner.operators import OPERATORS
from runner.proto import beyond_limits, parse, tensor_problems
from runner.shapes import MisfitError
from runner.wire import describing_bytes

EXPORT_ID_KEY = "freerun.export_id"
OPSET, IR_VERSION = 18, 8
"""What export writes, and what the rules of `shapes` are for."""
DESCRIBING_BYTES = 10 << 20
"""A graph's bytes without the numbers of its constants: 87 for each node, where export needs 75. Parsed they take up to
50 times as much."""
REMEDY = "export the bundle again, with a smaller model where it is too large"
MOST_TOLD, LONGEST_TOLD = 20, 300
"""Offenders that a message names, and characters of each."""
ORT_FORMAT = b"ORTM"
"""From the fifth byte on: onnxruntime takes such bytes for its own format, and would read another graph."""

Signature = dict[str, tuple[int | str, ...]]
"""Tensor name -> axes; the batch axis is the string "batch". All tensors are float32."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the audit found in a graph that it let pass."""

    operators: dict[str, int]
    opset: int
    export_id: str | None
    cost: Cost


def encoder_signature(manifest: Manifest) -> tuple[Signature, Signature]:
    """Return the encoder's inputs and outputs as the manifest states them."""
    names = manifest.encoder.tensors
    inputs: Signature = {names["past"]: ("batch", manifest.context_length, manifest.past_width)}
    if manifest.past_observed:
        inputs[names["past_observed"]] = ("batch", manifest.context_length)
    if manifest.static_width:
        inputs[names["static"]] = ("batch", manifest.static_width)
    outputs: Signature = {names["previous_0"]: ("batch", manifest.target_width)}
    outputs |= {state.encoder_output: ("batch", state.width) for state in manifest.states}
    outputs |= {memory.encoder_output: ("batch", *memory.shape) for memory in manifest.memory}
    return inputs, outputs


def step_signature(manifest: Manifest) -> tuple[Signature, Signature]:
    """Return the single-step decoder's inputs and outputs as the manifest states them."""
    names = manifest.decoder_step.tensors
    inputs: Signature = {names["previous"]: ("batch", 1, manifest.target_width)}
    if manifest.future_width:
        inputs[names["future_known"]] = ("batch", 1, manifest.future_width)
    inputs |= {state.step_input: ("batch", state.width) for state in manifest.states}
    inputs |= {memory.step_input: ("batch", *memory.shape) for memory in manifest.memory}
    outputs: Signature = {names["prediction"]: ("batch", 1, manifest.target_width)}
    outputs |= {state.step_output: ("batch", state.width) for state in manifest.states}
    return inputs, outputs


def fused_signature(manifest: Manifest, names: Mapping[str, str]) -> tuple[Signature, Signature]:
    """Return the inputs and outputs of the graph that holds the whole horizon; `names` are its tensors by role."""
    context, horizon = manifest.context_length, manifest.horizon
    axes: dict[str, tuple[int | str, ...]] = {
        "past": ("batch", context, manifest.past_width),
        "past_observed": ("batch", context),
        "static": ("batch", manifest.static_width),
        "future_known": ("batch", horizon, manifest.future_width),
        "teacher": ("batch", manifest.cells),
    }
    inputs = {name: axes[role] for role, name in names.items() if role in axes}
    return inputs, {names["prediction"]: ("batch", manifest.cells)}


def signature(manifest: Manifest, key: str, graph: Graph) -> tuple[Signature, Signature]:
    """Return what a graph must take and return, by its manifest key."""
    if key == "fused":
        return fused_signature(manifest, graph.tensors)
    return encoder_signature(manifest) if key == "encoder" else step_signature(manifest)


def audit_graph(content: bytes, label: str, signature: tuple[Signature, Signature], turns: int = 1) -> GraphFacts:
    """Check a graph without running it.

    Args:
        content: the ONNX file's bytes.
        label: what to call it in messages.
        signature: inputs and outputs that it must have.
        turns: how often it runs for a window.

    Raises:
        BundleError: not ONNX; anything in it that export does not write, an operator that is not on the list; tensors
            other than the signature's (all offenders of these are listed); a tensor whose shape does not follow from
            the file; or more memory or work for a window than any forecaster needs.
    """
    model, problems = _parsed(content, label)
    operators: Counter[str] = Counter()
    if too_many := beyond_limits(model):
        problems += too_many
    else:
        operators = Counter(map(_operator, model.graph.node))
        problems += [*_versions(model), *_metadata(model), *_forbidden(operators), *_constants(model.graph)]
        problems += _differences(model.graph, *signature)
    if problems:
        raise BundleError(f"{label} was refused:" + listing([_plain(problem) for problem in problems[:MOST_TOLD]]))
    stamp = {entry.key: entry.value for entry in model.metadata_props}.get(EXPORT_ID_KEY)
    try:
        cost = follow(model.graph, *signature)
    except MisfitError as error:
        what = f"{label}: a tensor's shape does not follow from the file, or is too large"
        raise BundleError(explain(what, got=_plain(str(error)), remedy=REMEDY)) from error
    _check_cost(cost, turns, label)
    return GraphFacts(dict(sorted(operators.items())), OPSET, stamp, cost)


def _parsed(content: bytes, label: str) -> tuple[Any, list[str]]:
    if content[4:8] == ORT_FORMAT:
        raise BundleError(explain(f"{label} is not an ONNX graph", got="onnxruntime's own format", remedy=REMEDY))
    try:
        found = describing_bytes(content)
        parsed = parse(content, found, onnx.ModelProto) if found <= DESCRIBING_BYTES else None
    except Exception as error:
        raise BundleError(explain(f"{label} is not an ONNX graph", got=_plain(str(error)), remedy=REMEDY)) from error
    if parsed is None:
        expected = f"at most {DESCRIBING_BYTES} bytes beside the numbers of its constants"
        raise BundleError(explain(f"{label} describes too much", got=found, expected=expected, remedy=REMEDY))
    return parsed


def _plain(text: str) -> str:
    """Keep what a message quotes from a file to some length, and to characters that do nothing to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:LONGEST_TOLD])


def _versions(model: Any) -> list[str]:
    sets = [(entry.domain or "ai.onnx", entry.version) for entry in model.opset_import]
    problems = [] if sets == [("ai.onnx", OPSET)] else [f"operator sets {sets[:8]}, expected ai.onnx {OPSET} alone"]
    found = model.ir_version
    return problems + ([] if found == IR_VERSION else [f"IR version {found}, expected {IR_VERSION}"])


def _metadata(model: Any) -> list[str]:
    """Refuse all metadata but the stamp: onnxruntime can be told to take a session's options from there."""
    keys = [entry.key for entry in model.metadata_props]
    return [f"metadata '{key}'" for key in sorted(set(map(str, keys)) - {EXPORT_ID_KEY})] + (
        ["metadata that stands there twice"] if len(set(keys)) != len(keys) else []
    )


def _operator(node: Any) -> str:
    foreign_domain = node.domain not in {"", "ai.onnx"}
    return f"{node.domain}.{node.op_type}" if foreign_domain else f"{node.op_type}"  # bytes, in a damaged graph


def _forbidden(operators: Mapping[str, int]) -> list[str]:
    return [f"operator {name} ({count} times)" for name, count in sorted(operators.items()) if name not in OPERATORS]


def _constants(graph: Any) -> list[str]:
    names = Counter(tensor.name for tensor in graph.initializer)
    problems = [f"{count} constants are called '{name}'" for name, count in names.items() if count > 1]
    return problems + [problem for tensor in graph.initializer for problem in tensor_problems(tensor)]


def _differences(graph: Any, inputs: Signature, outputs: Signature) -> list[str]:
    constants = {tensor.name for tensor in graph.initializer}
    found_inputs = [value for value in graph.input if value.name not in constants]
    return [*_compare("input", found_inputs, inputs), *_compare("output", list(graph.output), outputs)]


def _compare(kind: str, declared: Sequence[Any], expected: Signature) -> list[str]:
    found = {value.name: value for value in declared}
    problems = [f"{kind} '{name}' is missing" for name in expected.keys() - found.keys()]
    problems += [f"{kind} '{name}' is not in the manifest" for name in found.keys() - expected.keys()]
    problems += [f"{len(declared)} {kind}s of {len(found)} names"] if len(declared) != len(found) else []
    for name in sorted(expected.keys() & found.keys()):
        tensor = found[name].type.tensor_type
        axes = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim[:MOST_TOLD])
        if tensor.elem_type != onnx.TensorProto.FLOAT or axes != expected[name]:
            known = onnx.TensorProto.DataType.values()
            type_name = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in known else "unknown"
            problems.append(f"{kind} '{name}' is {type_name} {list(axes)}, expected FLOAT {list(expected[name])}")
    return sorted(problems)


def _check_cost(cost: Cost, turns: int, label: str) -> None:
    costs = {
        "memory": (cost.elements, LARGEST_FOOTPRINT, "elements at once"),
        "work": (cost.work * turns, MOST_WORK, "multiply-adds"),
    }
    for what, (found, most, unit) in costs.items():
        if found > most:
            got, expected = f"{found} {unit} a window", f"at most {most}"
            raise BundleError(explain(f"{label} takes too much {what}", got=got, expected=expected, remedy=REMEDY))
