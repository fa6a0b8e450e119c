"""A scoring job from the lock to the report: refused before anything is touched, or reported however it ends."""

import contextlib
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from runner.bundle import open_bundle
from runner.config import Job
from runner.dataset import local_path
from runner.device import parse_device
from runner.errors import (
    BundleError,
    ExitCode,
    FreerunError,
    InterruptedRunError,
    OutputError,
    UsageError,
    explain,
    told,
)
from runner.execution import Progress, Run
from runner.freq import parse_freq
from runner.lock import LOCK_FILE, locked
from runner.manifest import Manifest
from runner.report import Report, write_report
from runner.stop import Stop
from runner.storage import OutputFolder


def run_job(job: Job, stop: Stop, progress: Progress) -> Report:
    """Score what is new or changed, and return the report (which is in the output folder too).

    Returns:
        The report, also of a run that failed or was interrupted: look at `exit_code`. It is in the output folder too.

    Raises:
        UsageError: the options do not fit each other, or what is in the output folder.
        BundleError: the bundle was refused.
        BusyError: another run holds the lock. In all three cases nothing was touched, so there is no report.
    """
    device = parse_device(job.device)
    bundle = open_bundle(job.bundle, job.expect_bundle_id)
    bundle.manifest.form(job.precision)  # refused here, before anything is touched
    _refuse_uri(job.out)
    _refuse_nesting(job)
    _refuse_contradictions(job, bundle.manifest)
    if job.layout == "long":  # whoever says it, it is the same option
        job = replace(job, freq=str(parse_freq(job.freq or bundle.manifest.freq or "")))
    run = Run(job, device, bundle, OutputFolder(job.out, within=job.partition), stop, progress)
    if job.dry_run:
        return run.execute()
    fresh = not run.out.home.exists()
    run.out.prepare()
    with locked(run.out):
        stop.last_words = partial(_last_words, run)
        try:
            return run.execute()
        except Exception as error:
            refusal = told(error)
            if isinstance(refusal, UsageError | BundleError):
                if fresh:
                    run.out.discard(LOCK_FILE)
                raise
            report = _report_failure(run, refusal or error)
            if refusal is None:
                raise
            return report
        finally:
            stop.last_words = None


def _report_failure(run: Run, error: Exception) -> Report:
    report = _failure(run, error)
    with run.pen:
        _leave(run, report)
    return report


def _last_words(run: Run, reason: FreerunError) -> None:
    """Report a run whose own threads hang; should they wake up meanwhile, they find no pen to write another with."""
    run.pen.acquire()
    _leave(run, _failure(run, reason))


def _failure(run: Run, error: Exception) -> Report:
    code = error.exit_code if isinstance(error, FreerunError) else ExitCode.BUG
    status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
    return run.report(status, code, str(error))


def _leave(run: Run, report: Report) -> None:
    with contextlib.suppress(OutputError):  # the disk that is full has been told already
        run.retract()
        write_report(run.out, report)


def _refuse_uri(out: Path) -> None:
    if out.parts and out.parts[0].endswith(":"):  # what a path keeps of s3://bucket, and would make a folder of
        got = f"{out.parts[0]}//{'/'.join(out.parts[1:])}"
        raise UsageError(explain("--out is no local folder", got=got, remedy="give a local folder, and copy it later"))


def _refuse_contradictions(job: Job, manifest: Manifest) -> None:
    """Refuse options that mean nothing together, or nothing to this bundle."""
    if job.fallback == "seasonal" and manifest.season_length is None:
        remedy = "--fallback last, or export with season_length"
        raise UsageError(explain("--fallback seasonal does not know how long a season is", remedy=remedy))
    given = {
        "--window rolling": job.window == "rolling",
        "--stride": job.stride != 1,
        "--from": job.origin_from is not None,
        "--to": job.origin_to is not None,
        "--freq": job.freq is not None,
        "--output-layout": job.output_layout is not None,
        "--sort": job.sort,
    }
    idle = [flag for flag, is_given in given.items() if is_given]
    if job.layout == "windows" and idle:
        raise UsageError(explain(f"{', '.join(idle)} of windows that are cut already", remedy="--layout long"))
    if job.layout == "long":
        _refuse_long(job, manifest)


def _refuse_long(job: Job, manifest: Manifest) -> None:
    """Refuse what the long layout has no room for."""
    rolling = [flag for flag, value in (("--from", job.origin_from), ("--to", job.origin_to)) if value is not None]
    rolling += ["--stride"] if job.stride != 1 else []
    if job.window == "latest" and rolling:
        raise UsageError(explain(f"{', '.join(rolling)} of one window a series", remedy="--window rolling"))
    if job.mode == "teacher-forced" and job.window == "latest":
        what = "teacher-forced needs what came true, and the latest window has none"
        raise UsageError(explain(what, remedy="--window rolling"))
    if manifest.target_width > 1:
        got = ", ".join(target.name for target in manifest.targets)
        remedy = "--layout windows"
        raise UsageError(explain("the long layout has one target", got=got, remedy=remedy))
    if job.sort and find_spec("duckdb") is None:
        remedy = "pip install 'freerun[sort]', or write files sorted by series and time"
        raise UsageError(explain("--sort needs duckdb", got="none is installed", remedy=remedy))
    if job.freq is None and manifest.freq is None:
        remedy = "--freq h, say (s, min, h, D, W, MS, ME, QS, QE, YS, YE, or 1 where ds is an integer)"
        raise UsageError(explain("nobody says how long a time step is", remedy=remedy))


def _refuse_nesting(job: Job) -> None:
    source, out = local_path(job.input), job.out.resolve()
    if source is None:
        return
    if source == out or source in out.parents or out in source.parents:
        what = "input and --out lie in one another, so parts would be read as input"
        raise UsageError(explain(what, got=f"{source} and {out}", remedy="give --out a folder of its own"))
