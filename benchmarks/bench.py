"""Measure freerun beside its peers in one run, and write the page, the numbers and the pictures.

python benchmarks/bench.py            # docs/benchmarks.md, docs/benchmarks.json, docs/plots/
python benchmarks/bench.py --quick    # the same at tiny sizes, into build/bench-quick: proves that it works
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from contestants import everybody
from curves import measure
from data import BIN, Store
from demo import masked_mse
from goals import goals
from page import page
from plots import draw_all
from processes import bomb, open_bench, start_to_finish
from rounds import Rates, compare
from sizes import FULL, QUICK, Plan

from runner.device import cpu_count

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "pyarrow", "onnx", "onnxruntime", "tensorflow", "keras", "tf2onnx", "torch")
STARTED = time.monotonic()


def say(line: str) -> None:
    """Tell what is going on, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:6.0f} s  {line}", file=sys.stderr, flush=True)


def run(plan: Plan, folder: Path, command: str) -> dict[str, Any]:
    """Measure everything; return it as it stands in benchmarks.json."""
    store, scratch = Store(folder, precisions()), folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    say("training what is missing")
    store.train(plan.shapes, plan.train_windows)
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")  # what other runs found out about this machine does not count
    store.tune(plan.shapes, plan.tune_seconds)
    say("contestants")
    found = compare(everybody(plan, store, scratch), plan.rounds, scratch, say)
    results: dict[str, Any] = {"contestants": told(found)}
    results["int8"] = int8_losses(found, scratch)
    say("start to finish")
    results["start"] = start_to_finish(plan, store, scratch)
    results["demo"] = demo_losses(ROOT / "build" / "demo", scratch / "demo")
    say("curves")
    bench = open_bench(plan, store, scratch)
    results["curves"] = measure(plan, store, bench, say)
    say("memory")
    results["memory"] = {"imports": bench.imports, "bomb": bomb(plan, store, bench)}
    results["goals"] = [asdict(goal) for goal in goals(results)]
    return {"about": about(plan, command), **results}


def precisions() -> tuple[str, ...]:
    """Return the precisions that this freerun offers."""
    words = [BIN / "freerun", "score", "--help"]
    offered = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return ("fp32", "int8") if "--precision" in offered else ("fp32",)


def told(found: dict[str, Rates]) -> dict[str, Any]:
    """Return the contestants' part of the results."""
    ours = found["freerun_fp32"].forecast
    return {
        name: {
            "label": rates.label,
            "note": rates.note,
            "skipped": rates.skipped,
            "rates": rates.rates,
            "difference": None if rates.forecast is None else distance(rates.forecast, ours),
        }
        for name, rates in found.items()
    }


def distance(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Return the largest difference between forecasts, in deviations of ours: all must forecast the same."""
    return float(np.abs(theirs - ours).max() / ours.std())


def int8_losses(found: dict[str, Rates], scratch: Path) -> dict[str, Any]:
    """Return the masked MSE of both precisions, from the reports of their last rounds on the same windows."""
    if found["freerun_int8"].skipped:
        return {"skipped": found["freerun_int8"].skipped}
    return {name: report(scratch / f"freerun_{name}")["this_run"]["masked_mse"] for name in ("fp32", "int8")}


def demo_losses(demo: Path, out: Path) -> dict[str, Any]:
    """Score the demo's validation windows where `make demo` has left them; return its loss and the optimal one."""
    if not (demo / "bundle").is_dir():
        return {"skipped": "run make demo first"}
    command = [BIN / "freerun", "score", demo / "bundle", demo / "valid", "--out", out, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": done.stderr.strip().splitlines()[-1]}
    return {"free_running": report(out)["this_run"]["masked_mse"], "optimal": masked_mse(out, "optimal")}


def report(out: Path) -> dict[str, Any]:
    """Return the report of a run."""
    return json.loads((out / "_report.json").read_text())


def about(plan: Plan, command: str) -> dict[str, Any]:
    """Return when, where and with what the numbers were made."""
    found = {"python": platform.python_version()}
    for name in ("freerun", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": time.monotonic() - STARTED,
        "shape": {**asdict(plan.shape), "flop": plan.shape.flop},
        "machine": machine(),
        "versions": found,
    }


def machine() -> dict[str, str]:
    """Return what the machine is, without its name."""
    lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    facts = {key.strip(): value.strip() for key, value in lines}
    flags = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in facts.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": facts.get("model name", platform.machine()),
        "instructions": ", ".join(flags) or "unknown",
        "processors granted": str(cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and nothing in docs/")
    quick = parser.parse_args().quick
    folder = ROOT / "build" / ("bench-quick" if quick else "bench")
    docs = folder / "docs" if quick else ROOT / "docs"
    results = run(QUICK if quick else FULL, folder, "python benchmarks/bench.py --quick" if quick else "make bench")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.json").write_text(json.dumps(results, indent=2) + "\n")
    (docs / "benchmarks.md").write_text(page(results))
    draw_all(results, docs / "plots")
    say(f"wrote {(docs / 'benchmarks.md').relative_to(ROOT)}")
    for goal in results["goals"]:
        print(f"{goal['what']}: {goal['found']}, to reach {goal['goal']}")


if __name__ == "__main__":
    main()
