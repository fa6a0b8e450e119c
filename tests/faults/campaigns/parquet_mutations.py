"""F5: damaged input is refused by name, or scored as what it says now; nothing else ever happens."""

import os
import random
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from campaigns import pool
from campaigns.hand_made import TINY
from campaigns.mutate import Mutation, mutate
from campaigns.parquet_files import Base, make_bases
from campaigns.result import Result
from campaigns.scoring import NAME, Scored, Scorer, opened
from runner.terminal import WithoutPandas

PATIENCE = 30.0
"""Seconds after which a file is said to hang; one takes about ten milliseconds."""
COMMAND_EVERY = 250
"""How often a file is scored by the command itself too."""
ROOM_MIB = 1024
CEILING_MIB = 400
"""What no process may ever have resident; the libraries alone take some 230."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one damaged file.

    Attributes:
        how: the damage.
        refused: it was, by name.
        failure: which promise was broken; None = none.
    """

    how: str
    refused: bool
    failure: str | None
    lost: int = 0
    doubled: int = 0


@dataclass(frozen=True, slots=True)
class _Setting:
    seed: int
    folder: Path
    bundle: Path
    bases: tuple[Base, ...]

    def mutation(self, index: int) -> tuple[Base, Mutation]:
        """Draw the damage of a try; the same index gives the same file."""
        draw = random.Random(f"{self.seed} {index}")
        base = draw.choice(self.bases)
        return base, mutate(base, draw)


def run(count: int, seed: int, folder: Path) -> Result:
    """Damage `count` files and score each."""
    started = time.monotonic()
    setting = _Setting(seed, folder, TINY.make_bundle(folder / "bundle"), tuple(make_bases(folder)))
    failures, refused, scored, peak, lost, doubled = [], 0, 0, 0.0, 0, 0
    for tried in pool.each(_prepare, setting, count, patience=PATIENCE, room_mib=ROOM_MIB):
        peak = max(peak, tried.peak_mib)
        found = tried.result or Finding(setting.mutation(tried.index)[1].how, refused=False, failure=tried.death)
        refused += found.refused
        scored += not found.refused and not found.failure
        lost, doubled = lost + found.lost, doubled + found.doubled
        if found.failure:
            failures.append(_keep(setting, tried.index, found))
    if count >= 200 and not (refused and scored):
        failures.append(f"seed {seed}: {refused} refused and {scored} scored, so one of the two was not tried")
    if peak > CEILING_MIB:
        failures.append(f"seed {seed}: a process had {peak:.0f} MiB resident, at most {CEILING_MIB} were promised")
    return Result(
        fault="F5",
        what=f"damaged Parquet of {len(setting.bases)} kinds; {refused} refused by name, {scored} scored as they read",
        seed=seed,
        tried=count,
        survived=count - len(failures),
        rows_lost=lost,
        rows_doubled=doubled,
        failures=tuple(failures),
        peak_mib=peak,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Damages and scores one file after the other, in a process of its own.

    Attributes:
        undisturbed: what becomes of the files as they are, by name.
        unclosed: keeps the bundle open for as long as the process lives.
    """

    setting: _Setting
    scorer: Scorer
    undisturbed: dict[str, Scored]
    unclosed: ExitStack

    def __call__(self, index: int) -> Finding:
        base, mutation = self.setting.mutation(index)
        report = self.scorer.score(mutation.content)
        if report.exit_code == 11:
            failure = self._wrongly_refused(mutation, str(report.error))
        elif report.exit_code == 0:
            failure = self._wrongly_scored(base, mutation, self.scorer.found(report))
        else:
            failure = f"exit {report.exit_code}: {report.error}"
        if index % COMMAND_EVERY == 0 and not failure:
            failure = self._otherwise_by_command(mutation, report.exit_code)
        return Finding(mutation.how, report.exit_code == 11, failure)

    def _wrongly_refused(self, mutation: Mutation, error: str) -> str | None:
        if left := self.scorer.visible():
            return f"refused, and yet there is {sorted(left)}"
        if NAME not in error:
            return f"refused without its name: {error}"
        named = any(f"row group {group}" in error for group in mutation.groups or ())
        misfit = "no row of m.parquet fits" in error  # it could be read, and says something else now
        return None if mutation.groups is None or named or misfit else f"refused without its row group: {error}"

    def _wrongly_scored(self, base: Base, mutation: Mutation, found: Scored) -> str | None:
        if mutation.data_only and (what := found.difference(self.undisturbed[base.name])):
            return f"scored with other {what}, although the checksum covers the damage"
        difference = found.difference(self.scorer.expected(read_plainly(mutation.content)))
        return f"scored with other {difference} than the file has" if difference else None

    def _otherwise_by_command(self, mutation: Mutation, code: int) -> str | None:
        ended, messages = self.scorer.command(mutation.content)
        if ended != code or "Traceback" in messages or (code and NAME not in messages):
            return f"the command ended with {ended}, the run with {code}: {messages}"
        return None


def read_plainly(content: bytes) -> pa.Table:
    """Read a whole file by pyarrow alone, a row group at once, checksums and arrays checked."""
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    groups = [file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups)]
    table = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
    table.validate(full=True)
    return table


def _prepare(setting: _Setting) -> _Trial:
    sys.meta_path.insert(0, WithoutPandas)  # as the command does
    warnings.simplefilter("error", RuntimeWarning)  # a quiet night says nothing on stderr
    stack = ExitStack()
    scorer = stack.enter_context(opened(setting.bundle, setting.folder / f"process-{os.getpid()}"))
    undisturbed = {}
    for base in setting.bases:
        report = scorer.score(base.content)
        undisturbed[base.name] = scorer.found(report)
        difference = undisturbed[base.name].difference(scorer.expected(read_plainly(base.content)))
        assert (report.exit_code, difference) == (0, None), f"{base.name}: {report.error}, {difference}"
    return _Trial(setting, scorer, undisturbed, stack)


def _keep(setting: _Setting, index: int, found: Finding) -> str:
    """Keep the file that broke a promise; say how to make it again."""
    path = setting.folder / f"broke-{index}.parquet"
    path.write_bytes(setting.mutation(index)[1].content)
    return f"seed {setting.seed}, file {index} ({found.how}; kept as {path}): {found.failure}"
