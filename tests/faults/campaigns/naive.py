"""The writers that everybody writes first, in the harness of `kills`: it has to see what is wrong with them."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds  # here, not where it writes: no kill is to hit the import instead
import pyarrow.parquet as pq

from campaigns import kills
from campaigns.processes import start
from campaigns.result import Result


def run(writer: str, count: int, seed: int, folder: Path, data: Path) -> Result:
    """Kill one of the naive writers so many times.

    Args:
        writer: `ParquetWriter`: into the file's own name, row group by row group; `write_dataset`: files with new names
            for each run, as a nightly job appends them.
    """
    started, write = time.perf_counter(), WRITERS[writer](data)
    ended = start(write(folder / "whole"), folder / "whole.log").wait()
    if ended.code:
        raise RuntimeError(f"the naive writer itself failed: {ended.text}")
    whole = folder / "whole"
    rows = {str(path.relative_to(whole)): pq.read_metadata(path).num_rows for path in whole.rglob("*.parquet")}
    victim = kills.Victim(write, rows if writer == "ParquetWriter" else {}, kills.ids_in(whole), None)
    tallies = kills.kill_side_by_side(victim, ended.seconds, count, seed, folder)
    return kills.result_of("F1", f"naive: {writer}", tallies, seed, time.perf_counter() - started)


def _forecast(path: Path) -> pa.Table:
    """Return the rows of a file with a forecast each: whatever it is, it takes a moment."""
    table = pq.ParquetFile(path).read(["id", "target"])
    time.sleep(0.002)
    return table.append_column("prediction", pa.array(list(np.zeros((len(table), 4), np.float32))))


def _by_parquet_writer(data: Path) -> kills.Writer:
    def write(out: Path) -> Callable[[], None]:
        def work() -> None:
            for path in sorted(data.rglob("*.parquet")):
                target, table = out / path.relative_to(data), _forecast(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with pq.ParquetWriter(target, table.schema) as file:
                    for start_row in range(0, len(table), 50):
                        file.write_table(table.slice(start_row, 50))

        return work

    return write


def _by_write_dataset(data: Path) -> kills.Writer:
    def write(out: Path) -> Callable[[], None]:
        def work() -> None:
            for path in sorted(data.rglob("*.parquet")):
                name = f"{uuid.uuid4().hex}-{{i}}.parquet"
                target = out / path.relative_to(data).parent
                options = {"basename_template": name, "existing_data_behavior": "overwrite_or_ignore"}
                ds.write_dataset(_forecast(path), target, format="parquet", **options)

        return work

    return write


WRITERS = {"ParquetWriter": _by_parquet_writer, "write_dataset": _by_write_dataset}
