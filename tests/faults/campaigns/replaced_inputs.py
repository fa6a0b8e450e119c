"""F26: an input that is replaced while it is read is scored as one of its versions, whole, or not at all."""

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from campaigns import pool
from campaigns.hand_made import TINY
from campaigns.result import Result
from campaigns.scoring import Scorer, opened
from runner.terminal import WithoutPandas

KINDS = ("renamed over", "rewritten in place", "one value changed in place")
TICK = 0.012
"""Seconds between two changes in place: the clock of a file system may stand still for up to ten milliseconds."""
PATIENCE = 30.0
RACED = "b.parquet"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one race.

    Attributes:
        how: which kind of replacement, and how the run under it ended.
        changes: how often the file was replaced meanwhile.
        failure: which promise was broken; None = none.
        torn: parts that were of no version.
    """

    how: str
    changes: int
    failure: str | None
    torn: int = 0


@dataclass(frozen=True, slots=True)
class _Setting:
    seed: int
    folder: Path
    bundle: Path


@dataclass(slots=True)
class _Replacer:
    """Replaces a file by one version after the other, a few times, or until it is told to stop."""

    path: Path
    versions: list[bytes]
    kind: str
    draw: random.Random
    changes: int = 0

    @contextmanager
    def racing(self) -> Iterator[None]:
        """Replace it again and again within the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._race, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _race(self, over: threading.Event) -> None:
        for _ in range(self.draw.choice([1, 1, 2, 4, 100])):
            if over.wait(self.draw.uniform(0, 0.008) + TICK * (self.kind != "renamed over" and self.changes > 0)):
                return
            self.replace(self.draw.choice(self.versions))
            self.changes += 1

    def replace(self, content: bytes) -> None:
        if self.kind == "renamed over":
            incoming = self.path.with_name("incoming")
            incoming.write_bytes(content)
            incoming.replace(self.path)
        elif self.kind == "rewritten in place":
            with self.path.open("wb", buffering=0) as file:
                for start in range(0, len(content), 2000):
                    file.write(content[start : start + 2000])
        else:
            now = self.path.read_bytes()
            changed = [at for at, (old, new) in enumerate(zip(now, content, strict=True)) if old != new]
            with self.path.open("r+b", buffering=0) as file:
                for at in changed[:1]:
                    os.pwrite(file.fileno(), content[at : changed[-1] + 1], at)


def run(count: int, seed: int, folder: Path) -> Result:
    """Run `count` races."""
    started = time.monotonic()
    setting = _Setting(seed, folder, TINY.make_bundle(folder / "bundle"))
    failures, torn, changes, peak, ended = [], 0, 0, 0.0, {0: 0, 11: 0}
    for tried in pool.each(_prepare, setting, count, patience=PATIENCE):
        peak = max(peak, tried.peak_mib)
        found = tried.result or Finding("?", 0, tried.death)
        torn, changes = torn + found.torn, changes + found.changes
        ended[11] += found.how.endswith("exit 11")
        if found.failure:
            failures.append(f"seed {seed}, race {tried.index} ({found.how}): {found.failure}")
    return Result(
        fault="F26",
        what=f"inputs replaced {changes} times while they were read; {ended[11]} runs gave up with exit 11",
        seed=seed,
        tried=count,
        survived=count - len(failures),
        torn=torn,
        failures=tuple(failures),
        peak_mib=peak,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Runs one race after the other, in a process of its own.

    Attributes:
        versions: the contents of the raced file, by kind of replacement.
        parts: the part that each version becomes.
        unclosed: keeps the bundle open for as long as the process lives.
    """

    setting: _Setting
    scorer: Scorer
    versions: dict[str, list[bytes]]
    parts: dict[bytes, bytes]
    unclosed: ExitStack

    def __call__(self, index: int) -> Finding:
        draw = random.Random(f"{self.setting.seed} {index}")
        kind = draw.choice(KINDS)
        source = self.scorer.path.parent
        replacer = _Replacer(source / RACED, self.versions[kind], kind, draw)
        (source / RACED).write_bytes(replacer.versions[0])
        with replacer.racing():
            report = self.scorer.run(source)
        how = f"{kind}, exit {report.exit_code}"
        if report.exit_code not in {0, 11}:
            return Finding(how, replacer.changes, str(report.error))
        if (made := self._made()) is not None and made not in self.parts.values():
            return Finding(how, replacer.changes, "the part is of no version", torn=1)
        return Finding(how, replacer.changes, self._settled(made, whole=report.exit_code == 0))

    def _settled(self, made: bytes | None, *, whole: bool) -> str | None:
        """Let the input come to rest, and run again."""
        if whole and (made is None or not (self.scorer.out / "_SUCCESS").exists()):
            return "exit 0, and not everything is there"
        source = self.scorer.path.parent
        report = self.scorer.rerun(source)
        if report.exit_code or report.to_do:
            return f"at rest, and yet exit {report.exit_code}: {report.error}"
        wanted = self.parts[(source / RACED).read_bytes()]
        return None if self._made() == wanted else "at rest, and yet the part is of an earlier version"

    def _made(self) -> bytes | None:
        path = self.scorer.out / RACED
        return path.read_bytes() if path.exists() else None


def _prepare(setting: _Setting) -> _Trial:
    sys.meta_path.insert(0, WithoutPandas)  # as the command does
    stack = ExitStack()
    scorer = stack.enter_context(opened(setting.bundle, setting.folder / f"process-{os.getpid()}"))
    TINY.write_dataset(scorer.path.parent, {"a.parquet": 7, "c.parquet": 9})
    sized = [_written(TINY.make_table(rows, seed=rows)) for rows in (8, 21, 40, 60)]
    versions = dict(zip(KINDS, (sized, sized, _alike()), strict=True))
    parts = {}
    for content in {content for contents in versions.values() for content in contents}:
        (scorer.path.parent / RACED).write_bytes(content)
        assert scorer.run(scorer.path.parent).exit_code == 0
        parts[content] = (scorer.out / RACED).read_bytes()
    return _Trial(setting, scorer, versions, parts, stack)


def _alike() -> list[bytes]:
    """Return files of the same size and footer that differ in one row each."""
    table = TINY.make_table(40, seed=1)
    found = []
    for row in range(4):
        notes = [f"note {row if index == 10 * row + 5 else 9}" for index in range(40)]
        found.append(_written(table.set_column(6, "note", pa.array(notes))))
    assert len({len(content) for content in found}) == 1
    return found


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, sink, row_group_size=10, **plain)
    return bytes(sink.getvalue())
