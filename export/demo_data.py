"""Windows of a process whose optimal forecast is known: a daily season plus AR(1).

The two losses of the question that freerun answers come out of it although nothing is wrong anywhere: teacher forcing
scores the innovation, free running what 12 steps of innovations add up to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.batch import F32, F64, Bool
from runner.storage import OutputFolder

CONTEXT, HORIZON, SEASON = 48, 12, 24
PHI = 0.9
MASKED_SHARE, MISSING_SHARE = 0.15, 0.02
INNOVATION_VARIANCE = 0.045 / (1 - MASKED_SHARE)
"""Puts the optimal teacher-forced `masked_mse` at 0.045: masked steps count in its denominator only."""
START_VALUE = -1.0
SPOILED = 1e3
"""What stands in `target` where the mask excludes it: a leak cannot go unnoticed."""
ROWS_PER_GROUP = 4096

TRAIN_CONFIG = """\
# A config for the data beside it: freerun-export train train --valid valid --out bundle --config train.toml
name = "demo"
units = 32
epochs = 6
batch_size = 128
learning_rate = 0.004
patience = 3
scaling = "none"
start = -1.0
feature_names = ["y", "hour_sin", "hour_cos"]
future_names = ["hour_sin", "hour_cos"]
target_feature = "y"
season_length = 24
"""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows drawn independently of each other (B windows, C = 48, H = 12).

    Attributes:
        past: value, sine and cosine of the hour, NaN where a step is missing [B, C, 3].
        past_observed: False = that step is missing [B, C].
        future_known: sine and cosine of the hour [B, H, 2].
        target: the truth, spoiled where the mask excludes it [B, H].
        mask: True = excluded [B, H].
        decoder_input: the start value, then the true previous values, never spoiled [B, H].
        optimal: the best forecast that the context allows [B, H].
        optimal_teacher_forced: the best one-step forecasts, given exactly `decoder_input` as well [B, H].
        hour: hours since the epoch of the last context step [B].
    """

    past: F32
    past_observed: Bool
    future_known: F32
    target: F32
    mask: Bool
    decoder_input: F32
    optimal: F32
    optimal_teacher_forced: F32
    hour: F64


def season(hour: F64) -> F64:
    """Return the daily season at an hour of the day, any shape."""
    angle = 2 * np.pi * hour / SEASON
    return np.asarray(0.5 * np.sin(angle) + 0.25 * np.cos(2 * angle))


def draw(count: int, rng: np.random.Generator) -> Windows:
    """Draw windows and compute their optimal forecasts.

    Given the last observed deviation from the season, `g` steps before the first forecast, the best forecast of the
    deviation `h` steps ahead is that deviation times phi to the power g + h.
    """
    deviation = _ar1(count, rng)
    hour = rng.integers(0, 10 * 365 * 24, count).astype(np.float64)
    hours = hour[:, None] + np.arange(1 - CONTEXT, HORIZON + 1)
    clock = np.stack([np.sin(2 * np.pi * hours / SEASON), np.cos(2 * np.pi * hours / SEASON)], axis=-1)
    seasonal = season(hours)
    value = seasonal + deviation
    there = rng.random((count, CONTEXT)) >= MISSING_SHARE
    mask = rng.random((count, HORIZON)) < MASKED_SHARE
    past = np.concatenate([value[:, :, None], clock], axis=-1)[:, :CONTEXT]
    latest = np.where(there, np.arange(CONTEXT), 0).max(axis=1)
    known = deviation[np.arange(count), latest] * PHI ** (CONTEXT - 1 - latest)
    one_step = PHI * np.concatenate([known[:, None], deviation[:, CONTEXT:-1]], axis=1)
    truth = value[:, CONTEXT:]
    return Windows(
        past=np.where(there[:, :, None], past, np.nan).astype(np.float32),
        past_observed=there,
        future_known=clock[:, CONTEXT:].astype(np.float32),
        target=np.where(mask, SPOILED, truth).astype(np.float32),
        mask=mask,
        decoder_input=np.concatenate([np.full((count, 1), START_VALUE), truth[:, :-1]], axis=1).astype(np.float32),
        optimal=(seasonal[:, CONTEXT:] + known[:, None] * PHI ** np.arange(1, HORIZON + 1)).astype(np.float32),
        optimal_teacher_forced=(seasonal[:, CONTEXT:] + one_step).astype(np.float32),
        hour=hour,
    )


