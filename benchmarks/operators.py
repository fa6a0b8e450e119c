"""Where the time of a batch goes: microseconds a window by operator, for each graph of a bundle that runs.

    python benchmarks/operators.py BUNDLE [BATCH]

One thread, onnxruntime's own profile; it slows every operator down by a microsecond or two, so read the shares.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runner.bundle import Bundle, open_bundle
from runner.manifest import Manifest

RUNS = 20
SHOWN = 12


def feeds_of(manifest: Manifest, rows: int) -> dict[str, np.ndarray]:
    """Return inputs of a fused graph, drawn at random [rows, ...]."""
    rng = np.random.default_rng(0)
    context, horizon, names = manifest.context_length, manifest.horizon, manifest.fused_tensors()
    feeds = {names["past"]: rng.normal(size=(rows, context, manifest.past_width))}
    feeds[names["teacher"]] = np.full((rows, horizon), np.nan)
    if "past_observed" in names:
        feeds[names["past_observed"]] = np.ones((rows, context))
    if "future_known" in names:
        feeds[names["future_known"]] = rng.normal(size=(rows, horizon, manifest.future_width))
    return {name: values.astype(np.float32) for name, values in feeds.items()}


def profile(graph: bytes, feeds: dict[str, np.ndarray], rows: int) -> Counter[str]:
    """Return microseconds a window by operator."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = f"{tempfile.mkdtemp()}/profile"
    options.add_free_dimension_override_by_name("batch", rows)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, feeds)
    spent: Counter[str] = Counter()
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"] / RUNS / rows
    return spent


def show(bundle: Bundle, rows: int) -> None:
    """Print one table for each precision."""
    feeds = feeds_of(bundle.manifest, rows)
    for precision in bundle.manifest.held():
        spent = profile(bundle.graphs(precision)["fused"], feeds, rows)
        total = sum(spent.values())
        print(f"\n{precision}: {total:.1f} microseconds a window, batches of {rows}")
        for name, micros in spent.most_common(SHOWN):
            print(f"  {name:<18}{micros:>8.2f}{micros / total:>8.1%}")


if __name__ == "__main__":
    show(open_bundle(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 128)
