"""Forecasts made of sampled futures: what a forecaster expects, where feeding a point forecast back does not tell.

A loop that feeds back its own prediction follows one path, the one on which nothing unexpected happens. Where the next
step does not depend linearly on the last one, that is not the mean of what may happen. Here each window is unrolled
many times, each time with errors added that the forecaster was seen to make, and the forecasts are averaged.

The errors of a group of paths are drawn from as many equal shares of what was seen, one from each, at every step. So
the mean of a group hardly depends on the luck of the draw where forecasts are nearly linear; and the groups, which are
independent of each other, tell what is left of that luck.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from runner.batch import F32, F64, Bool, WindowBatch
from runner.gap.forecasts import Forecast
from runner.gap.machine import Encoded, Hooks, Machine, unroll

NAME = "sampled paths"
MOST_PATHS, FEWEST_PATHS = 32, 8
GROUPS = 4
"""Of equally many paths, drawn independently of each other."""
MOST_STEPS = 4_000_000
"""Steps of the decoder, over all windows and paths, that fewer paths keep to where that is possible."""
CHUNK_WINDOWS = 64
CHUNK_BYTES = 32 << 20
"""Windows unrolled at once, and the bytes that their states and memories may take when each is there once a path."""
ENOUGH = 200
"""Residuals that a horizon step needs for a pool of its own."""


def paths_for(count: int, horizon: int) -> int:
    """Return how many paths a window gets: 32, or fewer (8 at least) where there are many windows."""
    paths = int(np.clip(MOST_STEPS // max(count * horizon, 1), FEWEST_PATHS, MOST_PATHS))
    return paths // GROUPS * GROUPS


def residuals_of(batch: WindowBatch, teacher_forced: F32) -> tuple[F32, ...]:
    """Return the errors that a forecaster was seen to make when it was told the truth, by horizon step.

    They are centred: what is off on average is a fault of the forecaster, which its loop has as well. So with a linear
    forecaster the mean over paths is the loop's own forecast, whatever its bias.

    Args:
        batch: windows with a target [N, ...].
        teacher_forced: predictions of these windows in raw units [N, H].

    Returns:
        H pools to draw from, in ascending order, in raw units: the step's own residuals (target - prediction), or
        those of all steps where its own are fewer than 200. A step counts where it is observed, and so is the one
        before it: after a gap, the teacher's input is older than a step, and the error is that of a longer forecast.
    """
    if batch.target is None:
        raise ValueError("residuals need a target")
    residuals = (batch.target - teacher_forced).astype(np.float32)
    fresh = _fresh(batch)
    everything = _centred(residuals[fresh]) if fresh.any() else np.zeros(1, np.float32)
    steps = range(residuals.shape[1])
    own = [residuals[fresh[:, h], h] for h in steps]
    return tuple(_centred(pool) if len(pool) >= ENOUGH else everything for pool in own)


def sampled_mean(
    machine: Machine,
    valid: WindowBatch,
    residuals: tuple[F32, ...],
    paths: int,
    seed: int,
    check: Callable[[], None],
    threads: int = 1,
) -> Forecast:
    """Average the forecasts of sampled paths.

    On a path, each prediction plus a residual is fed back. What a path forecasts for a step is the prediction that its
    own past gives, before that step's residual is added: the mean is the same, and less noisy.

    Args:
        machine: the forecaster; called from several threads at once where `threads` says so.
        valid: windows without rejects [N, ...].
        residuals: what to draw from by horizon step [H pools].
        paths: S, a multiple of 4.
        seed: of the draws. The result depends neither on the number of threads nor on their order.
        check: called again and again; raises to stop.
        threads: chunks of windows in work at once.

    Returns:
        The mean over the paths [N, H], with `excess`, the sample variance of the groups' means divided by their number:
        the squared error of a mean is larger by that, in expectation, than the error of what it estimates.
    """
    sampler = _Sampler(machine, valid, residuals, paths, seed)
    size = _chunk_windows(machine, valid, paths)

    def work(first: int) -> tuple[F32, F64]:
        check()
        return sampler.chunk(first, min(first + size, len(valid)))

    with ThreadPoolExecutor(threads, thread_name_prefix="paths") as pool:
        done = list(pool.map(work, range(0, len(valid), size)))
    means, excesses = zip(*done, strict=True)
    return Forecast(NAME, np.concatenate(means), np.concatenate(excesses))


@dataclass(frozen=True, slots=True)
class _Sampler:
    """What the paths of every chunk of windows have in common."""

    machine: Machine
    valid: WindowBatch
    residuals: tuple[F32, ...]
    paths: int
    seed: int

    def chunk(self, first: int, last: int) -> tuple[F32, F64]:
        """Return mean and excess of the windows from `first` to before `last` [windows, H]."""
        windows = self.valid.take(slice(first, last)).for_graphs(teacher=False)
        encoded = self.machine.encode(windows).repeated(self.paths)
        known = windows.future_known
        future = None if known is None else np.repeat(known, self.paths, axis=0)
        random = np.random.default_rng([self.seed, first])

        def feed(prediction: F32, h: int) -> F32:
            return prediction + _drawn(self.residuals[h], len(windows) * GROUPS, self.paths // GROUPS, random)

        forecasts = unroll(self.machine, encoded, future, hooks=Hooks(feed=feed)).astype(np.float64)
        means = forecasts.reshape(len(windows), GROUPS, -1, forecasts.shape[1]).mean(axis=2)
        return means.mean(axis=1).astype(np.float32), np.asarray(means.var(axis=1, ddof=1) / GROUPS)


def _drawn(pool: F32, groups: int, size: int, random: np.random.Generator) -> F32:
    """Draw from a pool in ascending order, for each path of a group from another share of it [groups * size, 1]."""
    shares = random.permuted(np.broadcast_to(np.arange(size), (groups, size)), axis=1)
    places = (shares + random.random(shares.shape)) / size
    return pool[(places * len(pool)).astype(np.intp)].reshape(-1, 1)


def _fresh(batch: WindowBatch) -> Bool:
    """Return where a step is observed, and was forecast from the true value just before it [N, H]."""
    if batch.observed is None:
        raise ValueError("residuals need a target")
    told = batch.observed.copy()
    if batch.decoder_input is None:
        told[:, 1:] &= batch.observed[:, :-1]
    return told


def _centred(pool: F32) -> F32:
    return np.sort(np.asarray(pool - pool.mean(dtype=np.float64), np.float32))


def _chunk_windows(machine: Machine, valid: WindowBatch, paths: int) -> int:
    """Return how many windows to unroll at once, from what the encoder makes of the first one."""
    window = _bytes(machine.encode(valid.take(slice(0, 1)).for_graphs(teacher=False)))
    return int(np.clip(CHUNK_BYTES // (window * paths), 1, CHUNK_WINDOWS))


def _bytes(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in (encoded.previous, *encoded.state.values(), *encoded.memory.values()))
