"""Runs in processes of their own, forked from one that has imported everything: quick to start, and good to kill."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds after which a process that was to end by itself counts as hanging."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, or minus the signal; the last of its output; its peak; how long it took."""

    code: int
    text: str
    peak_mib: float
    seconds: float


@dataclass(slots=True)
class Running:
    """A process that was started here; whatever happens, it has to be waited for."""

    pid: int
    log: Path
    started: float

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def poll(self) -> Ended | None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        seconds = time.perf_counter() - self.started
        text = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        return Ended(os.waitstatus_to_exitcode(status), text, usage.ru_maxrss / 1024, seconds)

    def wait(self, patience: float = PATIENCE) -> Ended:
        """Wait for the end; a process that does not come to one is killed, and reported as ended by SIGKILL."""
        while time.perf_counter() - self.started < patience:
            if ended := self.poll():
                return ended
            time.sleep(0.002)
        self.send(signal.SIGKILL)
        while not (ended := self.poll()):
            time.sleep(0.002)
        return Ended(ended.code, f"hung for {patience} s\n{ended.text}", ended.peak_mib, ended.seconds)


def start(work: Callable[[], int | None], log: Path) -> Running:
    """Fork a process that does `work` and exits with what it returns; its output goes to `log`."""
    started = time.perf_counter()
    pid = os.fork()
    if pid:
        return Running(pid, log, started)
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
        code = work() or 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  (whatever it is, it must not come back as the parent's)
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def freerun(*args: object) -> Callable[[], int]:
    """Return what runs the `freerun` command, signal handlers and all, in this process."""

    def work() -> int:
        from runner.cli import main  # noqa: PLC0415

        sys.argv = ["freerun", *map(str, args)]
        main()
        return 0

    return work


def side_by_side(shares: list[Callable[[], Any]]) -> Iterator[Any]:
    """Do several shares of a campaign at once, each in a process; yield what they return, in order.

    Raises:
        RuntimeError: a share died; its output is in the message.
    """
    import pickle  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="freerun-shares-") as folder:
        running = []
        for index, share in enumerate(shares):
            answer = Path(folder) / f"{index}.pickle"

            def work(share: Callable[[], Any] = share, answer: Path = answer) -> None:
                answer.write_bytes(pickle.dumps(share()))

            running.append((start(work, Path(folder) / f"{index}.log"), answer))
        ended = [one.wait(float("inf")) for one, _ in running]
        for one, (_, answer) in zip(ended, running, strict=True):
            if one.code or not answer.exists():
                raise RuntimeError(f"a share of the campaign ended with {one.code}: {one.text}")
            yield pickle.loads(answer.read_bytes())  # noqa: S301  (written a moment ago, by ourselves)
