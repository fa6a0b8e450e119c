"""Where graphs run, and how many processors and threads this process may really use."""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.errors import UsageError, explain, ran_out

THREADS_OF_LIBRARIES = 8
"""What onnxruntime, pyarrow and their allocators were seen to start by themselves, and some to spare."""


@dataclass(frozen=True, slots=True)
class Device:
    """`cpu`, or one CUDA device by its index."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"


def parse_device(text: str) -> Device:
    """Read `cpu`, `cuda` or `cuda:n`.

    Raises:
        UsageError: any other text.
    """
    if text == "cpu":
        return Device("cpu")
    found = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", text)
    if not found:
        raise UsageError(explain("--device is not a device", got=text, expected="cpu, cuda or cuda:n"))
    return Device("cuda", int(found[1] or 0))


def cpu_count() -> int:
    """Count the processors that affinity and the cgroup's quota leave to this process (at least 1)."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def require_threads(count: int = THREADS_OF_LIBRARIES) -> None:
    """Start so many threads for a moment: where theirs do not start, libraries hang or crash, so ask before they do.

    Raises:
        ResourcesError: they did not all start.
    """
    leave = threading.Event()
    try:
        for _ in range(count):
            threading.Thread(target=leave.wait, daemon=True).start()
    except RuntimeError as error:
        raise ran_out("threads", error) from error
    finally:
        leave.set()


def _cgroup_quota() -> float | None:
    """Return the processors that the cgroup grants, version 2 or 1; None where it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        return None if limit_us <= 0 else limit_us / int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
