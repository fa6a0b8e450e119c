"""Run every campaign at length, and write docs/reliability.md: `make faults`."""

import argparse
import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from campaigns import (
    bundle_mutations,
    commit_path,
    kills,
    limits,
    naive,
    parquet_mutations,
    replaced_inputs,
    rounds,
    signals,
)
from campaigns.page import page
from campaigns.result import Result

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Material:
    """What the campaigns work on: a folder of their own, a bundle, and data to score."""

    folder: Path
    memory: Path
    bundle: Path
    many: Path
    two: Path

    def case(self, name: str) -> tuple[commit_path.Case, Path]:
        """Return a small job for the commit path, in memory: a sync costs nothing there, and there are thousands."""
        room = self.memory / name
        room.mkdir()
        return commit_path.make_case(self.bundle, self.two, None, room / "whole"), room


def prepare(folder: Path, memory: Path) -> Material:
    made = _conftest()
    bundle = made.make_bundle(folder / "bundle")
    many = made.write_dataset(folder / "many", {f"day={n % 3}/f{n:02d}.parquet": 300 + n for n in range(12)})
    two = made.write_dataset(folder / "two", {"a.parquet": 20, "date=2026-11-23/d.parquet": 11})
    return Material(folder, memory, bundle, many, two)


def _conftest() -> ModuleType:
    """Load what makes bundles and data for the tests."""
    spec = importlib.util.spec_from_file_location("conftest", TESTS / "conftest.py")
    assert spec and spec.loader  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules["conftest"] = module
    spec.loader.exec_module(module)
    return module


def campaigns(at: Material, seed: int, share: float) -> list[Callable[[], Result]]:
    """Return all that ours has to survive; `share` shortens the random ones."""

    def count(full: int) -> int:
        return max(10, int(full * share))

    def room(name: str) -> Path:
        (at.folder / name).mkdir()
        return at.folder / name

    return [
        lambda: commit_path.deaths(*at.case("deaths")),
        lambda: commit_path.sigkills(*at.case("sigkills")),
        lambda: kills.run(count(1000), seed, room("kills"), at.bundle, at.many),
        lambda: commit_path.power_losses(*at.case("names"), names_survive=True),
        lambda: commit_path.power_losses(*at.case("nothing"), names_survive=False),
        lambda: signals.run(count(200), seed, room("signals")),
        *[lambda code=code: commit_path.disk_errors(*at.case(f"errno-{code}"), (code,)) for code in commit_path.ERRNOS],
        lambda: parquet_mutations.run(count(100_000), seed, room("parquet")),
        lambda: commit_path.flips(next(iter((at.memory / "deaths" / "whole").glob("*.parquet")))),
        lambda: bundle_mutations.run(count(20_000), seed, room("bundles")),
        lambda: rounds.run(count(200), seed, room("rounds"), at.bundle, at.many, lock=True),
        lambda: rounds.run(count(200), seed, room("unlocked"), at.bundle, at.many, lock=False),
        lambda: limits.run(count(100), seed, room("limits")),
        lambda: replaced_inputs.run(count(500), seed, room("replaced")),
    ]


def main() -> int:
    """Run everything; return 1 if anything was not survived, or if the harness let a naive writer pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--share", type=float, default=1.0, help="of the random faults, for a shorter run")
    parser.add_argument("--out", type=Path, default=TESTS.parent / "docs" / "reliability.md")
    asked = parser.parse_args()
    started, results = time.perf_counter(), []
    shared = Path("/dev/shm")  # noqa: S108
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as fast,
    ):
        at = prepare(Path(folder), Path(fast))
        for campaign in campaigns(at, asked.seed, asked.share):
            results.append(campaign())
            _tell(results[-1])
        others = []
        for writer in naive.WRITERS:
            (at.folder / writer).mkdir()
            others.append(naive.run(writer, max(20, int(100 * asked.share)), asked.seed, at.folder / writer, at.many))
            _tell(others[-1])
    asked.out.write_text(page(results, others, time.perf_counter() - started))
    return int(any(one.failures for one in results) or not all(one.torn for one in others))


def _tell(one: Result) -> None:
    print(f"{one.fault:4} {one.survived:>7,} of {one.tried:>7,} survived, {one.seconds:6.0f} s: {one.what}", flush=True)
    for line in () if one.what.startswith("naive") else one.failures[:20]:
        print(f"     {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
