"""Say in plain sentences what the numbers of a report mean."""

from collections.abc import Iterator

from runner.gap.report import GapReport, SuspectEntry
from runner.gap.walk import FREE_RUNNING, OPTIMAL, TEACHER_FORCED

BEST_LETTER = "B'"
WORTH_TELLING = 0.01
"""Share of the free-running loss below which a part is left out of the sentences; it stands in the table."""
PARTS = {
    "plug_in": (
        "Plug-in bias",
        "A point forecast that is fed back is off on this process; the mean of sampled paths does better.",
    ),
    "undertrained": (
        "Too few epochs",
        "More of the same training wins that: train longer, or with another learning rate.",
    ),
    "exposure_bias": (
        "Exposure bias",
        "Training on its own predictions wins that over as many more teacher-forced epochs: set strategy.",
    ),
    "model": (
        "The model",
        "A forecast that is not this network does better: look at its features, its size and its training.",
    ),
}


def verdict(report: GapReport) -> str:
    """Return the verdict, a statement a line."""
    rest = _stopped(report) if report.recoverable is None else _walk(report, report.recoverable)
    return "\n".join([_first_step(report), *_metric(report), *_gap(report), *rest])


def _first_step(report: GapReport) -> str:
    if report.first_step.equal:
        return "Teacher-forced and free-running forecasts agree bit for bit at step 1, as they must."
    by = f"by up to {report.first_step.largest_difference:.3g}"
    return (
        f"Teacher-forced and free-running forecasts differ at step 1, {by}: the loop does not begin as training does."
    )


def _metric(report: GapReport) -> Iterator[str]:
    if not report.reported:
        return
    exact, named = f"the masked MSE over these windows, {_loss(report.losses['L1'])}", _matching(report, "metric")
    got = "" if report.teacher_forced is None else f", {_loss(report.teacher_forced)},"
    if named:
        ways = " or ".join(entry.text for entry in named)
        yield f"The reported loss{got} is not {exact}. It comes out if this is done otherwise: {ways}."
    elif [entry for entry in report.suspects if entry.kind == "metric"]:
        yield f"The reported loss{got} is not {exact}, and no known way to average explains it: other windows, perhaps."
    else:
        yield f"The reported loss is {exact}: nothing is wrong with the metric."


def _gap(report: GapReport) -> Iterator[str]:
    if report.gap is None:
        return
    scores = f"{_loss(report.free_running)} against {_loss(report.teacher_forced)}"
    yield (
        f"Fed its own predictions, the exported model scores {scores}: "
        f"the gap is {report.gap:.4g}{_between(report, 'gap')}."
    )


def _stopped(report: GapReport) -> Iterator[str]:
    certified = report.model is None
    yield (
        f"Teacher-forced, the exported step scores {_loss(report.losses['T'])} where the training model "
        f"{'was certified at' if certified else 'scores'} {_loss(report.losses['L1'])}: "
        f"{'other targets, mask or decoder_input than then, or the wiring' if certified else 'the wiring'} "
        f"is at fault, and what comes after means nothing until it is mended."
    )
    named = _matching(report, "wiring")
    if named:
        yield "The fault: " + "; or, which comes to the same: ".join(entry.text for entry in named) + "."
    else:
        asked = (
            "Is the target's column the right one?" if certified else "Is it the model that the bundle was made from?"
        )
        yield f"None of the faults that were simulated does exactly this. {asked}"


def _walk(report: GapReport, recoverable: float) -> Iterator[str]:
    if report.model is not None or report.windows.chose_the_epoch:
        yield "The exported step does what the training model does: nothing is wrong with the wiring."
    else:
        yield "The wiring was certified on other windows, and is taken as certified; --model would measure it on these."
    yield from _horizon(report)
    for part, (title, advice) in PARTS.items():
        value, share = getattr(report.parts, part), getattr(report.shares, part)
        if value is not None and share is not None and share >= WORTH_TELLING:
            yield f"{title}: {value:.4g}, {share:.1%} of it{_between(report, part)}{_chance(report, part)}. {advice}"
    yield _recoverable(report, recoverable)
    if report.parts.exposure_bias is None:
        flags = "freerun-export explain-gap with --model and --train"
        yield f"Nothing was trained further here: {flags} tells exposure bias from the rest."


def _horizon(report: GapReport) -> Iterator[str]:
    value, share = report.parts.horizon or 0.0, report.shares.horizon or 0.0
    part = f"{value:.4g} ({share:.1%}{_between(report, 'horizon')})" if value > 0 else "nothing"
    yield (
        f"Of the free-running loss, {part} is the horizon: what the true values inside it tell beyond the context. "
        f"Without them, nothing we tried did better than {_loss(report.losses[BEST_LETTER])}."
    )
    known = [entry.masked_mse for entry in report.panel if entry.name == OPTIMAL]
    if known:
        yield f"The best possible forecast, which these data bring along, scores {_loss(known[0])}."


def _recoverable(report: GapReport, recoverable: float) -> str:
    share = _share(report, recoverable)
    known = " and the best possible forecast" if any(entry.name == OPTIMAL for entry in report.panel) else ""
    others = [entry for entry in report.panel if entry.name not in {TEACHER_FORCED, FREE_RUNNING, OPTIMAL}]
    best = min(others, key=lambda entry: entry.masked_mse)  # the last value at least is always there
    single = f"The best single forecast: {best.name}, {_loss(best.masked_mse)}."
    if share < WORTH_TELLING:
        told = f"Nothing we tried wins {WORTH_TELLING:.0%} of the free-running loss"
        if _share(report, best.better_by) < WORTH_TELLING:
            return f"{told}: there is little to close."
        return f"{told} where it is chosen on other windows than it is measured on. {single}"
    return (
        f"Recoverable by what we tried{known}: {recoverable:.4g}, {share:.1%} of it"
        f"{_between(report, 'recoverable')}{_chance(report, 'recoverable')}. "
        f"{single if best.better_by > 0 else 'No single forecast does better over all steps.'}"
    )


def _share(report: GapReport, value: float) -> float:
    return value / report.free_running if report.free_running else 0.0


def _matching(report: GapReport, kind: str) -> list[SuspectEntry]:
    return [entry for entry in report.suspects if entry.kind == kind and entry.matches]


def _chance(report: GapReport, name: str) -> str:
    if name not in report.intervals:
        return ", which may be chance"
    return "" if report.intervals[name][0] > 0 else ", so it may be chance"


def _between(report: GapReport, name: str) -> str:
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f", 95 % between {low:.4g} and {high:.4g}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
