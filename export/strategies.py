"""Who feeds the decoder at each step of training: the teacher, or the model itself. The rules, in numpy alone.

A rule looks at how far the training is and at nothing else, and draws from a generator that (seed, epoch) alone
determines: a training that was killed goes on as if nothing had happened.
"""

import numpy as np

from export.config import TrainConfig
from runner.batch import F32

Generators = tuple[np.random.Generator, np.random.Generator, np.random.Generator]

DECAY = 6.0
"""The teacher's share falls along 1 / (1 + exp(x)) for x from -DECAY to DECAY: from 0.998 to 0.002."""
GROWTH = 0.8
"""When the curriculum is at the whole horizon, as a share of the training; the rest of it is free-running."""
_USE, _NOISE, _WORDS = 1, 2, 3
"""Which of an epoch's streams of random numbers; the shuffle has the one without a number."""


def generators(seed: int, epoch: int) -> Generators:
    """Return what an epoch's uses, its noise, and its unknown words are drawn from."""
    uses, noise, words = (np.random.default_rng([seed, epoch, stream]) for stream in (_USE, _NOISE, _WORDS))
    return uses, noise, words


def uses(config: TrainConfig, progress: float, shape: tuple[int, int], draw: np.random.Generator) -> F32:
    """Return which steps of a batch take the teacher's input.

    Args:
        config: strategy and decay.
        progress: which share of the training is behind, from 0 to 1.
        shape: B and H.
        draw: where lots come from.

    Returns:
        1 = the teacher's input, 0 = the model's last prediction [B, H]. At the first step both mean the start value.
    """
    use = np.zeros(shape, np.float32)
    if config.strategy == "teacher-forcing":
        use[:] = 1
    elif config.strategy == "scheduled-sampling":
        use[:] = draw.random(shape) < teacher_share(config.sampling_decay, progress)
    elif config.strategy == "curriculum":
        use[:, :: stretch(progress, shape[1])] = 1
    use[:, 0] = 1
    return use


def teacher_share(decay: str, progress: float) -> float:
    """Return how probable the teacher's input is at each step of scheduled sampling."""
    return 1 - progress if decay == "linear" else float(1 / (1 + np.exp(DECAY * (2 * progress - 1))))


def stretch(progress: float, horizon: int) -> int:
    """Return how many steps a teacher's input must last in the curriculum: from 1 to H, in steps of equal ratio."""
    return min(horizon, int(horizon ** (progress / GROWTH) + 1e-9))


def noise(config: TrainConfig, deviation: float, shape: tuple[int, int], draw: np.random.Generator) -> F32:
    """Return what is added to the teacher's inputs, in raw units [B, H]; nothing at the first step.

    Args:
        config: how much of it, in deviations.
        deviation: the target's.
        shape: B and H.
        draw: where it comes from.
    """
    added = (config.input_noise * deviation * draw.standard_normal(shape)).astype(np.float32)
    added[:, 0] = 0
    return added
