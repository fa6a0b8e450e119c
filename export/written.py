"""Which layers of a model cannot be written as ONNX that a bundle may hold: told before, or found out afterwards."""

from collections.abc import Iterator
from typing import Any

from export.calls import Call, as_recorded, operations_of, record, replay
from export.certify import OPERATOR_OF_CELL
from export.graphs import graph_of, plain_layers, serialize
from export.model import Forecasters
from runner.audit import audit_graph
from runner.errors import BundleError, CertificationError, explain, listing

ACTIVATIONS = ("tanh", "relu", "sigmoid")
"""Of an LSTM that becomes the ONNX operator."""
REMEDY = "train the model with other layers there; docs/convert.md has a table of what is taken"


def refuse_unwritten(model: Any) -> None:
    """Refuse layers that become loops in ONNX, which no bundle may hold.

    Raises:
        CertificationError: names each of them.
    """
    operations = {id(operation): operation for operation in operations_of(model)}.values()
    found = [(operation, _in_the_way(operation)) for operation in operations]
    problems = [f"layer {layer.name} ({type(layer).__name__}): {why}" for layer, why in found if why]
    if problems:
        expected = "LSTM layers with a sigmoid as recurrent_activation, and no masks"
        what = "the model has layers that cannot be written as ONNX without loops" + listing(problems)
        raise CertificationError(explain(what, expected=expected, remedy="train it with such layers"))


def refuse_unwritten_parts(models: Forecasters, error: CertificationError) -> None:
    """Find the layers because of which a conversion was refused: write each of them alone.

    Args:
        models: that were refused.
        error: what was said of them as a whole.

    Raises:
        CertificationError: names each such layer. Where each can be written alone, nothing happens.
    """
    with plain_layers(models):
        problems = list(dict.fromkeys(line for model in (models.encoder, models.step) for line in _unwritten(model)))
    if problems:
        what = "the model has layers that cannot be written as ONNX that a bundle may hold" + listing(problems)
        raise CertificationError(explain(what, remedy=REMEDY)) from error


def _in_the_way(operation: Any) -> str | None:
    layer = getattr(operation, "forward_layer", operation)
    cell = getattr(layer, "cell", None)
    if type(operation).__name__ == "Masking" or getattr(operation, "mask_zero", False):
        return "it masks steps; give the steps that are there as past_observed"
    if cell is None:
        return None
    kind = OPERATOR_OF_CELL.get(type(cell).__name__)
    if kind is None:
        return f"a recurrence of {type(cell).__name__}"
    of_the_gates = getattr(getattr(cell, "recurrent_activation", None), "__name__", "sigmoid")
    if cell.activation.__name__ not in (ACTIVATIONS if kind == "LSTM" else ("tanh",)) or of_the_gates != "sigmoid":
        return f"its activations are {cell.activation.__name__} and {of_the_gates}"
    return None


def _unwritten(model: Any) -> Iterator[str]:
    """Yield a line for each layer that cannot be written alone, with what is said of it."""
    _, calls = record(model, model.inputs)
    for call in calls:
        try:
            _write_alone(call)
        except (BundleError, CertificationError) as error:
            yield f"layer {call.name}: {' '.join(str(error).split())}"
        except Exception:  # noqa: BLE001, S112  (what cannot be tried alone is not to blame)
            continue


def _write_alone(call: Call) -> None:
    """Write one call as a graph, and audit it.

    Raises:
        BundleError, CertificationError: it cannot be.
    """
    import keras

    read = list({id(tensor): tensor for tensor in call.reads()}.values())
    inputs = [keras.Input(tensor.shape[1:], name=f"given_{index}") for index, tensor in enumerate(read)]
    made = replay([call], dict(zip(map(id, read), inputs, strict=True)), as_recorded)
    output = made[id(call.gives()[0])]
    graph = graph_of(keras.Model(inputs, output, name="layer"), ("made",))
    signature = {entry.name: ("batch", *entry.shape[1:]) for entry in inputs}, {"made": ("batch", *output.shape[1:])}
    audit_graph(serialize(graph), "it", signature)
