"""What the graphs do to raw units before and behind the layers, and what they make of steps that are missing."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.config import TrainConfig
from export.windows import Statistics

SMALLEST_SCALE = 0.01
"""A window's own deviation counts as at least this share of the training data's: a constant context has none."""


@dataclass(frozen=True, slots=True)
class Context:
    """The inputs of an encoder, symbolic or not, as its parts read them.

    Attributes:
        features: what the layers read: scaled, and where the data has flags, zeros for a missing step and the flags
            as one more feature [B, C, F or F + 1].
        raw: the target's past as it came [B, C].
        flags: 1 = observed [B, C]; ones where the data has none.
        last: the last observed target, exactly as it came [B, 1].
        unit: raw units of the target in one of its feature's; a number, or [B, 1, 1].
        memory: the window's own location and scale in raw units [B, 1]; empty where it has none.
    """

    features: Any
    raw: Any
    flags: Any
    last: Any
    unit: Any
    memory: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GraphScaling:
    """A config's scaling, by the training data's statistics.

    Constants are plain numbers or numpy's, so that a trace keeps them inside.

    Attributes:
        feature: index of the target among the past features.
    """

    config: TrainConfig
    statistics: Statistics
    feature: int

    def context(self, past: Any, observed: Any = None) -> Context:
        """Read an encoder's inputs, past [B, C, F] and flags [B, C]."""
        from keras import ops

        flags = ops.ones_like(past[:, :, 0]) if observed is None else observed
        raw = past[:, :, self.feature]
        last = _last(raw, flags)
        own = {"location": last, "scale": self._deviation(raw, flags, last)} if self._by_window else {}
        features = self._past(past, own)
        if observed is not None:
            features = ops.concatenate([features * flags[:, :, None], flags[:, :, None]], axis=-1)
        return Context(features, raw, flags, last, self._unit(own), own)

    def start(self, context: Context) -> Any:
        """Return the decoder's first input in raw units [B, 1]."""
        from keras import ops

        if self.config.start == "last":
            return context.last
        return ops.zeros_like(context.raw[:, :1]) + float(self.config.start)

    def target(self, raw: Any, units: tuple[Any, Any]) -> Any:
        """Scale values of the target [B, T, 1]."""
        return self._scaled(raw, *units)

    def future(self, known: Any) -> Any:
        """Scale known covariates [B, T, K]."""
        found = self.statistics
        return self._scaled(known, np.float32(found.future_location), np.float32(found.future_scale))

    def static(self, numbers: Any) -> Any:
        """Scale the static features that are numbers [B, n]."""
        found = self.statistics
        return self._scaled(numbers, np.float32(found.static_location), np.float32(found.static_scale))

    def raw(self, y: Any, base: Any, units: tuple[Any, Any]) -> Any:
        """Bring the network's output [B, T, 1] to raw units: a deviation from the base, if there is one."""
        if self.config.scaling != "none":
            location, scale = units
            y = y * scale + (location if base is None else 0)
        return y if base is None else y + base

    @property
    def _by_window(self) -> bool:
        return self.config.scaling == "window"

    def units(self, memory: dict[str, Any]) -> tuple[Any, Any]:
        """Return the target's location and scale for one decoder: of the window [B, 1, 1], or of the training data."""
        if self._by_window:
            return memory["location"][:, :, None], memory["scale"][:, :, None]
        return self.statistics.target_location, self.statistics.target_scale

    def _unit(self, own: dict[str, Any]) -> Any:
        if self.config.scaling == "none":
            return 1.0
        return own["scale"][:, :, None] if own else self.statistics.target_scale

    def _scaled(self, x: Any, location: Any, scale: Any) -> Any:
        return x if self.config.scaling == "none" else (x - location) / scale

    def _past(self, past: Any, own: dict[str, Any]) -> Any:
        found, at = self.statistics, self.feature
        x = self._scaled(past, np.float32(found.past_location), np.float32(found.past_scale))
        return replaced(x, at, (past[:, :, at] - own["location"]) / own["scale"]) if own else x

    def _deviation(self, raw: Any, flags: Any, last: Any) -> Any:
        """Return the deviation of a window's observed targets [B, 1], and something where it is near none."""
        from keras import ops

        count = ops.maximum(ops.sum(flags, axis=1, keepdims=True), 1.0)
        centred = (raw - last) * flags
        mean = ops.sum(centred, axis=1, keepdims=True) / count
        squares = ops.sum(flags * (centred - mean) ** 2, axis=1, keepdims=True) / count
        return ops.maximum(ops.sqrt(squares), SMALLEST_SCALE * self.statistics.target_scale)


def replaced(features: Any, at: int, values: Any) -> Any:
    """Return features [B, C, F] with other values [B, C] for one of them."""
    from keras import ops

    return ops.concatenate([features[:, :, :at], values[:, :, None], features[:, :, at + 1 :]], axis=-1)


def _last(raw: Any, flags: Any) -> Any:
    from keras import ops

    steps = np.arange(1, raw.shape[1] + 1, dtype=np.float32)
    latest = ops.max(flags * steps, axis=1, keepdims=True)
    return ops.sum(ops.where(ops.equal(latest, steps), raw, ops.zeros_like(raw)), axis=1, keepdims=True)
