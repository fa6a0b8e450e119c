"""One execution of a scoring job: plan, units, gates, report."""

import contextlib
import json
import posixpath
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.bundle import AuditedBundle, Bundle, audit_bundle
from runner.clock import Clock
from runner.config import Job
from runner.dataset import Dataset, open_dataset
from runner.device import Device
from runner.errors import (
    ExitCode,
    InputError,
    OutputError,
    explain,
    listing,
)
from runner.parts import Part
from runner.plan import LEDGER_FILE, Plan, make_plan, remember
from runner.report import (
    REPORT_FILE,
    SUCCESS_FILE,
    Report,
    Seconds,
    judge,
    mask_warning,
    rows_of,
    summarize,
    versions,
    write_report,
)
from runner.stop import Stop
from runner.storage import OutputFolder

if TYPE_CHECKING:
    from runner.feed import Feed
    from runner.forecaster import Decoding

UNFINISHED_FILE = "_unfinished.json"
"""The parts that a run set out to make; it is there from before the first part until the run has been judged."""
ROUNDS = 3
NOTHING_PLANNED = Plan({}, (), (), {}, (), (), ())

Progress = Callable[[int, int], None]
"""Told the rows that were just finished, and the rows to do in all."""


@dataclass(slots=True)
class Run:
    """The state of one execution."""

    job: Job
    device: Device
    bundle: Bundle
    out: OutputFolder
    stop: Stop
    progress: Progress
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    started: float = field(default_factory=time.perf_counter)
    clock: Clock = field(default_factory=Clock)
    plan: Plan = NOTHING_PLANNED
    already_done: int | None = None
    made: dict[str, Part] = field(default_factory=dict)
    inherited: frozenset[str] = frozenset()
    failures: list[str] = field(default_factory=list)
    decoding: "Decoding | None" = None
    pen: threading.Lock = field(default_factory=threading.Lock)
    """Held by who writes the report."""
    audited: AuditedBundle | None = None

    def execute(self) -> Report:
        """Bring the output up to date with the input, judge what was done, and report it."""
        dataset = open_dataset(self.job.input, allow_missing=self.job.allow_empty, within=self.out.within)
        self.inherited = _unfinished(self.out)
        for _ in range(ROUNDS):
            self.plan = make_plan(dataset, self.out, self.bundle.manifest.bundle_id, self.job, self.stop)
            self.already_done = len(self.plan.done) if self.already_done is None else self.already_done
            if self.job.dry_run:
                return self.report("dry-run", ExitCode.OK)
            if not self.plan.todo or not self._score(dataset):
                break
        else:
            raise InputError(
                explain("the input keeps being replaced while it is read", remedy="score it when it is at rest")
            )
        return self._finish()

    def _score(self, dataset: Dataset) -> bool:
        """Score what is to do; return whether an input was replaced meanwhile, so that it has to be planned anew."""
        from runner.forecaster import open_forecaster  # a night with nothing to do needs none of these
        from runner.pipeline import Pipeline, ReplacedError
        from runner.tune import settle

        todo = self.plan.todo
        self.audited = self.audited or audit_bundle(self.bundle, self.job.precision)  # before it is told what is read
        feed = self._feed(dataset)
        total, replaced = sum(unit.rows for unit in todo), False
        self.failures.clear()
        how = settle(self.job, self.audited, self.device, total, self.stop)
        with open_forecaster(self.audited, how, self.stop) as forecaster:
            self.decoding = how
            self._begin()
            pipeline = Pipeline(
                job=self.job,
                dataset=dataset,
                sources=self.plan.sources,
                feed=feed,
                out=self.out,
                forecaster=forecaster,
                stop=self.stop,
                clock=self.clock,
                progress=lambda rows: self.progress(rows, total),
                made=self.made,
            )
            for error in pipeline.score_units(todo):
                replaced |= isinstance(error, ReplacedError)
                self.failures += [] if isinstance(error, ReplacedError) else [str(error)]
        return replaced

    def _feed(self, dataset: Dataset) -> "Feed":
        """Look at the columns of all files that will be read, before the first row."""
        paths = {unit.path for unit in self.plan.todo}
        given = dataset, paths, self.bundle.manifest, self.job, self.clock, self.stop
        if self.job.layout == "long":
            from runner.long.feed import long_feed

            return long_feed(*given, self.out)
        from runner.feed import window_feed

        return window_feed(*given)

    def _begin(self) -> None:
        """Leave word of what is about to be done, and take back what will no longer be true."""
        folders = {posixpath.dirname(unit.part_path) for unit in self.plan.todo}
        files = REPORT_FILE, LEDGER_FILE, UNFINISHED_FILE, SUCCESS_FILE
        self.out.require_writable(folders, map(self.out.own, files))
        self.out.reclaim()
        remember(self.out, self.plan.sources)  # so that a run that is killed need not hash the input again
        self.inherited |= {unit.part_path for unit in self.plan.todo}
        self.out.write(self.out.own(UNFINISHED_FILE), json.dumps({"parts": sorted(self.inherited)}).encode())
        self.retract()
        self._take_over()
        for name in self.plan.stale:
            self.out.remove(name)

    def retract(self) -> None:
        """Take back the word that all is done: for the partition, and for what holds it."""
        for folder in (*self.out.above(), self.out.within):
            self.out.remove(str(folder / SUCCESS_FILE))

    def _take_over(self) -> None:
        """Take back what runs of partitions said of those in which something is about to change."""
        changing = [*self.plan.stale, *(unit.part_path for unit in self.plan.todo)]
        touched = {folder for name in changing for folder in PurePosixPath(name).parents}
        for name in self.out.below(SUCCESS_FILE, REPORT_FILE, UNFINISHED_FILE):
            if PurePosixPath(name).parent in touched:
                self.out.remove(name)

    def _finish(self) -> Report:
        self.out.reclaim()
        if self.job.orphans == "prune":
            for name in self.plan.orphans:
                self.out.remove(name)
        remember(self.out, self.plan.sources)
        self.out.settle([name for name in self.inherited if name in self.plan.done])
        if self.failures:
            error = f"{len(self.failures)} units could not be scored; all others were:" + listing(self.failures)
            return self._settle(self.report("failed", ExitCode.INPUT, error))
        report = self.report("done", ExitCode.OK)
        code, complaint = judge(report.this_run, self.job.max_reject_rate, self.job.max_masked_mse)
        report = self._settle(report.model_copy(update={"exit_code": int(code), "error": complaint}))
        if code == ExitCode.OK and self.out.read(self.out.own(SUCCESS_FILE)) is None:
            self.out.write(self.out.own(SUCCESS_FILE), b"")
        with contextlib.suppress(OutputError):  # all is done; at worst the next run answers for this one too
            for name in (*self.out.below(UNFINISHED_FILE), self.out.own(UNFINISHED_FILE)):
                self.out.remove(name)
        return report

    def _settle(self, report: Report) -> Report:
        with self.pen:
            write_report(self.out, report)
        return report

    def report(self, status: str, code: int, error: str | None = None) -> Report:
        """Describe the run as it stands now."""
        parts = {**self.plan.done, **self.made}
        mine = [parts[unit.part_path] for unit in self.plan.units if unit.part_path in parts]
        this_run = [part for part in mine if part.unit.part_path in self.inherited]
        wall = time.perf_counter() - self.started
        spent = {stage: round(seconds, 3) for stage, seconds in self.clock.spent.items()}
        rows = rows_of(self.made.values()).read
        targets = [target.name for target in self.bundle.manifest.targets]
        return Report.model_validate(
            {
                "run_id": self.run_id,
                "status": status,
                "exit_code": int(code),
                "error": error,
                "warnings": self._warnings(this_run),
                "bundle_id": self.bundle.manifest.bundle_id,
                "input": self.job.input,
                "out": str(self.job.out),
                "mode": self.job.mode,
                "device": str(self.device),
                "precision": self.job.precision,
                "decoding": self._decoding(),
                "options": self.job.options(),
                "versions": versions(),
                "started_at": self.started_at,
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": Seconds(**spent, wall=round(wall, 3)),
                "windows_per_second": round(rows / wall, 1) if rows else None,
                "already_done": self.already_done or 0,
                "to_do": sum(unit.part_path not in parts for unit in self.plan.units),
                "history": len(self.plan.history),
                "orphans": len(self.plan.orphans),
                "this_run": summarize(this_run, targets),
                "total": summarize(mine, targets),
            }
        )

    def _decoding(self) -> dict[str, int | str] | None:
        """Say how was decoded; nothing where nothing was."""
        if self.decoding is None:
            return None
        fused = "fused" in self.bundle.graphs(self.job.precision) and self.device.kind == "cpu"
        loop = "fused" if fused else "step by step"
        return {"loop": loop, "batch_size": self.decoding.batch_size, "workers": self.decoding.workers}

    def _warnings(self, this_run: list[Part]) -> tuple[str, ...]:
        unscored = any(part.scored for part in this_run) and not any(part.score for part in this_run)
        casts = sorted({column for part in this_run for column in part.casts})
        found = mask_warning(this_run, self.bundle.manifest)
        if unscored and self.job.max_masked_mse is not None:
            found.append(
                "--max-masked-mse had nothing to look at: no row has a target (--column target=NAME names one)"
            )
        found += [f"cast to float32: {', '.join(casts)}"] if casts else []
        orphans, kept = len(self.plan.orphans), self.job.orphans
        found += [f"{orphans} parts have no input any more ({kept}; see --orphans)"] if orphans else []
        return tuple(found)


def _unfinished(out: OutputFolder) -> frozenset[str]:
    """Return the parts that earlier runs, here or of a partition below, set out to make and were not judged for."""
    names = (out.own(UNFINISHED_FILE), *out.below(UNFINISHED_FILE))
    return frozenset().union(*(_told_in(out, name) for name in names))


def _told_in(out: OutputFolder, name: str) -> frozenset[str]:
    try:
        return frozenset(map(str, json.loads(out.read(name) or b"{}").get("parts", [])))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return frozenset()
