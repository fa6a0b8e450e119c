"""Write windows of a process whose optimal forecast is known, and a config to train on them."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.processes import Process, Setting, Windows
from export.processes_linear import AR1, RANDOM_WALK, SINE
from export.processes_nonlinear import BISTABLE, MACKEY_GLASS
from runner.storage import OutputFolder

PROCESSES = {process.name: process for process in (AR1, RANDOM_WALK, BISTABLE, MACKEY_GLASS, SINE)}
ROWS_PER_GROUP = 4096
HEADER = "# A config for the data beside it: freerun-export train train --valid valid --out bundle --config train.toml"
LIST_COLUMNS = ("decoder_input", "target", "mask", "optimal", "optimal_teacher_forced")


def write_demo(folder: Path, train_windows: int, valid_windows: int, seed: int, process: Process = AR1) -> list[str]:
    """Write train/, valid/ and train.toml; return the paths written, relative to the folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    out = OutputFolder(folder)
    out.prepare()
    written = ["train.toml"]
    out.write("train.toml", _toml(process.settings).encode())
    for stream, (split, windows, files) in enumerate((("train", train_windows, 4), ("valid", valid_windows, 2))):
        first = 0
        for index, count in enumerate(_shares(windows, files)):
            name = f"{split}/part-{index}.parquet"
            rng = np.random.default_rng([seed, stream, index])
            with out.replacing(name) as file:
                _write_file(file, process, count, first, rng)
            first += count
            written.append(name)
    return written


def _toml(settings: Mapping[str, Setting]) -> str:
    """Return a config file; of strings, numbers and lists of strings, JSON is TOML."""
    return "\n".join([HEADER, *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]) + "\n"


def _write_file(file: object, process: Process, count: int, first: int, rng: np.random.Generator) -> None:
    rows = max(1, min(ROWS_PER_GROUP, math.ceil(count / 3)))  # several row groups even in a small file
    schema = _schema(process.draw(0, np.random.default_rng()))
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as parquet:
        for start, size in _groups(count, rows):
            parquet.write_table(_table(process.draw(size, rng), first + start, schema), row_group_size=rows)


def _groups(count: int, rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, rows):
        yield start, min(rows, count - start)


def _shares(count: int, files: int) -> list[int]:
    return [count // files + (index < count % files) for index in range(files)]


def _schema(windows: Windows) -> pa.Schema:
    """Return the columns of a process: what its windows do not have is left out."""
    fields = [("window_id", pa.int64())]
    if windows.hour is not None:
        fields.append(("origin", pa.timestamp("s")))
    fields.append(("past", pa.fixed_shape_tensor(pa.float32(), windows.past.shape[1:])))
    if windows.past_observed is not None:
        fields.append(("past_observed", pa.list_(pa.bool_(), windows.past_observed.shape[1])))
    if windows.future_known is not None:
        fields.append(("future_known", pa.fixed_shape_tensor(pa.float32(), windows.future_known.shape[1:])))
    horizon = windows.target.shape[1]
    there = [name for name in LIST_COLUMNS if getattr(windows, name) is not None]
    kinds = [pa.uint8() if name == "mask" else pa.float32() for name in there]
    return pa.schema(fields + [(name, pa.list_(kind, horizon)) for name, kind in zip(there, kinds, strict=True)])


def _table(windows: Windows, first: int, schema: pa.Schema) -> pa.Table:
    columns = {"window_id": pa.array(np.arange(first, first + len(windows.target)))}
    if windows.hour is not None:
        columns["origin"] = pa.array((windows.hour * 3600).astype("datetime64[s]"))
    for name in schema.names:
        if name not in columns:
            columns[name] = _lists(getattr(windows, name), schema.field(name).type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return rows of any number of axes as a column of a fixed-size list or tensor type."""
    storage = getattr(kind, "storage_type", kind)
    flat = values.ravel().astype(storage.value_type.to_pandas_dtype(), copy=False)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat, storage.value_type), type=storage)
    return pa.ExtensionArray.from_storage(kind, lists) if isinstance(kind, pa.BaseExtensionType) else lists
