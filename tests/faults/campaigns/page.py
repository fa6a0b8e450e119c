"""docs/reliability.md, written from what the campaigns found."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

from campaigns.result import Result

MOST_TOLD = 20
"""Failures of one campaign."""
HEAD = """# Reliability

What freerun promises under faults, and what came of breaking it on purpose. `make faults` wrote this page in
{minutes:.0f} minutes ({machine}).
The same campaigns run for a short while in `make test`, where each fault has its tests: `tests/faults/test_fNN_*.py`.

{verdict}

| fault | what was done | tried | survived | rows lost | rows doubled | torn files seen | peak MiB | p99 to exit |
|---|---|---|---|---|---|---|---|---|
"""

NOTES = """
- *Survived*: every promise held: an exit code of the contract with its message, no traceback, no crash, no hang; only
  whole files to be seen, at any moment; the same command then leaves, byte for byte, what an undisturbed run leaves,
  and the report tells the same.
- *Torn files*: as found by a reader that looks all the while (pyarrow, every fifth time duckdb), and in what was left.
- *Peak*: the largest resident set of any process of the campaign, imports included (about 150 MiB).
- *The naive writers* (in italics) are there to show that the harness bites: `ParquetWriter` writes into the file's own
  name, `write_dataset` appends files with new names, as most nightly jobs do at first.
"""


def page(results: list[Result], naive: list[Result], seconds: float) -> str:
    """Write the page: ours first, and then the naive writers for comparison."""
    lost = sum(len(one.failures) for one in results)
    tried = sum(one.tried for one in results)
    verdict = (
        f"**{tried:,} faults, all survived.** 0 rows lost, 0 rows doubled, 0 torn files seen."
        if not lost
        else f"**{tried:,} faults, {lost} not survived**; see below."
    )
    head = HEAD.format(minutes=seconds / 60, machine=_machine(), verdict=verdict)
    rows = [_row(one, "") for one in results] + [_row(one, "*") for one in naive]
    return head + "\n".join(rows) + "\n" + NOTES + _seeds(results) + _failures(results)


def _row(one: Result, mark: str) -> str:
    cells = [
        one.fault, one.what, f"{one.tried:,}", f"{one.survived:,}", f"{one.rows_lost:,}", f"{one.rows_doubled:,}",
        f"{one.torn:,}", "" if one.peak_mib is None else f"{one.peak_mib:.0f}",
        "" if one.exit_p99 is None else f"{one.exit_p99:.2f} s",
    ]  # fmt: skip
    return "| " + " | ".join(f"{mark}{cell}{mark}" if cell else "" for cell in cells) + " |"


def _seeds(results: Iterable[Result]) -> str:
    seeds = ", ".join(sorted({str(one.seed) for one in results if one.seed}))
    return f"\nSeed: {seeds}. `make faults SEED={seeds}` draws the same faults again.\n"


def _failures(results: Iterable[Result]) -> str:
    lines = [f"- {one.fault}, {one.what}: {line}" for one in results for line in one.failures[:MOST_TOLD]]
    return "\n## Not survived\n\n" + "\n".join(lines) + "\n" if lines else ""


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "pyarrow", "numpy"))
    return f"{platform.system()}, {platform.machine()}, Python {platform.python_version()}, {packages}"
