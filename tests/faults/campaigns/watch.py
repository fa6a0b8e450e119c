"""See from within a process what it opens, and how much memory it took."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IN_OPEN, IN_NONBLOCK = 0x20, 0x800
"""Of Linux's inotify."""
STATUS = "/proc/self/status"
"""What `peak_mib` reads."""


def watch_opens(bundle: Path) -> list[str]:
    """Keep a list of the files outside the bundle that Python opens from now on."""
    opened: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.fsdecode(arguments[0])
            if not path.startswith(str(bundle)) and path != STATUS:
                opened.append(path)

    sys.addaudithook(hook)
    return opened


def watch_folder(folder: Path) -> Callable[[], bool]:
    """Return what tells whether a file in the folder was opened since it was last asked, by whatever code."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(IN_NONBLOCK)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify")

    def touched() -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(watch, 4096))
        return False

    return touched


def peak_mib() -> float:
    """Return the largest resident set of this process; getrusage would count whoever started it too."""
    (peak,) = (line.split()[1] for line in Path(STATUS).read_text().splitlines() if line[:6] == "VmHWM:")
    return int(peak) / 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """How a command ended: its exit code, its messages, and the largest resident set since it began."""

    code: int
    messages: str
    peak_mib: float


def run_measured(*words: object) -> Measured:
    """Run `freerun` in a process of its own, and see how much memory it took."""
    script = """if True:
        import os, sys
        from runner.cli import main
        leave = os._exit
        def told(code):
            print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
            sys.stderr.flush()
            leave(code)
        os._exit = told
        main()
    """
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    messages, _, peak = done.stderr.rstrip("\n").rpartition("\n")
    return Measured(done.returncode, messages, int(peak) / 1024)
