"""Look into an ONNX graph before onnxruntime sees it; the only module of the runner that imports onnx."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx  # noqa: TID251  (this is the module that may)

from runner.errors import BundleError, explain, listing
from runner.manifest import Graph, Manifest

EXPORT_ID_KEY = "freerun.export_id"
CONTROL_FLOW = frozenset({"Loop", "Scan", "If"})
ALLOWED_OPERATORS = frozenset(
    """
    Abs Add And ArgMax Cast Clip Concat Constant ConstantOfShape CumSum Div Equal Erf Exp Expand Gather GatherElements
    GatherND Gemm Greater GreaterOrEqual Identity IsInf IsNaN LSTM LayerNormalization Less LessOrEqual Log MatMul
    MatMulInteger Max Min Mul Neg Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile
    Transpose Unsqueeze Where
    """.split()  # noqa: SIM905  (one name a line would take a page)
)
"""What a graph of ours may be built from: arithmetic on its own tensors. Nothing here reads files or calls out."""

Signature = dict[str, tuple[int | str, ...]]
"""Tensor name -> axes; the batch axis is the string "batch". All tensors are float32."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the audit found in a graph that it let pass."""

    operators: dict[str, int]
    opset: int
    export_id: str | None


def encoder_signature(manifest: Manifest) -> tuple[Signature, Signature]:
    """Return the encoder's inputs and outputs as the manifest states them."""
    names = manifest.encoder.tensors
    inputs: Signature = {names["past"]: ("batch", manifest.context_length, manifest.past_width)}
    if manifest.past_observed:
        inputs[names["past_observed"]] = ("batch", manifest.context_length)
    outputs: Signature = {names["previous_0"]: ("batch", 1)}
    outputs |= {state.encoder_output: ("batch", state.width) for state in manifest.states}
    outputs |= {memory.encoder_output: ("batch", *memory.shape) for memory in manifest.memory}
    return inputs, outputs


def step_signature(manifest: Manifest) -> tuple[Signature, Signature]:
    """Return the single-step decoder's inputs and outputs as the manifest states them."""
    names = manifest.decoder_step.tensors
    inputs: Signature = {names["previous"]: ("batch", 1, 1)}
    if manifest.future_width:
        inputs[names["future_known"]] = ("batch", 1, manifest.future_width)
    inputs |= {state.step_input: ("batch", state.width) for state in manifest.states}
    inputs |= {memory.step_input: ("batch", *memory.shape) for memory in manifest.memory}
    outputs: Signature = {names["prediction"]: ("batch", 1, 1)}
    outputs |= {state.step_output: ("batch", state.width) for state in manifest.states}
    return inputs, outputs


def fused_signature(manifest: Manifest, names: Mapping[str, str]) -> tuple[Signature, Signature]:
    """Return the inputs and outputs of the graph that holds the whole horizon; `names` are its tensors by role."""
    context, horizon = manifest.context_length, manifest.horizon
    axes: dict[str, tuple[int | str, ...]] = {
        "past": ("batch", context, manifest.past_width),
        "past_observed": ("batch", context),
        "future_known": ("batch", horizon, manifest.future_width),
        "teacher": ("batch", horizon),
    }
    inputs = {name: axes[role] for role, name in names.items() if role in axes}
    return inputs, {names["prediction"]: ("batch", horizon)}


def signature(manifest: Manifest, key: str, graph: Graph) -> tuple[Signature, Signature]:
    """Return what a graph must take and return, by its manifest key."""
    if key == "fused":
        return fused_signature(manifest, graph.tensors)
    return encoder_signature(manifest) if key == "encoder" else step_signature(manifest)


def audit_graph(
    content: bytes, label: str, signature: tuple[Signature, Signature], control_flow: tuple[str, ...] = ()
) -> GraphFacts:
    """Check a graph without running it.

    Args:
        content: the ONNX file's bytes.
        label: what to call it in messages.
        signature: inputs and outputs that it must have.
        control_flow: operators with subgraphs that the exporter was told to allow.

    Raises:
        BundleError: not ONNX; external data, functions, a foreign operator domain, an operator that is not on the
            list, control flow that was not allowed; or tensors other than the signature's. All offenders are listed.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise BundleError(
            explain(f"{label} is not an ONNX graph", got=error, remedy="export the bundle again")
        ) from error
    problems = [*_foreign(model), *_forbidden(model, control_flow), *_differences(model.graph, *signature)]
    if problems:
        raise BundleError(f"{label} was refused:" + listing(problems))
    return GraphFacts(
        operators=dict(sorted(Counter(node.op_type for node in _nodes(model.graph)).items())),
        opset=next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0),
        export_id={entry.key: entry.value for entry in model.metadata_props}.get(EXPORT_ID_KEY),
    )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _nodes(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _tensors(inner)


def _foreign(model: Any) -> list[str]:
    problems = [
        f"operator domain '{entry.domain}'" for entry in model.opset_import if entry.domain not in {"", "ai.onnx"}
    ]
    problems += [f"function '{function.name}'" for function in model.functions]
    problems += [f"{len(model.training_info)} training graphs"] if model.training_info else []
    return problems + [
        f"tensor '{tensor.name}' keeps its data outside the file"
        for tensor in _tensors(model.graph)
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL
    ]


def _forbidden(model: Any, control_flow: tuple[str, ...]) -> list[str]:
    allowed = ALLOWED_OPERATORS | (CONTROL_FLOW & set(control_flow))
    found: Counter[str] = Counter()
    for node in _nodes(model.graph):
        foreign = node.domain not in {"", "ai.onnx"}
        found[f"{node.domain}.{node.op_type}" if foreign else f"{node.op_type}"] += 1  # bytes, in a damaged graph
    return [f"operator {name} ({count} times)" for name, count in sorted(found.items()) if name not in allowed]


def _differences(graph: Any, inputs: Signature, outputs: Signature) -> list[str]:
    constants = {tensor.name for tensor in graph.initializer}
    found_inputs = {value.name: value for value in graph.input if value.name not in constants}
    found_outputs = {value.name: value for value in graph.output}
    return [*_compare("input", found_inputs, inputs), *_compare("output", found_outputs, outputs)]


def _compare(kind: str, found: dict[str, Any], expected: Signature) -> list[str]:
    problems = [f"{kind} '{name}' is missing" for name in expected.keys() - found.keys()]
    problems += [f"{kind} '{name}' is not in the manifest" for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        tensor = found[name].type.tensor_type
        axes = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
        if tensor.elem_type != onnx.TensorProto.FLOAT or axes != expected[name]:
            known = onnx.TensorProto.DataType.values()
            type_name = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in known else "unknown"
            problems.append(f"{kind} '{name}' is {type_name} {list(axes)}, expected FLOAT {list(expected[name])}")
    return sorted(problems)
