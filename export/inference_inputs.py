"""The inputs of an inference model: past, past_observed and future_known, and no previous targets."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from export.calls import is_functional, operations_of
from export.model_inputs import refuse_static
from export.windows import infer_sizes
from runner.dataset import open_dataset
from runner.errors import CertificationError, InputError, explain
from runner.schema import Sizes

ROLES = ("past", "past_observed", "future_known")


def is_inference_model(model: Any) -> bool:
    """Tell an unrolled inference model from a training model: layers with weights are called once a step."""
    outputs = getattr(model, "outputs", None)
    names = {entry.name for entry in getattr(model, "inputs", None) or ()}
    if not outputs or not is_functional(model) or "decoder_input" in names or len(outputs[0].shape) < 2:
        return False
    calls = Counter(id(operation) for operation in operations_of(model) if getattr(operation, "weights", []))
    horizon = outputs[0].shape[1] or 0
    return horizon > 1 and max(calls.values(), default=0) >= horizon and (len(names) == 1 or horizon > 2)


def sizes_of_inference(model: Any, data: str, columns: Mapping[str, str]) -> tuple[Sizes, bool]:
    """Return C, H, F and K of an inference model, of the data where it leaves C open; and if it takes `past_observed`.

    Raises:
        CertificationError: its inputs are not known, or it forecasts several targets.
        InputError: the data that has to tell C cannot.
    """
    shapes = {role: tuple(model.inputs[place].shape[1:]) for role, place in roles_of(model).items()}
    context, past = shapes["past"]
    horizon, future = model.outputs[0].shape[1], shapes.get("future_known", (0, 0))[1]
    if len(axes := model.outputs[0].shape) == 3 and axes[2] != 1:
        what, remedy = "an inference model of several targets is not taken", "give the training model"
        raise CertificationError(explain(what, got=f"{axes[2]} numbers a step", expected="one", remedy=remedy))
    if context is None or past is None:
        dataset = open_dataset(data)
        if not (paths := dataset.paths()):
            raise InputError(explain(f"no Parquet files in {data}", expected="*.parquet"))
        found = infer_sizes(dataset, paths[0], past, columns)
        context, past = context or found.context, past or found.past
    return Sizes(int(context), int(horizon), int(past), int(future or 0)), "past_observed" in shapes


def roles_of(model: Any) -> dict[str, int]:
    """Return the place of each role among the inputs: by our own names, or by the axes.

    Raises:
        CertificationError: they are not known.
    """
    names = [entry.name for entry in model.inputs]
    shapes = [tuple(entry.shape[1:]) for entry in model.inputs]
    horizon = model.outputs[0].shape[1]
    refuse_static(names)
    if set(names) <= set(ROLES) and "past" in names:
        found = {name: place for place, name in enumerate(names)}
    elif len(names) == 1:
        found = {"past": 0}
    elif len(names) == 2 and len(shapes[0]) == 2 and len(shapes[1]) == 2 and shapes[1][0] == horizon:
        found = {"past": 0, "future_known": 1}
    else:
        found = {}
    ranks = {role: len(shapes[place]) for role, place in found.items()}
    if not found or any(rank != (1 if role == "past_observed" else 2) for role, rank in ranks.items()):
        got = ", ".join(f"{name} {list(shape)}" for name, shape in zip(names, shapes, strict=True))
        expected = "past [C, F], past_observed [C], future_known [H, K]"
        raise CertificationError(
            explain(
                "the inputs of the inference model are not known", got=got, expected=expected, remedy="name them so"
            )
        )
    return found
