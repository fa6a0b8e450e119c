"""Say in plain sentences what the numbers of a report mean."""

from collections.abc import Iterator

from runner.gap.report import GapReport, Panellist, SuspectEntry
from runner.gap.walk import CONTROL, FREE_RUNNING, FURTHER, OPTIMAL, SAMPLED, TEACHER_FORCED

BEST_LETTER = "B'"
WORTH_TELLING = 0.01
"""Share of the free-running loss below which a part is left out of the sentences; it stands in the table."""
OURS = {TEACHER_FORCED, FREE_RUNNING, SAMPLED, CONTROL, FURTHER}
"""Forecasts that the network itself makes."""
PARTS = {
    "plug_in": (
        "Plug-in bias",
        (
            "The mean of sampled paths does better than a point forecast fed back. Training free-running may learn "
            "that mean: --set strategy=auto."
        ),
    ),
    "undertrained": (
        "Too few epochs",
        "More of the same training wins that: train longer, or with another learning rate.",
    ),
    "exposure_bias": (
        "Exposure bias",
        "Training on its own predictions wins that, over as many more teacher-forced epochs: --set strategy=auto.",
    ),
    "model": ("The model", ""),
}
"""Title and advice of the parts that can be won back; what is said of the model depends on what does better."""


def verdict(report: GapReport) -> str:
    """Return the verdict, a statement a line."""
    rest = _stopped(report) if report.recoverable is None else _walk(report, report.recoverable)
    return "\n".join([_first_step(report), _gap(report), *_metric(report), *rest])


def _first_step(report: GapReport) -> str:
    if report.first_step.equal:
        return "At step 1 the teacher-forced and the free-running forecasts agree bit for bit, as they must."
    by = f"by up to {report.first_step.largest_difference:.3g}"
    return f"At step 1 the teacher-forced and the free-running forecasts differ {by}: the loop begins otherwise."


def _gap(report: GapReport) -> str:
    free = f"Free-running, the exported model has a masked MSE of {_loss(report.free_running)}"
    if report.gap is None:
        return f"{free}."
    other = "the loss that was reported is" if report.reported else "the training model, teacher-forced,"
    return f"{free}; {other} {_loss(report.teacher_forced)}: the gap is {report.gap:.4g}{_between(report, 'gap')}."


def _metric(report: GapReport) -> Iterator[str]:
    if not report.reported:
        return
    exact, named = f"the masked MSE over these windows, {_loss(report.losses['L1'])}", _matching(report, "metric")
    got = "" if report.teacher_forced is None else f", {_loss(report.teacher_forced)},"
    if named:
        ways = "; or: ".join(entry.text for entry in named)
        yield f"The reported loss{got} is not {exact}. This gives it: {ways}."
    elif [entry for entry in report.suspects if entry.kind == "metric"]:
        yield (
            f"The reported loss{got} is not {exact}, and no way to average that we know gives it. "
            "Is it of other windows, another epoch or another model?"
        )
    else:
        yield f"The reported loss is {exact}: nothing is wrong with the metric."


def _stopped(report: GapReport) -> Iterator[str]:
    certified, named = report.model is None, _matching(report, "wiring")
    yield (
        f"Teacher-forced, the exported step scores {_loss(report.losses['T'])} where the training model "
        f"{'was certified at' if certified else 'scores'} {_loss(report.losses['L1'])}: "
        f"{'other targets, mask or decoder_input than then, or the wiring,' if certified else 'the wiring'} "
        "is at fault, and what comes after means nothing until it is mended."
    )
    if named:
        yield "The fault: " + "; or, which comes to the same: ".join(entry.text for entry in named) + "."
    else:
        asked = "Is the target's column the right one?" if certified else "Is it the bundle's own model?"
        yield f"None of the faults that were simulated does exactly this. {asked}"


