"""The one JSON object that tells what a run did; `_report.json` and `--json` are the same."""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runner import __version__
from runner.errors import ExitCode, explain
from runner.manifest import Manifest
from runner.parts import Part
from runner.storage import OutputFolder
from runner.totals import ErrorSums, Score

REPORT_FILE = "_report.json"
SUCCESS_FILE = "_SUCCESS"
POLARITY_MARGIN = 0.1


class Value(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Rows(Value):
    read: int
    scored: int
    rejected: int


class Step(Value):
    """One horizon step (1 = the first); the means are None where nothing was observed."""

    step: int
    observed: int
    masked_mse: float | None
    observed_mse: float | None
    mae: float | None
    bias: float | None


class Naive(Value):
    """A forecast that anybody could make, over the very same cells."""

    masked_mse: float | None
    observed_mse: float | None
    per_step: tuple[Step, ...]


class Scores(Value):
    """The scores of one of several targets, in its own units."""

    masked_mse: float | None
    observed_mse: float | None
    per_step: tuple[Step, ...]
    naive: dict[str, Naive]


class Summary(Value):
    """What a set of parts adds up to; scores are None where nothing was observed.

    `filled` counts the rejects that got a naive forecast; it is in no score.
    Of several targets, all scores but those in `per_target` are over the cells of all of them, whatever their units.
    """

    parts: int
    rows: Rows
    rejects: dict[str, int]
    filled: int = 0
    masked_mse: float | None
    observed_mse: float | None
    per_step: tuple[Step, ...]
    naive: dict[str, Naive]
    per_target: dict[str, Scores] = Field(default_factory=dict)


class Seconds(Value):
    """Time by stage; decode adds up over the worker threads, so the stages can exceed the wall."""

    read: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    wall: float = 0.0


class Decoding(Value):
    """How was decoded: by the fused graph or step by step, windows in a batch, threads. None of it changes a number."""

    loop: Literal["fused", "step by step"]
    batch_size: int
    workers: int


class Report(Value):
    """One run of `freerun score`.

    `to_do` counts the parts that are still missing when the run ends: none after a good one.
    `total` covers every part that this bundle and these options made of the present input; `this_run` those that this
    run scored, or an interrupted one that it finished. The gates look at `this_run`.
    """

    schema_version: Literal[1] = 1
    run_id: str
    status: Literal["done", "dry-run", "failed", "interrupted"]
    exit_code: int
    error: str | None
    warnings: tuple[str, ...]
    bundle_id: str
    input: str
    out: str
    mode: str
    device: str
    precision: str
    decoding: Decoding | None
    options: dict[str, Any]
    versions: dict[str, str]
    started_at: str
    finished_at: str
    seconds: Seconds
    windows_per_second: float | None
    already_done: int
    to_do: int
    history: int
    orphans: int
    this_run: Summary
    total: Summary


def summarize(parts: Iterable[Part], targets: Sequence[str] = ("",)) -> Summary:
    """Add up parts in the order given, so that the same parts give the same bits.

    Args:
        parts: of one bundle, or their scores cannot be added.
        targets: the names of the bundle's targets.
    """
    parts = list(parts)
    rejects: Counter[str] = Counter()
    total: Score | None = None
    for part in parts:
        rejects.update(part.rejects)
        if part.score:
            total = part.score if total is None else total + part.score
    return Summary(
        parts=len(parts),
        rows=rows_of(parts),
        rejects=dict(sorted(rejects.items())),
        filled=sum(part.filled for part in parts),
        **scores_of(total, len(targets)),
        per_target=_per_target(total, targets) if total and len(targets) > 1 else {},
    )


def rows_of(parts: Iterable[Part]) -> Rows:
    """Count the rows of parts, of whatever bundles."""
    counts = [(part.scored, sum(part.rejects.values())) for part in parts]
    scored, rejected = sum(count for count, _ in counts), sum(count for _, count in counts)
    return Rows(read=scored + rejected, scored=scored, rejected=rejected)


def judge(this_run: Summary, max_reject_rate: float, max_masked_mse: float | None) -> tuple[ExitCode, str | None]:
    """Hold this run against the gates: rejects first, then the score."""
    rows = this_run.rows
    if rows.read and rows.rejected / rows.read > max_reject_rate:
        got = f"{rows.rejected} of {rows.read} rows: {this_run.rejects}"
        what = "more rows were rejected than --max-reject-rate allows"
        return ExitCode.TOO_MANY_REJECTS, explain(what, got=got, expected=f"at most {max_reject_rate:.2%}")
    score = this_run.masked_mse
    if score is not None and max_masked_mse is not None and score > max_masked_mse:
        what = "the score is worse than --max-masked-mse allows"
        return ExitCode.SCORE, explain(what, got=score, expected=f"at most {max_masked_mse}")
    return ExitCode.OK, None


def mask_warning(parts: Iterable[Part], manifest: Manifest) -> list[str]:
    """Warn when far more steps are excluded than in training, and about as many as an inverted mask would exclude."""
    scores = [part.score for part in parts if part.score]
    cells = sum(score.windows * score.cells for score in scores)
    if not cells:
        return []
    share = 1 - sum(sum(score.observed) for score in scores) / cells
    usual = manifest.excluded_share
    if abs(share - (1 - usual)) + POLARITY_MARGIN > abs(share - usual):
        return []
    question = "is the mask the wrong way round? In 'mask' 1 = excluded, in 'observed' 1 = counts"
    return [f"{share:.0%} of the target's steps are excluded, in training {usual:.0%} were: {question}"]


def versions() -> dict[str, str]:
    """Return the versions of what makes the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"freerun": __version__, "python": platform.python_version()}
    for name in ("numpy", "pyarrow", "onnx", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_report(out: OutputFolder, report: Report) -> None:
    """Put the report into the output folder, as a whole."""
    out.write(out.own(REPORT_FILE), report.model_dump_json(indent=2).encode() + b"\n")


def scores_of(score: Score | None, targets: int = 1) -> dict[str, Any]:
    """Return what a summary says of the errors, by its keys; `targets` is how many the score is of."""
    if score is None:
        return {"masked_mse": None, "observed_mse": None, "per_step": (), "naive": {}}
    naive = {"last": score.last, "seasonal": score.seasonal}
    found = {name: Naive(**_means(score, sums, targets)) for name, sums in naive.items() if sums is not None}
    return {**_means(score, score.model, targets), "naive": found}


def _means(score: Score, sums: ErrorSums, targets: int) -> dict[str, Any]:
    return {
        "masked_mse": score.masked_mse(sums),
        "observed_mse": score.observed_mse(sums),
        "per_step": tuple(Step(**step) for step in score.by_step(sums, targets)),
    }


def _per_target(score: Score, targets: Sequence[str]) -> dict[str, Scores]:
    count = len(targets)
    return {name: Scores(**scores_of(score.of_target(index, count))) for index, name in enumerate(targets)}
