"""What a training on series is told of its windows, and what it may not be told."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from export.config import TrainConfig
from runner.calendar import calendar_names
from runner.errors import UsageError, explain, listing
from runner.features import Calendar, Features, Static, Target
from runner.freq import parse_freq
from runner.manifest import problems

InputLayout = Literal["windows", "long"]
"""What a row of the data is: a window, or a time step of a series."""
NEEDED = ("context_length", "horizon", "freq")
SERIES_KEYS = (
    *(*NEEDED, "stride", "valid_stride", "target"),
    *("past_features", "future_features", "calendar", "holidays"),
)
"""What belongs to series alone: windows bring it along."""
WINDOW_KEYS = ("feature_names", "future_names", "target_feature")
"""What belongs to windows alone: of series the columns have names."""


@dataclass(frozen=True, slots=True)
class SeriesRecipe:
    """How windows are cut from series: what the bundle's manifest will say of it.

    Attributes:
        freq: the time grid, as the manifest writes it.
        features: the target first, then what is known up to the present, what is known ahead, and the calendar.
        past_observed: always, as sooner or later some night has a hole: it is then no reject.
    """

    context_length: int
    horizon: int
    freq: str
    features: Features
    target: Target
    calendar: Calendar | None
    past_observed: bool = True
    static: Static | None = None

    def record(self) -> dict[str, Any]:
        """Return what the manifest says of the time."""
        return {"freq": self.freq, "calendar": self.calendar and self.calendar.model_dump(mode="json")}


def settled(config: TrainConfig, layout: InputLayout) -> tuple[TrainConfig, SeriesRecipe | None]:
    """Return a config that is whole, and how windows are cut from series; None where a row is a window.

    Raises:
        UsageError: keys are missing, do not go together, or belong to the other layout; all are listed.
    """
    foreign = WINDOW_KEYS if layout == "long" else SERIES_KEYS
    wrong = [f"{key}: belongs to --layout {_other(layout)}" for key in foreign if key in config.model_fields_set]
    recipe = None
    if layout == "long":
        recipe, more = _recipe(config)
        wrong += more
    if wrong:
        remedy = "README.md has all keys; with --layout long a row of the data is a time step"
        raise UsageError(explain(f"the config does not fit --layout {layout}:" + listing(wrong), remedy=remedy))
    if recipe is None:
        return config, None
    names = {"feature_names": [*recipe.features.past], "future_names": [*recipe.features.future_known]}
    return config.model_copy(update=names), recipe


def _recipe(config: TrainConfig) -> tuple[SeriesRecipe | None, list[str]]:
    """Return the recipe, or else one line for each thing wrong."""
    wrong = [f"{key}: is missing" for key in NEEDED if getattr(config, key) is None]
    freq, calendar = config.freq or "", None
    try:
        freq = str(parse_freq(freq)) if freq else ""
    except UsageError as error:
        wrong.append(f"freq: {error}")
    try:
        if config.calendar or config.holidays:
            days = sorted(set(config.holidays))
            calendar = Calendar(features=tuple(config.calendar), holidays=tuple(days))
    except ValidationError as error:
        wrong += [f"calendar: {problem}" for problem in problems(error)]
    if calendar and freq.isdecimal():
        wrong.append(f"calendar: needs times, and with freq {freq} ds is an integer")
    ahead = [*config.future_features, *(calendar_names(calendar) if calendar else ())]
    past = [config.target, *config.past_features, *ahead]
    named = [*past, *(config.static_names or ()), *config.categories]
    wrong += [f"{name}: is named twice among the features" for name in dict.fromkeys(named) if named.count(name) > 1]
    if wrong or config.context_length is None or config.horizon is None:
        return None, wrong
    features = Features(past=tuple(past), future_known=tuple(ahead))
    target = Target(name=config.target, feature=0, scale=1.0)  # what it is scaled by is only known once it is measured
    return SeriesRecipe(config.context_length, config.horizon, freq, features, target, calendar), []


def _other(layout: InputLayout) -> InputLayout:
    return "windows" if layout == "long" else "long"
