"""The inputs of a training model: which of them is what, and the model's calls on inputs that have our names."""

from collections.abc import Mapping
from typing import Any

from export.calls import Call, record
from export.windows import infer_sizes
from runner.dataset import open_dataset
from runner.errors import CertificationError, InputError, explain
from runner.schema import Sizes

PREDICTIONS_AXES = 3
"""Of the output of a model that does not squeeze its predictions: [B, H, M]."""
CONTEXT_ROLES = ("past", "past_observed", "static")
DECODER_ROLES = ("decoder_input", "future_known")
INPUT_ROLES = (*CONTEXT_ROLES, *DECODER_ROLES)
FLAT_ROLES = frozenset({"past_observed", "static"})
"""Those with one axis after the batch; all others have two."""


def sizes_of_model(training: Any) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    """Return which input has which role, and the axes of each role after the batch.

    `future_known` is there too where the decoder's input holds it behind the previous value.

    Raises:
        CertificationError: the inputs are not those of a sequence-to-sequence forecaster.
    """
    if not getattr(training, "inputs", None):
        remedy = "build it with keras.Model(inputs, outputs), and copy the weights"
        raise CertificationError(
            explain("the model is no Functional Keras model", got=type(training).__name__, remedy=remedy)
        )
    roles = _roles(training)
    shapes = {role: tuple(training.inputs[place].shape[1:]) for role, place in roles.items()}
    if any(len(shape) != (1 if role in FLAT_ROLES else 2) for role, shape in shapes.items()):
        expected = "past [C, F], past_observed [C], decoder_input [H, M] and future_known [H, K]"
        remedy = "give each input these axes, such as keras.Input((C, F))"
        raise CertificationError(
            explain("the model's inputs have other axes", got=_listed(shapes), expected=expected, remedy=remedy)
        )
    horizon, width = shapes["decoder_input"]
    targets = _targets(training, width)
    if width != targets and "future_known" not in shapes:
        shapes["future_known"] = (horizon, None if width is None else width - targets)
    elif width != targets:
        got = f"decoder_input {list(shapes['decoder_input'])} beside future_known"
        remedy = "give covariates in one of them: behind the previous value, or as future_known"
        raise CertificationError(
            explain("the decoder's input holds more than the previous value", got=got, remedy=remedy)
        )
    shapes["decoder_input"] = (horizon, targets)
    return roles, shapes


def _targets(training: Any, width: int | None) -> int:
    """Return M: as many values as a step predicts and is fed back, where the decoder's input has room for them."""
    outputs = [tuple(output.shape) for output in training.outputs]
    told = outputs[0][2] if len(outputs) == 1 and len(outputs[0]) == PREDICTIONS_AXES else 1
    return told if told and (width is None or told <= width) else 1


def sizes_for(training: Any, data: str, columns: Mapping[str, str]) -> tuple[Sizes, bool]:
    """Return C, H, F, K and M of a model, of the data where it leaves them open; and whether it takes `past_observed`.

    Args:
        training: the Keras model.
        data: path or URI of Parquet windows.
        columns: role -> column name, only where they differ.

    Raises:
        CertificationError: the model's inputs are not those of a forecaster.
        InputError: the data that has to tell the lengths cannot.
    """
    refuse_static([entry.name for entry in getattr(training, "inputs", None) or ()])
    _, shapes = sizes_of_model(training)
    (context, past), (horizon, targets) = shapes["past"], shapes["decoder_input"]
    future = shapes.get("future_known", (horizon, 0))[1]
    if None in {context, past, horizon, future}:
        dataset = open_dataset(data)
        paths = dataset.paths()
        if not paths:
            raise InputError(explain(f"no Parquet files in {data}", expected="*.parquet"))
        found = infer_sizes(dataset, paths[0], past, columns)
        context, past = context or found.context, past or found.past
        horizon = horizon or found.horizon * found.targets // (targets or 1)
        future = found.future if future is None else future
    context, horizon, past, future, targets = (int(size or 0) for size in (context, horizon, past, future, targets))
    return Sizes(context, horizon, past, future, targets), "past_observed" in shapes


def _roles(training: Any) -> dict[str, int]:
    """Return the place of each role among the inputs: by our own names, or encoder's first of two inputs."""
    names = [entry.name for entry in training.inputs]
    if "past" in names and "decoder_input" in names and set(names) <= set(INPUT_ROLES):
        return {name: place for place, name in enumerate(names)}
    if len(names) == 2:
        first = 1 if names[0].startswith("dec") and not names[1].startswith("dec") else 0
        return {"past": first, "decoder_input": 1 - first}
    expected = f"two inputs (encoder's, decoder's), or inputs named {', '.join(INPUT_ROLES)}"
    remedy = "name them so; of an inference model, give the training model that has the same layers"
    raise CertificationError(
        explain("the model's inputs are not known", got=", ".join(names), expected=expected, remedy=remedy)
    )


def refuse_static(names: list[str]) -> None:
    """Refuse a team's model that takes static features.

    Raises:
        CertificationError: one of its inputs is called so.
    """
    if "static" in names:
        what = "a model that takes static features is not taken: nothing says which words its indices stand for"
        remedy = "give them as past features that do not change, or train with freerun-export train"
        raise CertificationError(explain(what, got=", ".join(names), remedy=remedy))


def _listed(shapes: Mapping[str, tuple[int | None, ...]]) -> str:
    return ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items())


def recorded(training: Any, sizes: Sizes | None) -> tuple[dict[str, Any], list[Any], tuple[Call, ...]]:
    """Run a model on inputs that are named by role and have no open axes.

    Args:
        training: a Functional model.
        sizes: C, H, F, K and M, where the model leaves some open.

    Returns:
        The inputs by role, in our order; the outputs; the calls.

    Raises:
        CertificationError: the inputs are not those of a forecaster, or the calls cannot be followed.
    """
    import keras

    roles, shapes = sizes_of_model(training)
    if sizes is not None:
        fed = {"decoder_input": (sizes.horizon, sizes.targets), "static": (sizes.static_width,)}
        shapes = {role: fed.get(role, sizes.shape(role)) for role in shapes}
    if any(axis is None for shape in shapes.values() for axis in shape):
        raise CertificationError(explain("the model leaves axes open", got=_listed(shapes), expected="fixed lengths"))
    inputs = {role: keras.Input(shapes[role], name=role) for role in INPUT_ROLES if role in shapes}
    given, first = dict(inputs), []
    if "future_known" in inputs and "future_known" not in roles:
        join = keras.layers.Concatenate(name="decoder_input_and_future_known")
        both = [inputs["decoder_input"], inputs["future_known"]]
        given["decoder_input"] = join(both)
        first = [Call(join, (both,), {}, given["decoder_input"])]
    try:
        outputs, calls = record(training, [given[role] for role in sorted(roles, key=roles.__getitem__)])
    except Exception as error:
        raise CertificationError(explain("the model's calls cannot be followed", got=error)) from error
    return inputs, outputs, (*first, *calls)


def named(training: Any, sizes: Sizes) -> Any:
    """Return the training model with inputs of our names, in our order, and no open axes.

    Raises:
        CertificationError: as `recorded`.
    """
    import keras

    inputs, outputs, _ = recorded(training, sizes)
    return keras.Model(list(inputs.values()), outputs[0], name="training")
