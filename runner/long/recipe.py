"""What windows that are cut from series are made of."""

from typing import Protocol

from runner.features import Calendar, Features, Static, Target


class Recipe(Protocol):
    """What a bundle's manifest says of its windows; a training has it before there is a bundle.

    Attributes:
        context_length, horizon: steps of a window.
        features: names of the past features, and of those known over the horizon.
        past_observed: steps of the context may be missing.
        static: features that do not change within a series.
        calendar: features that are made of the time alone.
        target: its name, which is that of a past feature.
    """

    @property
    def context_length(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def features(self) -> Features: ...
    @property
    def past_observed(self) -> bool: ...
    @property
    def static(self) -> Static | None: ...
    @property
    def calendar(self) -> Calendar | None: ...
    @property
    def target(self) -> Target: ...
