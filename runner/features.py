"""What windows are made of, as the manifest says it: features, what of them never changes, the calendar, the target."""

import reprlib
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_NAMES = 1 << 12
"""Entries of a list."""
MOST_WORDS = 1 << 14
"""Entries of a category's vocabulary."""


class Strict(BaseModel):
    """A frozen value that refuses unknown keys, loose types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class Features(Strict):
    """Feature names in the order of the last axis of `past` [B, C, F] and `future_known` [B, H, K]."""

    past: tuple[str, ...] = Field(min_length=1, max_length=MOST_NAMES)
    future_known: tuple[str, ...] = Field(max_length=MOST_NAMES)


class Category(Strict):
    """A static feature that is one of some words: the index of a word is its place among `values`, counted from 1.

    `unknown` says what becomes of any other word: the row is a reject, or it has the reserved index 0.
    """

    name: str
    values: tuple[str, ...] = Field(min_length=1, max_length=MOST_WORDS)
    unknown: Literal["reject", "reserved"] = "reject"

    @model_validator(mode="after")
    def _fits(self) -> "Category":
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"the values of category {self.name} name one twice")
        return self


class Static(Strict):
    """What does not change within a series: `static` [B, S] has the numbers, then the index of each category's word."""

    numbers: tuple[str, ...] = Field(default=(), max_length=MOST_NAMES)
    categories: tuple[Category, ...] = Field(default=(), max_length=MOST_NAMES)

    @model_validator(mode="after")
    def _fits(self) -> "Static":
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"static features have the same name: {', '.join(self.names)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features' names, in the order of the last axis of `static` [B, S]."""
        return (*self.numbers, *(category.name for category in self.categories))


class Calendar(Strict):
    """Features that are made of the time alone, by runner.calendar alone, in the order of `features`."""

    features: tuple[Literal["hour", "day_of_week", "month", "holiday"], ...] = Field(min_length=1, max_length=4)
    holidays: tuple[str, ...] = Field(default=(), max_length=MOST_NAMES)

    @model_validator(mode="after")
    def _fits(self) -> "Calendar":
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"calendar features are named twice: {', '.join(self.features)}")
        if bool(self.holidays) != ("holiday" in self.features):
            raise ValueError("holidays are given if, and only if, holiday is a calendar feature")
        if wrong := [day for day in self.holidays if not _is_iso_date(day)]:
            raise ValueError(f"holidays are not dates such as 2026-12-25: {reprlib.repr(wrong)}")
        if list(self.holidays) != sorted(set(self.holidays)):
            raise ValueError("holidays are not ascending, or one is named twice")
        return self


def _is_iso_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


class Target(Strict):
    """The forecast quantity: its index among the past features, and its deviation in raw units."""

    name: str
    feature: int = Field(ge=0)
    scale: float = Field(gt=0)
