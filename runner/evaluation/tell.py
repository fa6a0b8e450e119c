"""From sums to the report."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from runner.batch import F64, Index
from runner.errors import ExitCode, explain
from runner.evaluation.join import Picture
from runner.evaluation.keys import Numbers
from runner.evaluation.question import Question
from runner.evaluation.report import BundleGroup, CellCounts, EvaluationReport, Group, SeriesGroups
from runner.evaluation.tally import KINDS, Sums, Tally, divided
from runner.manifest import Loss
from runner.report import Naive, Step

MOST_ORIGINS = 1000
WORST = 20
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def report_of(
    question: Question, tally: Tally, picture: Picture, counts: tuple[int, int, int], layout: str, notes: Sequence[str]
) -> EvaluationReport:
    """Divide what was added up.

    Args:
        question: what was asked.
        tally: the sums.
        picture: what the groups are called.
        counts: parts, files that are none, and windows.
        layout: "long" or "windows".
        notes: what else should be known.
    """
    step, certified = tally.step, _certified(tally)
    observed = _mean(step, "model")
    ratio = _ratio(observed, certified.observed_mse)
    code, error = judge(ratio, question.max_ratio)
    cells = _counts(tally)
    return EvaluationReport.model_validate(
        {
            "exit_code": int(code),
            "error": error,
            "warnings": (*notes, *_warnings(question, cells, ratio)),
            "out": str(question.out),
            "actuals": question.actuals,
            "on": question.on,
            "layout": layout,
            "parts": counts[0],
            "foreign": counts[1],
            "windows": counts[2],
            "cells": cells,
            "masked_mse": _masked(step, "model"),
            "observed_mse": observed,
            "per_step": _steps(step, "model"),
            "naive": {kind: _naive(step, kind) for kind in KINDS[1:] if f"{kind}_known" in step.columns},
            "certified": certified,
            "ratio": ratio,
            "max_ratio": question.max_ratio,
            "by_bundle": tuple(_bundles(tally)),
            "by_origin": tuple(_origins(tally.origin, picture.groups)),
            "by_series": _series(tally.series, picture.series),
        }
    )


def judge(ratio: float | None, most: float | None) -> tuple[ExitCode, str | None]:
    """Hold the live loss against the certified one."""
    if ratio is None or most is None or ratio <= most:
        return ExitCode.OK, None
    what = "beside the certified loss, the live one is higher than --max-ratio allows"
    remedy = "look at by_origin and by_series for when and where it began; train again on newer data"
    return ExitCode.SCORE, explain(what, got=f"{ratio:.4g} times it", expected=f"at most {most:g}", remedy=remedy)


def groups_of(sums: Sums, names: Sequence[str], rows: Index | None = None) -> list[Group]:
    """Return some groups, all where `rows` is None, by their names."""
    rows = np.arange(len(sums)) if rows is None else rows
    masked = divided(sums.of("model_squared"), sums.of("due"))
    means = [sums.mean(kind) for kind in KINDS]
    return [
        Group(
            name=names[row],
            forecast=int(sums.of("forecast")[row]),
            known=int(sums.of("model_known")[row]),
            masked_mse=None if np.isnan(means[0][row]) else float(masked[row]),
            observed_mse=_none(means[0][row]),
            last_observed_mse=_none(means[1][row]),
            seasonal_observed_mse=_none(means[2][row]),
        )
        for row in rows.tolist()
    ]


def names_of(numbers: Numbers | None) -> list[str]:
    """Return the values of groups as text, by their number; of times the date alone."""
    if numbers is None or numbers.known is None:
        return []
    known = numbers.known.cast(pa.date32()) if pt.is_timestamp(numbers.known.type) else numbers.known
    return [str(value) for value in known]


def _counts(tally: Tally) -> CellCounts:
    forecast, due, known = (int(tally.step.total(name)) for name in ("forecast", "due", "model_known"))
    return CellCounts(
        forecast=forecast,
        known=known,
        excluded=due - known,
        pending=forecast - due,
        rejected=tally.rejected,
        fallback=tally.fallback,
        twice=tally.twice,
    )


def _warnings(question: Question, cells: CellCounts, ratio: float | None) -> list[str]:
    found = []
    if not cells.known:
        gate = ", so --max-ratio had nothing to look at" if question.max_ratio is not None else ""
        found.append(f"nothing that was forecast is known yet{gate}")
    elif ratio is None and question.max_ratio is not None:
        found.append("a bundle has no certified loss, so --max-ratio had nothing to look at")
    if cells.twice:
        found.append(f"{cells.twice:,} forecasts stand there twice: the first in the order of the paths counts")
    if cells.known and cells.pending:
        found.append("not all steps are known yet: early ones weigh more in the ratio than when it was certified")
    return found


def _certified(tally: Tally) -> Loss:
    """Return the certified losses, weighted as the known cells are made by one bundle or another."""
    known = tally.bundle.of("model_known")
    makers = [maker.maker for maker in tally.makers]
    return Loss(
        masked_mse=_weighted([maker.masked_mse for maker in makers], known),
        observed_mse=_weighted([maker.observed_mse for maker in makers], known),
    )


def _weighted(losses: list[float | None], weights: F64) -> float | None:
    pairs = [(loss, weight) for loss, weight in zip(losses, weights.tolist(), strict=False) if weight]
    if not pairs or any(loss is None for loss, _ in pairs):
        return None
    if len({loss for loss, _ in pairs}) == 1:
        return pairs[0][0]
    return math.fsum((loss or 0.0) * weight for loss, weight in pairs) / math.fsum(weight for _, weight in pairs)


def _bundles(tally: Tally) -> list[BundleGroup]:
    groups = groups_of(tally.bundle, [maker.bundle_id for maker in tally.makers])
    return [
        BundleGroup(
            **group.model_dump(),
            mode=part.mode,
            precision=part.maker.precision,
            certified=Loss(masked_mse=part.maker.masked_mse, observed_mse=part.maker.observed_mse),
            ratio=_ratio(group.observed_mse, part.maker.observed_mse),
        )
        for group, part in zip(groups, tally.makers, strict=False)
    ]


def _origins(sums: Sums, numbers: Numbers | None) -> list[Group]:
    if numbers is None or numbers.known is None or not len(sums):
        return []
    order = np.argsort(np.asarray(numbers.known)[: len(sums)])
    there = order[sums.of("forecast")[order] > 0]
    return groups_of(sums, names_of(numbers), there[-MOST_ORIGINS:])


def _series(sums: Sums, numbers: Numbers | None) -> SeriesGroups:
    means = sums.mean()
    known = means[~np.isnan(means)]
    worst = np.argsort(-means, kind="stable")[: min(WORST, len(known))]  # NaN comes last
    values = np.quantile(known, QUANTILES).tolist() if len(known) else []
    return SeriesGroups(
        count=int((sums.of("forecast") > 0).sum()),
        quantiles={f"{share:g}": value for share, value in zip(QUANTILES, values, strict=False)},
        worst=tuple(groups_of(sums, names_of(numbers), worst)),
    )


def _steps(sums: Sums, kind: str) -> tuple[Step, ...]:
    known, due = sums.of(f"{kind}_known"), _due(sums, kind)
    means = {name: divided(sums.of(f"{kind}_{name}"), known) for name in ("squared", "absolute", "signed")}
    masked = divided(sums.of(f"{kind}_squared"), due)
    return tuple(
        Step(
            step=step + 1,
            observed=int(known[step]),
            masked_mse=_none(masked[step]) if known[step] else None,
            observed_mse=_none(means["squared"][step]),
            mae=_none(means["absolute"][step]),
            bias=_none(means["signed"][step]),
        )
        for step in range(len(sums))
    )


def _due(sums: Sums, kind: str) -> F64:
    """Return how many cells count or are excluded; of a naive forecast, those that it leaves out are neither."""
    return sums.of("due") - sums.of("model_known") + sums.of(f"{kind}_known")


def _naive(sums: Sums, kind: str) -> Naive:
    return Naive(masked_mse=_masked(sums, kind), observed_mse=_mean(sums, kind), per_step=_steps(sums, kind))


def _masked(sums: Sums, kind: str) -> float | None:
    known = sums.total(f"{kind}_known")
    return sums.total(f"{kind}_squared") / math.fsum(_due(sums, kind)) if known else None


def _mean(sums: Sums, kind: str) -> float | None:
    known = sums.total(f"{kind}_known")
    return sums.total(f"{kind}_squared") / known if known else None


def _ratio(live: float | None, certified: float | None) -> float | None:
    return None if live is None or not certified else live / certified


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
