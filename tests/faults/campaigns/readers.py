"""Somebody who reads the output folder all the time while it is written, as a dashboard would."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from campaigns.processes import Running, start

STOPPED = ".reader-stopped"


@dataclass(frozen=True, slots=True)
class Reads:
    """How often a reader looked, and what it found that was not whole."""

    looks: int
    torn: tuple[str, ...]


def start_reader(out: Path, rows: dict[str, int], tally: Path) -> Running:
    """Read the folder again and again, by pyarrow and by duckdb, until SIGTERM; then write what was seen to `tally`.

    Args:
        out: the output folder.
        rows: by part, how many rows it has to have.
        tally: one line for each torn file, and the number of looks as the last.
    """

    def work() -> None:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        looks, torn = 0, []
        while not asked:
            looks += 1
            torn += look(out, rows, by_duckdb=looks % 5 == 0)
        tally.write_text("\n".join([*torn, str(looks)]))

    return start(work, tally.with_suffix(".log"))


def stop_reader(reader: Running, tally: Path) -> Reads:
    reader.send(signal.SIGTERM)
    ended = reader.wait()
    if not tally.exists():
        return Reads(0, (f"the reader itself ended with {ended.code}: {ended.text}",))
    *torn, looks = tally.read_text().splitlines()
    return Reads(int(looks), tuple(torn))


def look(out: Path, rows: dict[str, int], *, by_duckdb: bool) -> Iterator[str]:
    """Read every visible file once; yield what is torn: a file that does not read, or is not all there."""
    success = (out / "_SUCCESS").exists()
    found = {str(path.relative_to(out)): path for path in out.rglob("*.parquet")}
    for name, path in sorted(found.items()):
        try:
            if by_duckdb:
                import duckdb  # noqa: PLC0415

                query = f"select count(id) from read_parquet('{path}', hive_partitioning=false)"
                ((count,),) = duckdb.execute(query).fetchall()
            else:
                count = pq.ParquetFile(path, page_checksum_verification=True).read(["prediction", "id"]).num_rows
        except FileNotFoundError:
            continue  # a part that is replaced by another unit's is taken away first
        except Exception as error:  # noqa: BLE001  (whatever it is, a reader should not get it)
            if path.exists():
                yield f"{name}: {str(error).splitlines()[0][:200]}"
            continue
        if count != rows.get(name, count):
            yield f"{name}: {count} rows instead of {rows[name]}"
    if success and rows.keys() - found.keys() and (out / "_SUCCESS").exists():
        yield f"_SUCCESS without {sorted(rows.keys() - found.keys())}"
    time.sleep(0.005)
