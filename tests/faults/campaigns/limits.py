"""Runs that are given too little memory, too few threads or too few file descriptors (F20)."""

import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from campaigns.result import Result
from campaigns.signals import Task, make_light

HANG_SECONDS = 60
MEBIBYTE = 1 << 20
RANGES = {"address space": (64 * MEBIBYTE, 1400 * MEBIBYTE), "threads": (1, 14), "file descriptors": (5, 16)}
"""Where a limit begins to hurt. With fewer than five descriptors the interpreter itself does not start, and with less
than 64 MiB nothing of ours can be imported that would tell."""
NUMBERS = {
    "address space": resource.RLIMIT_AS,
    "threads": resource.RLIMIT_NPROC,
    "file descriptors": resource.RLIMIT_NOFILE,
}
USERS = itertools.count()
"""A limit of threads counts all that belong to a user: every run takes another one."""
NATIVE = (-4, -6, -7, -11, 127, 134, 139)
"""How a process ends when native code aborts, or when the dynamic loader gives up: no way to end in words is left."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a run is denied."""

    kind: str
    value: int

    def __str__(self) -> str:
        return f"{self.value // MEBIBYTE} MiB of {self.kind}" if self.value > MEBIBYTE else f"{self.value} {self.kind}"

    def run(self, task: Task, out: Path) -> tuple[int | None, str]:
        """Run the task under it; return the exit code, None for a hang, and what was said."""
        words = ["score", task.folder / "bundle", task.folder / "in", "--out", out, "--quiet"]
        command = [*self._as_another_user(), sys.executable, "-c", "from runner.cli import main; main()", *words]
        out.mkdir(mode=0o777)
        out.chmod(0o777)
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(resource.setrlimit, NUMBERS[self.kind], (self.value, self.value)),  # noqa: PLW1509
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            said, _ = process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None, "it hangs"
        return process.returncode, said.decode(errors="replace")

    def _as_another_user(self) -> list[str]:
        """Return what takes a user of its own, who may read what we may: root has no limit of threads."""
        if self.kind != "threads":
            return []
        may_read = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
        nobody_else = 61_000 + (7 * os.getpid() + next(USERS)) % 4_000
        return ["setpriv", "--reuid", str(nobody_else), "--clear-groups", *may_read]

    def broken(self, task: Task, out: Path) -> str | None:
        """Run the task under it, and again without; return which promise was broken."""
        code, said = self.run(task, out)
        crashed = self.kind == "address space" and code in NATIVE
        if code not in {0, 14} and not crashed:
            return f"ended with {code}: {said[-500:]}"
        if "Traceback" in said or (code == 14 and "ran out" not in said):
            return f"ended with {code} and these words: {said[-500:]}"
        whole = task.parts(task.folder / "whole")
        if any(whole[name] != content for name, content in task.parts(out).items()):
            return "a part is not whole"
        return task.finish(out)


def threads_can_be_denied() -> bool:
    """Tell whether a limit of threads can be tried: by root, who can take another user for it."""
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


def run(count: int, seed: int, folder: Path) -> Result:
    """Deny so many runs something; each must say so, and be finished by the same command without the limit."""
    draw, started = random.Random(seed), time.monotonic()
    task = make_light(folder / "light")
    kinds = [kind for kind in RANGES if kind != "threads" or threads_can_be_denied()]
    limits = [Limit(kind, draw.randint(*RANGES[kind])) for kind in draw.choices(kinds, k=count)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda entry: entry[1].broken(task, folder / f"out-{entry[0]}"), enumerate(limits)))
    failures = tuple(f"seed {seed}: {limit}: {why}" for limit, why in zip(limits, found, strict=True) if why)
    return Result(
        fault="F20",
        what="too little address space, too few threads or file descriptors",
        seed=seed,
        tried=count,
        survived=count - len(failures),
        failures=failures,
        seconds=time.monotonic() - started,
    )
