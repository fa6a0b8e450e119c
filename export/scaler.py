"""Put the scaling that a team did outside its model into the model, so that it takes and gives raw units."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.config import Start
from export.model_inputs import named
from export.steps import own
from runner.batch import Feature, features_of
from runner.errors import InputError, UsageError, explain, listing
from runner.manifest import problems
from runner.schema import Sizes

LARGEST_FILE = 1 << 20
Scale = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Features(_Strict):
    """Scaling of some features: scaled = (raw - location) / scale [F]."""

    location: tuple[float, ...]
    scale: tuple[Scale, ...]


class Target(_Strict):
    """Scaling of the target, and of the decoder's input, which is the previous target; of several a list [M]."""

    location: float | tuple[float, ...]
    scale: Scale | tuple[Scale, ...]

    def each(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return location and scale of every target."""
        location, scale = (given if isinstance(given, tuple) else (given,) for given in (self.location, self.scale))
        return location, scale


class Scaler(_Strict):
    """What a team did to its data before the model, and undid after it."""

    past: Features
    future_known: Features | None = None
    target: Target

    def raw_start(self, start: Start) -> Start:
        """Return the decoder's first input in raw units, so that the model is fed the same value as before."""
        if start == "last":
            return start
        location, scale = map(np.array, self.target.each())
        raw = (np.asarray(start) * scale + location).tolist()
        return tuple(raw) if len(raw) > 1 else float(raw[0])


def read_scaler(path: Path, sizes: Sizes, start: Start, feature: Feature) -> Scaler:
    """Read a scaler, and hold it against the model that it is for.

    Args:
        path: a JSON file: {"past": {"location": [F], "scale": [F]}, "future_known": {...} [K], "target": {...}}.
        sizes: F, K and M.
        start: the decoder's first input.
        feature: index of the target among the past features, of several targets one for each.

    Raises:
        InputError: it cannot be read, or anything in it does not fit; all of that is listed.
        UsageError: the last target, which is to be fed first, was scaled in two ways.
    """
    remedy = '{"past": {"location": [F numbers], "scale": [F numbers]}, "target": {"location": x, "scale": y}}'
    try:
        with path.open("rb") as file:
            scaler = Scaler.model_validate_json(file.read(LARGEST_FILE))
        found = _misfits(scaler, sizes)
    except ValidationError as error:
        found = problems(error)
    except OSError as error:
        raise InputError(explain(f"cannot read the scaler {path}", got=error.strerror)) from error
    if found:
        raise InputError(explain(f"the scaler {path} does not fit:" + listing(found), expected=remedy))
    for index, location, scale in zip(features_of(feature), *scaler.target.each(), strict=True):
        past = (scaler.past.location[index], scaler.past.scale[index])
        if start == "last" and past != (location, scale):
            what = "start = last feeds the last target of the past, but past and target are scaled differently"
            expected, got = f"location {location}, scale {scale}", f"{past[0]}, {past[1]}"
            raise UsageError(explain(what, got=got, expected=expected, remedy="a number as start"))
    return scaler


def in_raw_units(training: Any, scaler: Scaler, sizes: Sizes) -> Any:
    """Return a model that takes and gives raw units around one that takes and gives scaled ones.

    Steps of the context that are missing are 0 after the scaling, as a model that takes `past_observed` has seen them.
    """
    import keras

    inner = named(training, sizes)
    inputs = {entry.name: keras.Input(entry.shape[1:], name=entry.name) for entry in inner.inputs}
    scaled = {**inputs, "past": _scaled(inputs["past"], scaler.past, "past")}
    if "past_observed" in inputs:
        flags = [scaled["past"], inputs["past_observed"]]
        scaled["past"] = own(lambda given: given[0] * given[1][:, :, None], "freerun_missing_is_0")(flags)
    scaled["decoder_input"] = _scaled(inputs["decoder_input"], scaler.target, "previous")
    if scaler.future_known is not None:
        scaled["future_known"] = _scaled(inputs["future_known"], scaler.future_known, "future")
    location, scale = np.array(scaler.target.each(), np.float32)
    back = own(lambda given: given * scale + location, "freerun_unscaled")
    return keras.Model(list(inputs.values()), back(inner(list(scaled.values()))), name="training")


def _scaled(tensor: Any, by: Features | Target, name: str) -> Any:
    given = by.each() if isinstance(by, Target) else (by.location, by.scale)
    location, scale = (np.asarray(numbers, np.float32) for numbers in given)
    return own(lambda given: (given - location) / scale, f"freerun_scaled_{name}")(tensor)


def _misfits(scaler: Scaler, sizes: Sizes) -> list[str]:
    """Return a line for every list of another length than the model's features, or targets."""
    parts = {"past": (scaler.past, sizes.past), "future_known": (scaler.future_known, sizes.future)}
    each = dict(zip(("location", "scale"), scaler.target.each(), strict=True))
    found = [
        f"target.{key}: got {len(given)} numbers, expected {sizes.targets}"
        for key, given in each.items()
        if len(given) != sizes.targets
    ]
    for name, (part, width) in parts.items():
        if (part is None) != (width == 0):
            found.append(f"{name}: {'missing' if part is None else 'too much'}, the model has {width} such features")
        elif part is not None:
            given = {"location": len(part.location), "scale": len(part.scale)}
            found += [
                f"{name}.{key}: got {count} numbers, expected {width}" for key, count in given.items() if count != width
            ]
    return found
