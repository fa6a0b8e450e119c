"""What `make demo` holds: freerun's scores beside those of the optimal forecasts, on the same rows.

Reads the scored Parquet alone, so it is also an independent check of the report's numbers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def masked_mse(folder: Path, column: str) -> float:
    """Return sum(observed * (column - target)^2) / (windows * horizon) over all parts of a folder."""
    total, cells = 0.0, 0
    for part in sorted(folder.glob("*.parquet")):
        table = pq.read_table(part, columns=["target", "mask", column])
        target, mask, forecast = (
            np.array(cells.to_pylist(), float) for cells in table.select(["target", "mask", column])
        )
        total += float(((forecast - target) ** 2)[mask == 0].sum())
        cells += mask.size
    return total / cells


def main(demo: Path) -> int:
    """Print the comparison; return 1 where a promise of the demo is not kept."""
    rows = [
        ("teacher-forced", "scored-teacher-forced", "optimal_teacher_forced", 1.05),
        ("free-running", "scored", "optimal", 1.03),
    ]
    kept = True
    print(f"\n{'masked MSE':<16}{'freerun':>10}{'optimal':>10}{'ratio':>8}{'allowed':>9}{'report':>10}")
    for name, folder, optimum, allowed in rows:
        found, best = masked_mse(demo / folder, "prediction"), masked_mse(demo / folder, optimum)
        reported = json.loads((demo / folder / "_report.json").read_text())["total"]["masked_mse"]
        kept &= found / best <= allowed and abs(found - reported) < 1e-9
        print(f"{name:<16}{found:>10.5f}{best:>10.5f}{found / best:>8.3f}{allowed:>9.2f}{reported:>10.5f}")
    certificate = json.loads((demo / "bundle" / "certificate.json").read_text())
    difference, tolerance = certificate["largest_difference"], certificate["tolerance"]
    kept &= difference < tolerance
    print(f"largest difference between Keras and ONNX: {difference:.2g} deviations, allowed {tolerance:.0e}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
