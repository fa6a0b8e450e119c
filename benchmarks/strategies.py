"""What an epoch costs by strategy, in one run: teacher-forced, scheduled sampling and free-running, in turns.

    python benchmarks/strategies.py [--rounds 5] [--windows 4096]

Prints seconds and ratios to the teacher-forced epoch by shape; exits 1 if free-running takes three times as long
or more. The time to compile a graph is shown by itself: it is paid once a training.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import draw, write
from sizes import Shape

from export.config import TrainConfig
from export.examples import batches
from export.model import Forecasters, build
from export.pipeline import start_tensorflow
from export.training import compiled
from export.windows import measure, open_windows

STRATEGIES = ("teacher-forcing", "scheduled-sampling", "free-running")
SHAPES = (
    Shape(context=48, horizon=12, features=3, units=32),
    Shape(context=48, horizon=24, features=3, units=128),
    Shape(context=48, horizon=48, features=3, units=64),
)
ALLOWED = 3.0


def trainings(models: Forecasters, config: TrainConfig, windows: Any) -> dict[str, Callable[[], float]]:
    """Return what runs one epoch of each strategy and says how many seconds it took."""
    found = measure(windows)

    def training(strategy: str) -> Callable[[], float]:
        course = config.model_copy(update={"strategy": strategy})
        model, examples = compiled(models, found, course), batches(windows, found, course, 0)

        def epoch() -> float:
            started = time.perf_counter()
            model.fit(examples, shuffle=False, epochs=1, verbose=0)
            return time.perf_counter() - started

        return epoch

    return {strategy: training(strategy) for strategy in STRATEGIES}


def ratios(shape: Shape, folder: Path, count: int, rounds: int) -> dict[str, float]:
    """Measure one shape and print its lines; return each strategy's median ratio to the teacher-forced epoch."""
    path = folder / f"h{shape.horizon}" / "windows.parquet"
    path.parent.mkdir()
    write(path, draw(shape, count, seed=0), count)
    windows = open_windows(str(path.parent))
    config = TrainConfig(units=shape.units, epochs=rounds + 1, batch_size=256)
    models = build(config, windows.sizes, measure(windows), 0, flagged=windows.flagged)
    epochs = trainings(models, config, windows)
    first = {strategy: epoch() for strategy, epoch in epochs.items()}
    taken = [{strategy: epoch() for strategy, epoch in epochs.items()} for _ in range(rounds)]
    found = {}
    for strategy in STRATEGIES:
        seconds = statistics.median(one[strategy] for one in taken)
        found[strategy] = statistics.median(one[strategy] / one[STRATEGIES[0]] for one in taken)
        name = f"C {shape.context}, H {shape.horizon}, {shape.units} units"
        print(
            f"{name:<24}{strategy:<20}{seconds:>8.2f}{first[strategy] - seconds:>10.1f}{found[strategy]:>8.2f}",
            flush=True,
        )
    return found


def main() -> None:
    """Measure all shapes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4096)
    chosen = parser.parse_args()
    start_tensorflow(0)
    print(f"{'':<44}{'seconds':>8}{'compile':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        found = [ratios(shape, Path(folder), chosen.windows, chosen.rounds) for shape in SHAPES]
    worst = max(one["free-running"] for one in found)
    print(f"free-running: at most {worst:.2f} times a teacher-forced epoch, allowed {ALLOWED:.0f}")
    sys.exit(worst >= ALLOWED)


if __name__ == "__main__":
    main()
