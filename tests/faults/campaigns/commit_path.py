"""Every system call of the commit path is broken once, in each way that it can break."""

import contextlib
import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns.disks import Calls, DeathError, clone, failing, losing_power
from campaigns.processes import start
from campaigns.result import Result
from runner.config import Job
from runner.errors import FreerunError
from runner.lock import LOCK_FILE
from runner.report import REPORT_FILE, SUCCESS_FILE, Report
from runner.run import run_job
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.verify_output import verify_output

MAY_DIFFER = {"run_id", "started_at", "finished_at", "seconds", "windows_per_second", "already_done", "decoding", "out"}
ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR)
Contents = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Case:
    """A job, the state of the output that it starts from, and what an undisturbed run makes.

    Attributes:
        first: the output before; None = there is none.
        expected: the files that are left in the end, but for the report.
        findings: the report, but for what may differ.
        only: the partition that the job is limited to.
    """

    bundle: Path
    data: Path
    first: Path | None
    expected: Contents
    findings: dict[str, Any]
    only: tuple[str, ...] = ()

    def run(self, out: Path) -> Report | FreerunError:
        """Score into `out`; an error of ours is returned like a report."""
        try:
            return run_job(Job(self.bundle, str(self.data), out, only=self.only), Stop(), lambda *_: None)
        except FreerunError as error:
            return error

    def fresh(self, out: Path) -> Path:
        if self.first:
            clone(self.first, out)
        return out


def make_case(bundle: Path, data: Path, first: Path | None, folder: Path, only: tuple[str, ...] = ()) -> Case:
    """Run the job undisturbed, and keep what it makes."""
    blank = Case(bundle, data, first, {}, {}, only)
    report = blank.run(blank.fresh(folder))
    assert isinstance(report, Report), report
    return Case(bundle, data, first, left(folder), findings(report), only)


def left(out: Path) -> Contents:
    """Return all files of a folder but those that tell of one run: relative path -> bytes."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in {REPORT_FILE, LOCK_FILE}]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def findings(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.model_dump().items() if key not in MAY_DIFFER}


def visible_problems(case: Case, out: Path) -> Iterator[str]:
    """Yield what a reader of the folder must never see, at whatever moment."""
    parts, whole, before = (
        parts_of(left(out)),
        parts_of(case.expected),
        parts_of(left(case.first)) if case.first else {},
    )
    for name, content in parts.items():
        if content not in (whole.get(name), before.get(name)):
            yield f"torn: {name} of {len(content)} bytes"
    if (out / SUCCESS_FILE).exists() and parts not in (whole, before):
        yield "_SUCCESS before all parts were there"
    for marker in out.rglob(f"*/{SUCCESS_FILE}"):
        names = [name for name in whole.keys() | before.keys() if marker.parent in (out / name).parents]
        if not any(all(parts.get(name) == state.get(name) for name in names) for state in (whole, before)):
            yield f"{marker.relative_to(out)} before all of its parts were there"


def parts_of(files: Contents) -> Contents:
    return {name: content for name, content in files.items() if name.endswith(".parquet")}


def resumed_problems(case: Case, out: Path) -> Iterator[str]:
    """Run the same command again; yield where the outcome is not an undisturbed run's."""
    settled = left(out) == case.expected
    if settled and (report_file := out.joinpath(*case.only, REPORT_FILE)).exists():
        told = Report.model_validate_json(report_file.read_bytes())
        if told.exit_code == 0 and findings(told) != case.findings:
            yield "nothing was left to do, but the report did not tell the whole truth"
    report = case.run(out)
    if not isinstance(report, Report):
        yield f"the same command failed: {report}"
    elif left(out) != case.expected:
        names = {
            name for name in left(out).keys() | case.expected.keys() if left(out).get(name) != case.expected.get(name)
        }
        yield f"the same command left other files: {sorted(names)}"
    elif not settled and findings(report) != case.findings:
        yield "the same command told something else"
    found = verify_output(OutputFolder(out), Stop())
    yield from (f"verify-output: {problem}" for problem in found.problems)


def refused_problems(ended: Report | FreerunError | None, out: Path, error: OSError) -> Iterator[str]:
    """Yield where a refused call was not told as it should be, or left something behind."""
    if isinstance(ended, Report) and ended.exit_code == 0:
        return  # a file that could not be taken away is tried again by the next run
    code = ended.exit_code if ended else None
    text = str(ended.error if isinstance(ended, Report) else ended)
    if code != 14 or os.strerror(error.errno or 0) not in text or str(out) not in text:
        yield f"told as {code}: {text}"