def _walk(report: GapReport, recoverable: float) -> Iterator[str]:
    yield from _wiring(report)
    yield from _horizon(report)
    for part, (title, advice) in PARTS.items():
        value, share = getattr(report.parts, part), getattr(report.shares, part)
        if value is not None and share is not None and share >= WORTH_TELLING:
            yield f"{title}: {_amount(report, part, value)}. {advice or _better_model(report)}"
    yield _recoverable(report, recoverable)
    if report.parts.exposure_bias is None:
        missing = "freerun-export explain-gap --model MODEL.keras --train TRAIN" if report.model is None else "--train"
        yield f"Nothing was trained further here, so exposure bias is not told from the rest: add {missing}."


def _wiring(report: GapReport) -> Iterator[str]:
    if report.model is not None or report.windows.chose_the_epoch:
        yield "The exported step does what the training model does: nothing is wrong with the wiring."
    else:
        yield "The exported step was certified on other windows; --model would measure its wiring on these."


def _horizon(report: GapReport) -> Iterator[str]:
    value, share = report.parts.horizon or 0.0, report.shares.horizon or 0.0
    if share < WORTH_TELLING:
        yield f"The true values inside the horizon tell nothing beyond the context: less than {WORTH_TELLING:.0%}."
    else:
        yield (
            f"The horizon: {_amount(report, 'horizon', value)}. The true values inside it tell that much beyond the "
            f"context. Without them, the best at each step of all that we tried scores "
            f"{_loss(report.losses[BEST_LETTER])}."
        )
    known = _known(report)
    if known:
        yield f"The best possible forecast, which these data bring along, scores {_loss(known.masked_mse)}."


def _better_model(report: GapReport) -> str:
    others = [entry for entry in report.panel if entry.name not in OURS | {OPTIMAL} and _wins(report, entry)]
    known = _known(report)
    if others:
        does = f"Another kind of forecast, {others[0].name}, scores {_loss(others[0].masked_mse)}"
    elif known and _wins(report, known):
        does = "The best possible forecast does better, and nothing else that we tried"
    else:
        does = "Another kind of forecast does better at some steps"
    return f"{does}: look at the network's features, its size and its training."


def _recoverable(report: GapReport, recoverable: float) -> str:
    share = recoverable / report.free_running if report.free_running else 0.0
    better = [entry for entry in report.panel if entry.name not in {TEACHER_FORCED, OPTIMAL} and _wins(report, entry)]
    if share < WORTH_TELLING and not better:
        return f"Nothing we tried wins {WORTH_TELLING:.0%} of the free-running loss: there is little to close."
    if better:
        alone = f"Alone, {better[0].name} does best, {_loss(better[0].masked_mse)}"
    else:
        alone = f"Alone, none of them{' but the best possible one' if _known(report) else ''} wins {WORTH_TELLING:.0%}"
    told = _amount(report, "recoverable", recoverable)
    if share < WORTH_TELLING:
        return f"Chosen on other windows than it is measured on, nothing wins {WORTH_TELLING:.0%}. {alone}."
    return f"Recoverable, with the best forecast at each step: {told}. {alone}."


def _known(report: GapReport) -> Panellist | None:
    return next((entry for entry in report.panel if entry.name == OPTIMAL), None)


def _wins(report: GapReport, entry: Panellist) -> bool:
    return entry.better_by > 0 and entry.better_by >= WORTH_TELLING * report.free_running


def _amount(report: GapReport, name: str, value: float) -> str:
    """Return a part of the free-running loss, its share, and whether it may be chance."""
    share = value / report.free_running if report.free_running else 0.0
    chance = ", which may be chance" if name in report.intervals and report.intervals[name][0] <= 0 else ""
    return f"{value:.4g}, {share:.1%} of the free-running loss{_between(report, name)}{chance}"


def _matching(report: GapReport, kind: str) -> list[SuspectEntry]:
    return [entry for entry in report.suspects if entry.kind == kind and entry.matches]


def _between(report: GapReport, name: str) -> str:
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f", 95% between {low:.4g} and {high:.4g}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
