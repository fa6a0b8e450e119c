"""What a scoring job was asked to do."""

from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from runner.digests import digest
from runner.partition import partition_of
from runner.precision import Precision

Mode = Literal["free-running", "teacher-forced"]
Rescore = Literal["changed", "none", "all"]
Orphans = Literal["keep", "refuse", "prune"]

ROLES = ("past", "past_observed", "future_known", "target", "mask", "observed", "decoder_input", "static")
"""The columns that freerun understands; a role's column has the role's name unless `--column` says otherwise."""
LATER_ROLES = frozenset({"static"})
"""Those that came after parts had been made: among a part's options only where they are mapped, so those stay true."""
EXPLAINING_ROLES = ("series", "optimal")
"""What an explanation looks at beside them; series: which one a window is cut from, of any type; optimal: the best
forecast that the context allows [H]."""


@dataclass(frozen=True, slots=True)
class Job:
    """One call of `freerun score`.

    Attributes:
        bundle: the bundle's folder.
        input: path or URI of a Parquet file or a folder of them.
        out: the output folder.
        only: KEY=VALUE of the hive folders, outermost first, of the one partition to score; none = all of the input.
        columns: role -> column name, only where they differ.
        precision: which of the bundle's forms to run.
        batch_size: windows in one call of a graph, workers: threads that decode; neither changes a number. None leaves
            them to a measurement, or to the number of processors.
        max_reject_rate: share of rejects above which the run ends with exit 10.
        max_masked_mse: score above which the run ends with exit 15.
        timeout: seconds after which the run ends as SIGTERM would end it.
        max_memory: megabytes of resident memory above which the run ends with exit 14.
    """

    bundle: Path
    input: str
    out: Path
    mode: Mode = "free-running"
    device: str = "cpu"
    precision: Precision = "fp32"
    columns: dict[str, str] = field(default_factory=dict)
    batch_size: int | None = None
    workers: int | None = None
    max_reject_rate: float = 0.01
    max_masked_mse: float | None = None
    only: tuple[str, ...] = ()
    rescore: Rescore = "changed"
    orphans: Orphans = "keep"
    recheck: bool = False
    rows_per_part: int = 1_000_000
    expect_bundle_id: str | None = None
    allow_empty: bool = False
    timeout: float | None = None
    max_memory: int | None = None
    dry_run: bool = False

    @property
    def partition(self) -> PurePosixPath:
        """The folder, relative to input and output, that the run is limited to.

        Raises:
            UsageError: `only` names no such folder.
        """
        return partition_of(self.only)

    def column(self, role: str) -> str:
        return self.columns.get(role, role)

    def numbers(self) -> dict[str, Any]:
        """Return the options that can change a prediction or a score: parts made under others are history."""
        roles = [role for role in ROLES if role not in LATER_ROLES or role in self.columns]
        return {"mode": self.mode, "precision": self.precision, "columns": {role: self.column(role) for role in roles}}

    def options(self) -> dict[str, Any]:
        """Return all options for the record, as JSON has them, without the places of things."""
        values = {**asdict(self), "only": list(self.only)}
        return {key: value for key, value in values.items() if key not in {"bundle", "input", "out"}}

    def numbers_digest(self) -> str:
        return digest(self.numbers())
