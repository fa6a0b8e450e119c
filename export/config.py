"""What a training or a conversion is told: a flat TOML file, with `--set KEY=VALUE` on top."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runner.errors import UsageError, explain, listing
from runner.manifest import LONGEST, problems
from runner.precision import Precision

LARGEST_DEPTH = 3
_Names = BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given)
"""A list may be given as one word with commas too, as on the command line."""
_Numbers = BeforeValidator(lambda given: [int(n) for n in given.split(",")] if isinstance(given, str) else given)
Names = Annotated[list[str], _Names]
_Words = BeforeValidator(lambda given: f"{given}" if type(given) is int else given)
_Dates = BeforeValidator(lambda given: [str(day) for day in (given if isinstance(given, list) else [given])])
"""TOML has dates of its own, and takes a single word for one."""
Steps = Annotated[int, Field(ge=1, le=LONGEST)]
_Several = BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
Start = float | tuple[float, ...] | Literal["last"]
"""The decoder's first input: a constant for all targets, one for each, or the last observed targets."""
Scaling = Literal["none", "standard", "window"]
Cell = Literal["lstm", "gru"]
Direction = Literal["forward", "bidirectional"]
Attention = Literal["none", "luong", "bahdanau"]
Base = Literal["none", "linear", "seasonal"]
Unknown = Literal["reject", "reserved"]
LATER_KEYS = {
    *("static_names", "categories", "unknown_category", "embedding"),
    *("context_length", "horizon", "freq", "stride", "valid_stride", "target"),
    *("past_features", "future_features", "calendar", "holidays"),
}
CalendarFeature = Literal["hour", "day_of_week", "month", "holiday"]
Strategy = Literal["teacher-forcing", "scheduled-sampling", "free-running", "curriculum", "auto"]


