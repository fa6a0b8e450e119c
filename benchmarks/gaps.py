"""What explain-gap says of processes whose floor is known, by the commands that a user would type.

    python benchmarks/gaps.py [--work DIR] [--windows 20000] [--markdown docs/gaps.md]

Five processes are drawn, trained on, exported and explained. Then Mackey-Glass is trained by `strategy = "auto"` with
three seeds: every strategy against as many more epochs of plain teacher forcing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

PROCESSES = ("ar1", "random-walk", "sine", "bistable", "mackey-glass")
SEEDS = (0, 1, 2)
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Explained:
    """A process, what was said of it, and what is true.

    Attributes:
        report: of explain-gap.
        teacher_forced, free_running: masked MSE of the best forecasts, over the same cells.
    """

    process: str
    report: dict[str, Any]
    teacher_forced: float
    free_running: float


def command(*words: object) -> None:
    """Run one of freerun's commands, showing it."""
    print("$", *words, flush=True)
    subprocess.run([BIN / str(words[0]), *map(str, words[1:])], check=True, stdout=subprocess.DEVNULL)


def explained(folder: Path, process: str, windows: int) -> Explained:
    """Draw, train, export and explain."""
    home = folder / process
    draw(home, process, windows, seed=0)
    train(home, home / "bundle")
    words = ["freerun-export", "explain-gap", home / "bundle", home / "valid", "--train", home / "train"]
    words += ["--model", home / "bundle.work" / "model.keras", "--batch-size", 128, "--json"]
    print("$", *words, flush=True)
    done = subprocess.run([BIN / str(words[0]), *map(str, words[1:])], check=True, capture_output=True, text=True)
    return Explained(process, json.loads(done.stdout), *(masked_mse(home / "valid", name) for name in OPTIMA))


OPTIMA = ("optimal_teacher_forced", "optimal")


def draw(home: Path, process: str, windows: int, seed: int) -> None:
    """Write the windows of a process."""
    sizes = ["--train-windows", windows, "--valid-windows", windows // 5]
    command("freerun-export", "demo-data", home, "--process", process, *sizes, "--seed", seed)


def train(home: Path, bundle: Path, *settings: str) -> None:
    """Train on them by the config that lies beside them."""
    words = [word for setting in settings for word in ("--set", setting)]
    data = [home / "train", "--valid", home / "valid"]
    command("freerun-export", "train", *data, "--out", bundle, "--config", home / "train.toml", *words)


def masked_mse(folder: Path, column: str) -> float:
    """Return the loss of a column that the data brings along."""
    total = cells = 0.0
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        target, forecast = (np.array(table[name].to_pylist(), float) for name in ("target", column))
        counts = (
            np.array(table["mask"].to_pylist()) == 0 if "mask" in table.schema.names else np.ones(target.shape, bool)
        )
        total, cells = total + float(((forecast - target) ** 2)[counts].sum()), cells + target.size
    return total / cells


def trials(folder: Path, windows: int) -> list[tuple[int, dict[str, Any]]]:
    """Train on Mackey-Glass by every strategy, once for each seed of windows, weights and order."""
    found = []
    for seed in SEEDS:
        home = folder / f"mackey-glass-seed{seed}"
        draw(home, "mackey-glass", windows, seed)
        train(home, home / "bundle", "strategy=auto", f"seed={seed}")
        found.append((seed, json.loads((home / "bundle.work" / "trials.json").read_text())))
    return found


def parts_table(rows: list[Explained]) -> list[str]:
    """Return the table of the walks; of each part its value and its interval."""
    names = ("horizon", "plug_in", "undertrained", "exposure_bias", "model", "recoverable")
    lines = [
        "| process | reported | free-running | best possible | " + " | ".join(name.replace("_", " ") for name in names)
    ]
    lines[0] += " |"
    lines.append("|---" * (4 + len(names)) + "|")
    for row in rows:
        report = row.report
        values = {**report["parts"], "recoverable": report["recoverable"]}
        cells = [part(values[name], report["intervals"].get(name)) for name in names]
        losses = [number(report["teacher_forced"]), number(report["free_running"]), number(row.free_running)]
        lines.append(f"| {row.process} | " + " | ".join([*losses, *cells]) + " |")
    return lines


def trials_table(found: list[tuple[int, dict[str, Any]]]) -> list[str]:
    """Return the table of the strategies against the control."""
    lines = ["| seed | start | control | strategy | loss | less the control's, 95 % between | kept |", "|---" * 7 + "|"]
    for seed, choice in found:
        for trial in choice["trials"]:
            start, control = (number(choice[name]["free_running"]) for name in ("start", "control"))
            low, high = trial["interval"] or (np.nan, np.nan)
            kept = "yes" if choice["kept"] == trial["strategy"] else ""
            difference = f"{trial['difference']:+.3g} ({low:+.3g} to {high:+.3g})"
            loss = number(trial["best"]["free_running"])
            lines.append(f"| {seed} | {start} | {control} | {trial['strategy']} | {loss} | {difference} | {kept} |")
    return lines


def claims(rows: list[Explained]) -> list[tuple[str, bool]]:
    """Return what has to hold, and whether it does."""
    by_name = {row.process: row for row in rows}
    found = []
    for name in ("ar1", "random-walk"):
        row = by_name[name]
        low, high = row.report["intervals"]["horizon"]
        true = row.free_running - row.teacher_forced
        found.append(
            (f"{name}: the horizon is the known one, {true:.4g} in {low:.4g} to {high:.4g}", low <= true <= high)
        )
        share = row.report["shares"]["exposure_bias"]
        found.append((f"{name}: exposure bias is {share:.1%} of the loss, under 5 %", share < 0.05))
        ratio = row.report["free_running"] / row.free_running
        found.append((f"{name}: free-running is {ratio:.3f} of the best possible, at most 1.03", ratio <= 1.03))
    bistable = by_name["bistable"].report
    won = bistable["losses"]["F"] - min(bistable["losses"][name] for name in ("E'", "R'"))
    share = won / bistable["recoverable"]
    found.append((f"bistable: sampled paths or further training take back {share:.0%}, at least 60 %", share >= 0.6))
    return found


def part(value: float | None, bounds: list[float] | None) -> str:
    """Write a part and its interval."""
    if value is None:
        return "-"
    return f"{value:.3g}" + (f" ({bounds[0]:.3g} to {bounds[1]:.3g})" if bounds else "")


def number(value: float) -> str:
    """Write a loss."""
    return f"{value:.4g}"


def main() -> int:
    """Run everything, print the tables and what has to hold; return 1 where something does not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="keep everything in this new folder")
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--markdown", type=Path, help="write the page here")
    chosen = parser.parse_args()
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="gaps-"))
    rows = [explained(folder, process, chosen.windows) for process in PROCESSES]
    held = claims(rows)
    lines = [
        "# What explain-gap says where the truth is known",
        "",
        f"`python benchmarks/gaps.py`: {chosen.windows:,} windows to train on and a fifth of that to validate, the",
        "`train.toml` beside the data, three further epochs each way. Masked MSE; with 95 % confidence in brackets.",
        "[The processes](processes.md), [the words](explain-gap.md).",
        "",
        *parts_table(rows),
        "",
        *(f"- {'Holds' if good else '**Does not hold**'}: {claim}." for claim, good in held),
        "",
        "## Mackey-Glass: each strategy against as many more teacher-forced epochs",
        "",
        *trials_table(trials(folder, chosen.windows)),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text, encoding="utf-8")
    return 0 if all(good for _, good in held) else 1


if __name__ == "__main__":
    sys.exit(main())