def write_demo(folder: Path, train_windows: int, valid_windows: int, seed: int) -> list[str]:
    """Write train/, valid/ and train.toml; return the paths written, relative to the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    out = OutputFolder(folder)
    out.prepare()
    written = ["train.toml"]
    out.write("train.toml", TRAIN_CONFIG.encode())
    for stream, (split, windows, files) in enumerate((("train", train_windows, 4), ("valid", valid_windows, 2))):
        first = 0
        for index, count in enumerate(_shares(windows, files)):
            name = f"{split}/part-{index}.parquet"
            rng = np.random.default_rng([seed, stream, index])
            with out.replacing(name) as file:
                _write_file(file, count, first, rng)
            first += count
            written.append(name)
    return written


def _write_file(file: object, count: int, first: int, rng: np.random.Generator) -> None:
    rows = max(1, min(ROWS_PER_GROUP, math.ceil(count / 3)))  # several row groups even in a small file
    with pq.ParquetWriter(file, SCHEMA, compression="zstd", write_page_checksum=True) as parquet:
        for start, size in _groups(count, rows):
            parquet.write_table(_table(draw(size, rng), first + start), row_group_size=rows)


def _groups(count: int, rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, rows):
        yield start, min(rows, count - start)


def _shares(count: int, files: int) -> list[int]:
    return [count // files + (index < count % files) for index in range(files)]


def _ar1(count: int, rng: np.random.Generator) -> F64:
    """Draw stationary AR(1) paths over context and horizon [B, C + H]."""
    noise = rng.normal(size=(count, CONTEXT + HORIZON)) * math.sqrt(INNOVATION_VARIANCE)
    noise[:, 0] /= math.sqrt(1 - PHI**2)
    for step in range(1, noise.shape[1]):
        noise[:, step] += PHI * noise[:, step - 1]
    return noise


def _fixed(kind: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(kind, size)


SCHEMA = pa.schema(
    [
        ("window_id", pa.int64()),
        ("origin", pa.timestamp("s")),
        ("past", pa.fixed_shape_tensor(pa.float32(), [CONTEXT, 3])),
        ("past_observed", _fixed(pa.bool_(), CONTEXT)),
        ("future_known", pa.fixed_shape_tensor(pa.float32(), [HORIZON, 2])),
        ("decoder_input", _fixed(pa.float32(), HORIZON)),
        ("target", _fixed(pa.float32(), HORIZON)),
        ("mask", _fixed(pa.uint8(), HORIZON)),
        ("optimal", _fixed(pa.float32(), HORIZON)),
        ("optimal_teacher_forced", _fixed(pa.float32(), HORIZON)),
    ]
)


def _table(windows: Windows, first: int) -> pa.Table:
    columns = {
        "window_id": pa.array(np.arange(first, first + len(windows.hour))),
        "origin": pa.array((windows.hour * 3600).astype("datetime64[s]")),
        "mask": _lists(windows.mask.astype(np.uint8), SCHEMA.field("mask").type),
    }
    for name in SCHEMA.names:
        if name not in columns:
            columns[name] = _lists(getattr(windows, name), SCHEMA.field(name).type)
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return rows of any number of axes as a column of a fixed-size list or tensor type."""
    storage = getattr(kind, "storage_type", kind)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), storage.value_type), type=storage)
    return pa.ExtensionArray.from_storage(kind, lists) if isinstance(kind, pa.BaseExtensionType) else lists