class BundleConfig(BaseModel):
    """What can be chosen of every bundle; context, horizon and widths come from the data.

    Attributes:
        start: the decoder's first input: a constant in raw units, or the last observed target. Of several targets a
            constant for all, or a list with one for each.
        target_feature: which past feature is the target, by index or by name; of several targets a list of them, in
            the order of the model's outputs.
        feature_names, future_names: names for `past` and `future_known`; else f0, f1, ... and k0, k1, ...
        season_length: steps of a season, for the seasonal naive forecast beside the score.
        precision: forms that the bundle will hold: fp32, and int8 beside it where that is certified too.
        max_reject_rate: share of bad rows above which no bundle is made.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str = "forecaster"
    start: Annotated[Start, _Several] = -1.0
    target_feature: Annotated[int | str | tuple[int | str, ...], _Several] = 0
    feature_names: Names | None = None
    future_names: Names | None = None
    season_length: int | None = Field(default=None, ge=1)
    precision: Annotated[list[Precision], _Names] = Field(default=["fp32"])
    max_reject_rate: float = Field(default=0.01, ge=0, le=1)


class TrainConfig(BundleConfig):
    """All that can be chosen of a training.

    Attributes:
        units: of a recurrent layer, or a list with one entry a layer (1 to 3 layers), of the encoder and the decoder.
        cell: of all recurrent layers.
        encoder: reads the context forward, or both ways; dense layers then bring its states to the decoder's units.
        attention: how the decoder's outputs are held against the encoder's: not at all; by products (luong); by a
            layer of their sum (bahdanau).
        patience: epochs without a better free-running loss before training stops.
        scaling: none; standard (location and scale of the training data); window (the target by its own context's
            last value and deviation, everything else standard). Always inside the graphs.
        base: what the network's output is added to: nothing; linear (a ridge regression on the context, fitted before
            training, that training starts from and leaves as it is); seasonal (the value one season before, which needs
            season_length).
        strategy: who feeds the decoder while it is trained: the teacher; at each step the teacher or the model's own
            last prediction, drawn by lot with ever fewer teachers (scheduled-sampling); the model alone (free-running);
            the model for ever longer stretches (curriculum); or what proves better than more teacher forcing (auto).
        sampling_decay: how the teacher's share falls from 1 to 0 over the epochs of scheduled-sampling.
        input_noise: deviation of the noise on the teacher's inputs in training, in deviations of the target.
        extra_epochs: epochs of each trial of auto, and of its control.
        static_names: names for the numbers in the column `static`, else s0, s1, ...; of series the columns of numbers
            that do not change.
        categories: columns of text whose words are static features too.
        unknown_category: what a word becomes that the training data has not: a reject, or an index reserved for it.
        embedding: dimensions of the vector that a word becomes; None = by how many words there are.
        context_length, horizon: steps of a window, where a row of the data is a time step; so are all that follow.
        freq: how far apart the steps are, in the names of pandas: h, 15min, D, MS, or 1 where `ds` is an integer.
        stride: steps from one training window to the next of its series.
        valid_stride: the same of validation windows; None = the horizon, so that each step is judged once.
        target: what the target is called; its column is `y`, or has this name.
        past_features: columns that are known up to the present only.
        future_features: columns that are known over the horizon too.
        calendar: features that are made of the time: hour, day_of_week, month, holiday.
        holidays: the days on which holiday is 1, such as 2026-12-25.
    """

    start: float | Literal["last"] = -1.0  # one target, so one number
    target_feature: int | str = 0
    units: Annotated[int | list[int], _Numbers] = 64
    cell: Cell = "lstm"
    encoder: Direction = "forward"
    attention: Attention = "none"
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=0.004, gt=0)
    patience: int = Field(default=5, ge=1)
    seed: int = Field(default=0, ge=0)
    scaling: Scaling = "standard"
    base: Base = "none"
    strategy: Strategy = "teacher-forcing"
    sampling_decay: Literal["inverse-sigmoid", "linear"] = "inverse-sigmoid"
    input_noise: float = Field(default=0.0, ge=0)
    extra_epochs: int = Field(default=5, ge=1)
    tensorboard: bool = False
    static_names: Names | None = None
    categories: Names = Field(default=[])
    unknown_category: Unknown = "reject"
    embedding: int | None = Field(default=None, ge=1)
    context_length: Steps | None = None
    horizon: Steps | None = None
    freq: Annotated[str | None, _Words] = None
    stride: Steps = 1
    valid_stride: Steps | None = None
    target: str = "y"
    past_features: Names = Field(default=[])
    future_features: Names = Field(default=[])
    calendar: Annotated[list[CalendarFeature], _Names] = Field(default=[])
    holidays: Annotated[list[str], _Dates, _Names] = Field(default=[])

    @property
    def layers(self) -> list[int]:
        """Return the units of each layer, from the input on."""
        return [self.units] if isinstance(self.units, int) else self.units

    def record(self) -> dict[str, Any]:
        """Return the config as JSON has it, the keys of static features and of series only where they are set.

        So a training without any is the same as it was before there were such keys, and can be resumed.
        """
        told = self.model_dump(include=LATER_KEYS, exclude_defaults=True)
        return {**self.model_dump(exclude=LATER_KEYS), **told}


Config = TypeVar("Config", bound=BundleConfig)


def load_config(path: Path | None, settings: tuple[str, ...]) -> TrainConfig:
    """Read the config of a training, and lay the `KEY=VALUE` settings over it.

    Raises:
        UsageError: the file cannot be read, or keys or values do not fit; every one of them is listed.
    """
    config = _loaded(TrainConfig, path, settings)
    if not 1 <= len(config.layers) <= LARGEST_DEPTH or min(config.layers) < 1:
        raise UsageError(explain("units do not fit", got=config.units, expected="1 to 3 layers of at least 1 unit"))
    if config.base == "seasonal" and config.season_length is None:
        remedy = "season_length=24, say, for a day of hours"
        raise UsageError(explain("base=seasonal does not know how long a season is", got="none", remedy=remedy))
    if config.strategy == "free-running" and config.input_noise:
        what = "input_noise has nothing to act on: free-running training has no teacher's inputs"
        raise UsageError(explain(what, got=config.input_noise, remedy="input_noise=0, or another strategy"))
    return config


def load_bundle_config(path: Path | None, settings: tuple[str, ...]) -> BundleConfig:
    """Read the config of a conversion, and lay the `KEY=VALUE` settings over it.

    Raises:
        UsageError: as `load_config`.
    """
    return _loaded(BundleConfig, path, settings)


def _loaded(kind: type[Config], path: Path | None, settings: tuple[str, ...]) -> Config:
    values = {**(_read(path) if path else {}), **dict(_setting(text) for text in settings)}
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        known = ", ".join(kind.model_fields)
        raise UsageError(
            explain("the config does not fit:" + listing(problems(error)), expected=f"keys {known}")
        ) from error
    if "fp32" not in config.precision:
        remedy = "precision=fp32,int8: int8 is made from the float32 graphs"
        raise UsageError(explain("precision does not fit", got=config.precision, remedy=remedy))
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(explain(f"cannot read the config {path}", got=error)) from error


def _setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value is TOML, or a plain word."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(explain("--set does not fit", got=text, expected="KEY=VALUE, such as units=64 or start=last"))
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
