"""What a benchmark run measures, and how much of it: the full run's sizes and those of `--quick`."""

from dataclasses import dataclass, field, replace

from runner.device import cpu_count

MATRIX_GATES = 4
"""An LSTM multiplies by four gates at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A forecaster's lengths: context C, horizon H, past features F, LSTM units U; no covariates over the horizon."""

    context: int = 48
    horizon: int = 24
    features: int = 3
    units: int = 128

    @property
    def flop(self) -> int:
        """Floating-point operations of a window's matrix products; a multiplication and an addition are two."""
        gates = MATRIX_GATES * self.units
        encoder = self.context * (self.features + self.units) * gates
        decoder = self.horizon * ((1 + self.units) * gates + self.units)
        return 2 * (encoder + decoder)

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded window: float32 past and target, one byte a step for the mask, an int64 id."""
        return 4 * self.context * self.features + 5 * self.horizon + 8


@dataclass(frozen=True, slots=True)
class Point:
    """One `freerun score` of a curve, repeated `rounds` times."""

    shape: Shape
    windows: int
    files: int = 1
    workers: int = field(default_factory=cpu_count)
    precision: str = "fp32"
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        shape: of the forecaster that the contestants run.
        rounds: of the contestants, one after the other.
        score_windows: that freerun takes from Parquet to Parquet in a round; plain_windows: that the plain loop takes.
        memory_windows, keras_windows, loop_windows, torch_windows: that the others take in a round.
        batches: tried for Keras and PyTorch, so that each runs at its best.
        curve_windows, curve_horizons, curve_units, curve_files: the values along each curve.
        base_windows: of a curve's point at `shape`; other shapes get as many as take about as long.
        file_windows: that the curve over file counts spreads over its files.
        curve_rounds: of each point that does not take minutes.
        file_seconds: after which a run over many files is stopped and told as not finished.
        bomb_bytes: that the small Parquet file decodes to.
        bomb_shape: a light forecaster for it, so that decoding Parquet is what takes the memory.
        start_rounds: whole processes that are timed.
        tune_seconds: that `freerun bench` gets for each bundle.
        train_windows: of each bundle's training; the weights do not matter for speed.
    """

    shape: Shape
    rounds: int
    score_windows: int
    plain_windows: int
    memory_windows: int
    keras_windows: int
    loop_windows: int
    torch_windows: int
    batches: tuple[int, ...]
    curve_windows: tuple[int, ...]
    curve_horizons: tuple[int, ...]
    curve_units: tuple[int, ...]
    curve_files: tuple[int, ...]
    base_windows: int
    file_windows: int
    curve_rounds: int
    file_seconds: float
    bomb_bytes: int
    bomb_shape: Shape
    start_rounds: int
    train_windows: int
    tune_seconds: float

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape that needs a bundle, each once."""
        horizons = [replace(self.shape, horizon=horizon) for horizon in self.curve_horizons]
        units = [replace(self.shape, units=units) for units in self.curve_units]
        return tuple(dict.fromkeys([self.shape, *horizons, *units, self.bomb_shape]))


FULL = Plan(
    shape=Shape(),
    rounds=5,
    score_windows=98_304,
    plain_windows=32_768,
    memory_windows=98_304,
    keras_windows=4_096,
    loop_windows=8_192,
    torch_windows=16_384,
    batches=(256, 512, 1024, 4096),
    curve_windows=(10_000, 100_000, 1_000_000, 2_000_000),
    curve_horizons=(12, 24, 96),
    curve_units=(32, 128, 512),
    curve_files=(1, 100, 10_000),
    base_windows=16_384,
    file_windows=50_000,
    curve_rounds=3,
    file_seconds=120.0,
    bomb_bytes=1 << 30,
    bomb_shape=Shape(units=32),
    start_rounds=7,
    train_windows=1_024,
    tune_seconds=4.0,
)
SMALL = Shape(context=12, horizon=4, units=8)
QUICK = Plan(
    shape=SMALL,
    rounds=2,
    score_windows=2_000,
    plain_windows=2_000,
    memory_windows=2_000,
    keras_windows=256,
    loop_windows=256,
    torch_windows=256,
    batches=(64, 128),
    curve_windows=(500, 1_000, 2_000),
    curve_horizons=(4, 6),
    curve_units=(8,),
    curve_files=(1, 10),
    base_windows=1_000,
    file_windows=1_000,
    curve_rounds=1,
    file_seconds=20.0,
    bomb_bytes=1 << 22,
    bomb_shape=SMALL,
    start_rounds=2,
    train_windows=256,
    tune_seconds=0.5,
)
