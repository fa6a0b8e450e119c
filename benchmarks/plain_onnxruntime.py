"""What a user would write without freerun: the bundle's two graphs, onnxruntime's default options, one big batch.

    python benchmarks/plain_onnxruntime.py BUNDLE INPUT.parquet OUTPUT.parquet

It reads the whole file, checks nothing, scores nothing, and cannot resume.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 2048


def forecast(bundle: Path, source: Path, target: Path) -> None:
    """Read windows, feed each prediction back as the next step's input, write the forecasts."""
    encoder = ort.InferenceSession(bundle / "encoder.onnx")
    step = ort.InferenceSession(bundle / "decoder_step.onnx")
    table = pq.read_table(source)
    past = table["past"].combine_chunks().to_numpy_ndarray()
    horizon = table.schema.field("target").type.list_size
    predictions = np.empty((len(past), horizon), np.float32)
    for start in range(0, len(past), BATCH):
        rows = slice(start, start + BATCH)
        previous, hidden, cell = encoder.run(["previous_0", "hidden", "cell"], {"past": past[rows]})
        previous = previous[:, :, None]
        for h in range(horizon):
            feeds = {"previous": previous, "hidden": hidden, "cell": cell}
            previous, hidden, cell = step.run(["prediction", "hidden_next", "cell_next"], feeds)
            predictions[rows, h] = previous[:, 0, 0]
    column = pa.FixedSizeListArray.from_arrays(pa.array(predictions.ravel()), horizon)
    pq.write_table(table.drop_columns(["past"]).append_column("prediction", column), target, compression="zstd")


if __name__ == "__main__":
    forecast(*map(Path, sys.argv[1:]))
