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
Fallback = Literal["last", "seasonal"]
RowKind = Literal["windows", "long"]
"""What a row is: a window, or a time step of a series."""

ROLES = ("past", "past_observed", "future_known", "target", "mask", "observed", "decoder_input", "static")
"""The columns that freerun understands; a role's column has the role's name unless `--column` says otherwise."""
EXPLAINING_ROLES = ("series", "optimal")
"""What an explanation looks at beside them; series: which one a window is cut from, of any type; optimal: the best
forecast that the context allows [H]."""


NUMBERS = (
    "mode", "precision", "columns", "fallback", "layout", "window", "stride", "origin_from", "origin_to", "freq",
    "output_layout", "sort",
)  # fmt: skip
"""The options that can change what a part says."""


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
        fallback: the naive forecast that fills rejects; None = they stay without one.
        layout: a row of the input is a window, or a time step of a series. What follows is for the latter.
        window: one window a series, after its last known target; or all windows of it.
        stride: steps from one window's origin to the next, where they roll.
        origin_from, origin_to: the first and the last origin, where they roll; None = as the data has them.
        freq: the time grid; None = the one that the bundle was trained on.
        output_layout: a row of the parts is a step or a window; None = as the input.
        sort: sort each file by series and time first.
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
    fallback: Fallback | None = None
    layout: RowKind = "windows"
    window: Literal["latest", "rolling"] = "latest"
    stride: int = 1
    origin_from: str | None = None
    origin_to: str | None = None
    freq: str | None = None
    output_layout: RowKind | None = None
    sort: bool = False

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
        values: dict[str, Any] = {name: getattr(self, name) for name in NUMBERS}
        if self.layout == "windows":
            return {**values, "columns": {role: self.column(role) for role in ROLES}}
        return {**values, "output_layout": self.output_layout or "long"}

    def options(self) -> dict[str, Any]:
        """Return all options for the record, as JSON has them, without the places of things."""
        values = {**asdict(self), "only": list(self.only)}
        return {key: value for key, value in values.items() if key not in {"bundle", "input", "out"}}

    def numbers_digest(self) -> str:
        return digest(self.numbers())
