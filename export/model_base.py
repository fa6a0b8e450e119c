"""Forecasts inside the encoder that the network adds to; what is still to come of one is one more state [B, H]."""

from typing import Any, Protocol

import numpy as np

from export.config import TrainConfig
from export.model_scaling import Context, GraphScaling, replaced
from runner.schema import Sizes

BASE = "base"
"""Name of the state that holds what of the base is still to come, and of the linear one's layer."""


class Base(Protocol):
    """Makes the base of a context, in raw units [B, H]."""

    def __call__(self, context: Context) -> Any: ...


class LinearBase:
    """The last value, and what the whole context tells beside it; `export.base` fits it before training."""

    def __init__(self, sizes: Sizes, config: TrainConfig, scaling: GraphScaling) -> None:
        import keras

        self.feature = scaling.feature
        self.layer = keras.layers.Dense(sizes.horizon, kernel_initializer="zeros", trainable=False, name=BASE)

    def __call__(self, context: Context) -> Any:
        from keras import ops

        inputs = context.features * context.unit
        inputs = replaced(inputs, self.feature, (context.raw - context.last) * context.flags)
        return context.last + self.layer(ops.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2])))


class SeasonalBase:
    """The value one season before each step, as `runner.score.naive_seasonal` has it: the same numbers.

    The context is cut into seasons from its end, [B, seasons, steps of a season]; of each column the latest value that
    is there counts, and the last value where none is.
    """

    def __init__(self, sizes: Sizes, config: TrainConfig, scaling: GraphScaling) -> None:
        if config.season_length is None:
            raise ValueError("a seasonal base needs season_length")
        self.horizon = sizes.horizon
        self.season = min(config.season_length, sizes.context + sizes.horizon)  # from there on no step has a season

    def __call__(self, context: Context) -> Any:
        from keras import ops

        raw, flags = self._by_season(context.raw), self._by_season(context.flags)
        order = np.arange(1, raw.shape[1] + 1, dtype=np.float32)[:, None]
        latest = ops.max(flags * order, axis=1, keepdims=True)
        chosen = ops.sum(ops.where(ops.equal(latest, order), raw, ops.zeros_like(raw)), axis=1)
        season = ops.where(latest[:, 0] > 0, chosen, context.last)
        whole = -(-self.horizon // self.season)
        return ops.concatenate([season] * whole, axis=1)[:, : self.horizon]

    def _by_season(self, x: Any) -> Any:
        """Return [B, C] as [B, seasons, steps of a season], zeros before the context."""
        from keras import ops

        before = -x.shape[1] % self.season
        padded = ops.pad(x, ((0, 0), (before, 0))) if before else x
        return ops.reshape(padded, (-1, padded.shape[1] // self.season, self.season))


BASES: dict[str, type[LinearBase | SeasonalBase]] = {"linear": LinearBase, "seasonal": SeasonalBase}
"""By their name in the config."""


def base_of(sizes: Sizes, config: TrainConfig, scaling: GraphScaling) -> Base | None:
    """Return the base that a config asks for; None = the network forecasts alone."""
    return None if config.base == "none" else BASES[config.base](sizes, config, scaling)


def turned(base: Any) -> Any:
    """Return a base with the next step's value first [B, H]."""
    from keras import ops

    return base if base.shape[1] == 1 else ops.concatenate([base[:, 1:], base[:, :1]], axis=1)
