"""Windows whose level says nothing about the future: that is told by a number and by a word of the series alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CONTEXT, HORIZON = 6, 3
LEVELS = {"north": -1.0, "south": 1.0, "east": 3.0}
SLOPE, NOISE = 2.0, 0.5


def drawn(rows: int, seed: int) -> pa.Table:
    """Return windows of noise; the target is the level of the word, and some of the number, and noise."""
    rng = np.random.default_rng(seed)
    shop, size = rng.choice(list(LEVELS), rows), rng.normal(10, 3, rows).astype(np.float32)
    level = np.array([LEVELS[word] for word in shop]) + SLOPE * (size - 10) / 3
    past = rng.normal(size=(rows, CONTEXT)).astype(np.float32)
    target = (level[:, None] + rng.normal(0, NOISE, (rows, HORIZON))).astype(np.float32)
    lists = {name: pa.array(list(values)) for name, values in {"past": past, "target": target}.items()}
    return pa.table({**lists, "static": pa.array(list(size[:, None])), "shop": shop})


def written(folder: Path) -> Path:
    """Write `train.parquet` and `valid.parquet` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, rows) in enumerate({"train": 600, "valid": 150}.items()):
        pq.write_table(drawn(rows, seed), folder / f"{name}.parquet")
    return folder