def break_every_call(
    case: Case, folder: Path, breaking: Callable[[int, Path], Any], check: Callable[..., Iterator[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Break the first call, then the second, and so on until none is left; yield the call and what was wrong."""
    for number in itertools.count(1):
        out, ended = case.fresh(folder / str(number)), None
        with breaking(number, out) as state, contextlib.suppress(DeathError):
            ended = case.run(out)
        calls: Calls = state[0] if isinstance(state, tuple) else state
        if len(calls.made) < number:
            return
        yield calls.made[number - 1], list(check(number, ended, out, state))


def disk_errors(case: Case, folder: Path, errnos: tuple[int, ...] = ERRNOS) -> Result:
    """Let the n-th call fail, for every n, with each of the errors in turn (with all of them, at length)."""

    def check(number: int, ended: Report | FreerunError | None, out: Path, _: object) -> Iterator[str]:
        yield from refused_problems(ended, out, OSError(errnos[number % len(errnos)], ""))
        yield from visible_problems(case, out)
        yield from resumed_problems(case, out)

    def breaking(number: int, _out: Path) -> Any:
        code = errnos[number % len(errnos)]
        return failing(number, OSError(code, os.strerror(code)))

    what = f"the n-th call fails, for every n, with {' '.join(errno.errorcode[code] for code in errnos)}"
    return _result("F4", what, break_every_call(case, folder, breaking, check))


def deaths(case: Case, folder: Path) -> Result:
    """Let the process die at its n-th call, for every n."""

    def check(_number: int, _ended: object, out: Path, _state: object) -> Iterator[str]:
        yield from visible_problems(case, out)
        yield from resumed_problems(case, out)

    calls = break_every_call(case, folder, lambda number, _: failing(number, DeathError()), check)
    return _result("F1", "the process dies at its n-th call, for every n", calls)


def sigkills(case: Case, folder: Path) -> Result:
    """Kill a process of its own by SIGKILL at its n-th call, for every n."""

    def tries() -> Iterator[tuple[str, list[str]]]:
        for number in itertools.count(1):
            out, log = case.fresh(folder / str(number)), folder / f"{number}.log"
            ended = start(lambda: _die_at(case, out, number), log).wait()  # noqa: B023  (waited for at once)
            if ended.code == 0:
                return
            problems = [] if ended.code == -signal.SIGKILL else [f"ended with {ended.code}: {ended.text}"]
            yield f"call {number}", [*problems, *visible_problems(case, out), *resumed_problems(case, out)]

    return _result("F1", "SIGKILL at the n-th call, for every n", tries())


def _die_at(case: Case, out: Path, number: int) -> int:
    with failing(number, DeathError(), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        ended = case.run(out)
    return 0 if isinstance(ended, Report) and ended.exit_code == 0 else 1


def power_losses(case: Case, folder: Path, *, names_survive: bool) -> Result:
    """Let the power go at the n-th call, for every n; then only what was synced is there."""

    def check(_number: int, _ended: object, out: Path, state: Any) -> Iterator[str]:
        found = state[1].after_loss(out, out.with_name(f"{out.name}-found"), names_survive=names_survive)
        yield from visible_problems(case, found)
        yield from resumed_problems(case, found)

    which = "unsynced names survive, unsynced contents do not" if names_survive else "nothing unsynced survives"
    return _result(
        "F2",
        f"the power goes at the n-th call, for every n; {which}",
        break_every_call(case, folder, losing_power, check),
    )


def flips(part: Path, first: int = 0, stride: int = 1) -> Result:
    """Flip a bit of every byte of a part (of each `stride`-th from `first` on); `verify-output` has to see each."""
    out, whole = OutputFolder(part.parent), part.read_bytes()

    def tries() -> Iterator[tuple[str, list[str]]]:
        for position in range(first, len(whole), stride):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            part.write_bytes(damaged)
            found = verify_output(out, Stop()).problems
            yield f"byte {position}", [] if any(part.name in line for line in found) else ["not seen"]
        part.write_bytes(whole)

    which = "every byte" if stride == 1 else f"each {stride}-th byte"
    return _result("F6", f"a bit of {which} of a part of {len(whole):,} bytes is flipped", tries())


def _result(fault: str, what: str, tries: Iterator[tuple[str, list[str]]]) -> Result:
    started, tried, torn, failures = time.perf_counter(), 0, 0, []
    for call, problems in tries:
        tried += 1
        torn += sum(problem.startswith("torn") for problem in problems)
        failures += [f"{fault} try {tried} ({call}): {'; '.join(problems)}"] if problems else []
    return Result(
        fault, what, 0, tried, tried - len(failures), torn=torn, failures=tuple(failures),
        seconds=time.perf_counter() - started,
    )  # fmt: skip
