"""Compare the forecasts that two runs made with one bundle; exit 1 where they differ by more than golden windows may.

python .ci/same_forecasts.py BUNDLE OUT OTHER_OUT
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def forecasts(folder: Path) -> np.ndarray:
    """Return all predictions of an output folder [B, H], in the order of its files' names."""
    tables = [pq.read_table(path, columns=["prediction"]) for path in sorted(folder.rglob("*.parquet"))]
    return np.array([row for table in tables for row in table["prediction"].to_pylist()], np.float32)


def main(bundle: Path, one: Path, other: Path) -> int:
    """Tell how many forecasts differ, and by how much at most."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    found, expected = forecasts(one), forecasts(other)
    if found.shape != expected.shape or not found.size:
        print(f"{one} has forecasts of shape {found.shape}, {other} of {expected.shape}", file=sys.stderr)
        return 1
    apart = np.abs(found - expected) / manifest["target"]["scale"]
    largest, allowed = float(apart.max()), manifest["tolerances"]["golden"]
    verdict = f"largest difference {largest:.3g} deviations, allowed {allowed:.3g}"
    print(f"{one} and {other}: {np.count_nonzero(apart)} of {apart.size} forecasts differ, {verdict}")
    return int(not largest <= allowed)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
