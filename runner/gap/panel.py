"""Forecasts of the same windows that owe nothing to the forecaster: from the last value to direct ones that are fitted.

None of them feeds a prediction back, and none looks at the targets of the windows that it forecasts. All take and give
raw units.
"""

from collections.abc import Callable

import numpy as np

from runner.batch import F32, WindowBatch
from runner.gap.forecasts import Forecast
from runner.gap.inputs import as_forecast, step_means, there, truth
from runner.gap.mlp import train_network
from runner.gap.ridge import choose, split
from runner.score import naive_last, naive_seasonal

FEWEST_WINDOWS = 50
"""Training windows that anything is fitted to."""


def naive_panel(valid: WindowBatch, feature: int, season_length: int | None) -> tuple[Forecast, ...]:
    """Repeat the last observed value, and the last season.

    Args:
        valid: windows without rejects, with a target [N, ...].
        feature: index of the target among the past features.
        season_length: steps of a season; None leaves the seasonal forecast out.

    Returns:
        "last value", and "seasonal naive" where a season is given.
    """
    past, known = valid.past[:, :, feature].astype(np.float64), there(valid)
    horizon = truth(valid)[0].shape[1]
    last = Forecast("last value", as_forecast(np.repeat(naive_last(past, known)[:, None], horizon, axis=1)))
    if season_length is None:
        return (last,)
    return (last, Forecast("seasonal naive", as_forecast(naive_seasonal(past, known, horizon, season_length))))


def trained_panel(
    train: WindowBatch, valid: WindowBatch, feature: int, seed: int, check: Callable[[], None] = lambda: None
) -> tuple[Forecast, ...]:
    """Fit direct forecasters to the training windows, and forecast the others.

    Args:
        train: windows without rejects, with a target, in the order of the data [M, ...].
        valid: windows to forecast, with the same columns; their targets are not looked at [N, ...].
        feature: index of the target among the past features.
        seed: of what is drawn at random; the same seed gives the same forecasts.
        check: called again and again; raises to stop.

    Returns:
        "climatology", the training target's mean by horizon step, "ridge" and "mlp"; climatology alone where there are
        fewer than 50 training windows, and nothing where none of their steps counts.
    """
    target, observed = truth(train)
    if not observed.any():
        return ()
    climatology = Forecast("climatology", _repeated(as_forecast(step_means(target, observed)), len(valid)))
    if len(train) < FEWEST_WINDOWS:
        return (climatology,)
    choice, parts = choose(train, feature, check), split(train)
    network = train_network(choice.fitted, parts.fit, parts.held, seed, check)
    ridge = Forecast("ridge", choice.refitted.forecast(valid))
    return (climatology, ridge, Forecast("mlp", network.forecast(valid)))


def _repeated(values: F32, times: int) -> F32:
    return np.repeat(values[None], times, axis=0)
