"""Do other kinds of models earn their place? A quick look at ETTh1, by the commands that a user would type.

    python benchmarks/kinds.py PATH-TO-ETTh1.csv [--page docs/models.md]

Each kind is small, trained for a few epochs from several seeds, and scored on the test windows beside simple forecasts.
Windows, split and units are those of `etth1.py`. Two trainings run at a time.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from etth1 import Bench, command
from etth1_page import SIMPLE, Result, Task, read_report

KINDS = {
    "LSTM": "cell=lstm",
    "GRU": "cell=gru",
    "bidirectional encoder": "encoder=bidirectional",
    "Luong attention": "attention=luong",
    "Bahdanau attention": "attention=bahdanau",
    "seasonal base": "base=seasonal",
    "linear base": "base=linear",
}
SETTINGS = ("units=16", "scaling=window", "start=last", "epochs=4", "learning_rate=0.01", "season_length=24")
TARGETS, HORIZON, CONTEXT, SEEDS = ("OT",), 24, 48, (0, 1, 2)
BEGIN, END = "<!-- kinds -->\n", "<!-- end -->\n"


@dataclass(frozen=True, slots=True)
class Run:
    """A training: which task, which kind, which seed."""

    task: Task
    folder: Path
    kind: str
    seed: int

    def results(self) -> list[Result]:
        """Train, export and score; return the test MSE, and those of the naive forecasts."""
        name = f"{list(KINDS).index(self.kind)}-{self.seed}"
        bundle, out = self.folder / f"bundle-{name}", self.folder / f"scored-{name}"
        words = [w for setting in (*SETTINGS, KINDS[self.kind], f"seed={self.seed}") for w in ("--set", setting)]
        command("freerun-export", "train", self.folder / "train", "--valid", self.folder / "valid", "--out", bundle,
                *words)  # fmt: skip
        command("freerun", "score", bundle, self.folder / "test", "--out", out, "--quiet")
        return read_report(self.task, self.kind, out / "_report.json")


def row(name: str, results: list[Result], tasks: list[Task]) -> str:
    """Return a forecast's row: the median of its test MSE, and its range where there are several, by target."""
    cells = []
    for task in tasks:
        found = [result.mse for result in results if (result.name, result.task) == (name, task)]
        spread = f" ({min(found):.4f} to {max(found):.4f})" if name in KINDS else ""
        cells.append(f"{statistics.median(found):.4f}{spread}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Cut, train and score everything, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--page", type=Path, help="rewrite the table in this Markdown file")
    chosen, started = parser.parse_args(), time.monotonic()
    bench = Bench(chosen.csv, Path(tempfile.mkdtemp(prefix="kinds-")), ())
    tasks = [Task(target, HORIZON, CONTEXT) for target in TARGETS]
    folders = {task: bench.cut(task) for task in tasks}
    results = [bench.simple(task, folders[task]) for task in tasks]
    runs = [Run(task, folders[task], kind, seed) for task in tasks for kind in KINDS for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        results += [result for found in pool.map(Run.results, runs) for result in found]
    lines = [f"| forecast | {' | '.join(TARGETS)} |", f"|---|{'---|' * len(tasks)}"]
    table = "\n".join([*lines, *(row(name, results, tasks) for name in (*SIMPLE, *KINDS))])
    print(f"\n{table}\n{(time.monotonic() - started) / 60:.1f} minutes")
    if chosen.page:
        before, _, rest = chosen.page.read_text().partition(BEGIN)
        chosen.page.write_text(f"{before}{BEGIN}{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
