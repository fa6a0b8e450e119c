"""The order of a comparison: open both bundles, find the windows, forecast, judge, report."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runner.bundle import AuditedBundle, audit_bundle, open_bundle
from runner.comparison.duel import Duel, fight
from runner.comparison.report import ComparedWindows, ComparisonReport, Contender, Verdict
from runner.comparison.series import Cutting, series_layout
from runner.comparison.source import WindowSource, windows_layout
from runner.config import Job, RowKind
from runner.device import parse_device
from runner.errors import ExitCode, InputError, UsageError, explain, listing
from runner.features import Strict
from runner.forecaster import open_forecaster
from runner.intervals import FEWEST_BLOCKS, block_length, paired_interval
from runner.manifest import Manifest
from runner.precision import Precision
from runner.report import scores_of
from runner.stop import Stop
from runner.totals import Score
from runner.tune import settle

LONGEST = 200
"""Characters of a manifest's entry that are told."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is to be compared.

    Attributes:
        old, new: the bundles' folders.
        data: path or URI of windows, or of series.
        columns: role -> column name, only where they differ.
        device: where both run.
        precision: which of the bundles' forms.
        margin: share of the old one's masked MSE that the new one has to win.
        layout: what a row of the data is.
        cutting: which windows, where it is a time step.
    """

    old: Path
    new: Path
    data: str
    columns: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    precision: Precision = "fp32"
    margin: float = 0.0
    layout: RowKind = "windows"
    cutting: Cutting = field(default_factory=Cutting)


def compare(asked: Comparison, stop: Stop) -> ComparisonReport:
    """Forecast the same windows with both bundles, free-running, and say whether the new one is better.

    Raises:
        UsageError: the bundles have different horizons, or other targets where there are several.
        BundleError: one of them was refused, or has not that precision.
        DeviceError: the device was not granted.
        InputError: the data does not fit both, or no target counts.
    """
    device = parse_device(asked.device)
    opened = open_bundle(asked.old), open_bundle(asked.new)
    manifests = opened[0].manifest, opened[1].manifest
    differs = differences(*manifests)
    if manifests[0].horizon != manifests[1].horizon:
        remedy = "compare bundles of one horizon: a window has one target"
        raise UsageError(explain("these bundles cannot be compared:" + listing(differs), remedy=remedy))
    source = _source(asked, manifests, stop)
    length = block_length(max(manifest.context_length for manifest in manifests), manifests[0].horizon)
    bundles = [audit_bundle(bundle, asked.precision) for bundle in opened]
    with ExitStack() as stack:
        forecasters = [
            stack.enter_context(
                open_forecaster(bundle, settle(_job(asked, bundle), bundle, device, source.total, stop), stop)
            )
            for bundle in bundles
        ]
        duel = fight(source, (forecasters[0], forecasters[1]), length, stop)
    if duel.scores is None or not sum(duel.scores[0].observed):
        got = f"{source.total} rows; of those with a target OLD rejects {duel.rejected[0]}, NEW {duel.rejected[1]}"
        raise InputError(explain(f"no target in {asked.data} counts that both can forecast", got=got))
    return _told(asked, manifests, duel, duel.scores, tuple(differs))


def _source(asked: Comparison, manifests: tuple[Manifest, Manifest], stop: Stop) -> WindowSource:
    if asked.layout == "long":
        return series_layout(asked.data, manifests, asked.columns, asked.cutting, stop)
    if asked.cutting != Cutting():
        what = "--stride, --from, --to or --freq of windows that are cut already"
        raise UsageError(explain(what, remedy="--layout long"))
    return windows_layout(asked.data, manifests, asked.columns)


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return a line for all that two bundles' manifests say differently of the data."""
    keys = ("context_length", "horizon", "features", "past_observed", "static", "targets", "season_length", "scaling")
    pairs = [(key, getattr(old, key), getattr(new, key)) for key in keys]
    return [f"{key}: OLD {_short(one)}, NEW {_short(other)}" for key, one, other in pairs if one != other]


def judge(interval: tuple[float, float] | None, blocks: int, least: float) -> tuple[Verdict, str]:
    """Say whether the new bundle is better, and why.

    Args:
        interval: where the difference lies, old less new; None with too few blocks.
        blocks: how many there are.
        least: what has to be won.
    """
    if interval is None:
        return "not proven", f"{blocks} blocks are too few for an interval, {FEWEST_BLOCKS} are needed: give more data"
    low, high = interval
    bounds = f"95% between {low:.4g} and {high:.4g}"
    if low > least:
        return "better", f"what the new one wins is above {least:.4g}: {bounds}"
    if high < 0:
        return "worse", f"the new one loses: {bounds}"
    return (
        "not proven",
        f"what the new one wins may be as little as {low:.4g}, and has to be above {least:.4g}: {bounds}",
    )


def _told(
    asked: Comparison,
    manifests: tuple[Manifest, Manifest],
    duel: Duel,
    scores: tuple[Score, Score],
    differs: tuple[str, ...],
) -> ComparisonReport:
    old, new = (_contender(*entry) for entry in zip(manifests, duel.rejected, scores, strict=True))
    blocks = duel.blocks()
    interval = paired_interval(blocks.old, blocks.new, blocks.cells)
    verdict, reason = judge(interval, len(blocks.cells), asked.margin * old.masked_mse)
    steps = zip(old.per_step, new.per_step, strict=True)
    better = verdict == "better"
    return ComparisonReport(
        exit_code=int(ExitCode.OK if better else ExitCode.SCORE),
        error=None if better else explain(f"the new bundle is not better: {verdict}", got=reason),
        data=asked.data,
        device=str(parse_device(asked.device)),
        precision=asked.precision,
        old=old,
        new=new,
        differs=differs,
        windows=ComparedWindows(
            used=scores[0].windows,
            total=duel.total,
            blocks=len(blocks.cells),
            blocks_are="series" if duel.by_series else "neighbours",
        ),
        difference=old.masked_mse - new.masked_mse,
        share=(old.masked_mse - new.masked_mse) / old.masked_mse if old.masked_mse else None,
        interval=interval,
        margin=asked.margin,
        verdict=verdict,
        reason=reason,
        difference_by_step=tuple(
            None if a.masked_mse is None or b.masked_mse is None else a.masked_mse - b.masked_mse for a, b in steps
        ),
        naive=scores_of(scores[1], manifests[1].target_width)["naive"],
    )


def _contender(manifest: Manifest, rejected: int, score: Score) -> Contender:
    means = scores_of(score, manifest.target_width)
    return Contender(
        bundle_id=manifest.bundle_id,
        name=manifest.name,
        context_length=manifest.context_length,
        rejected=rejected,
        masked_mse=means["masked_mse"],
        observed_mse=means["observed_mse"],
        per_step=means["per_step"],
    )


def _cells(manifest: Manifest) -> tuple[int, tuple[str, ...]]:
    """Return what two bundles must have in common: the horizon, and the names of several targets."""
    return manifest.horizon, tuple(target.name for target in manifest.targets) if manifest.others else ()


def _job(asked: Comparison, bundle: AuditedBundle) -> Job:
    """Return the scoring job that decodes as this comparison does; nothing is written."""
    return Job(bundle.path, asked.data, Path(), device=asked.device, precision=asked.precision)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_short, value))
    text = value.model_dump_json() if isinstance(value, Strict) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
