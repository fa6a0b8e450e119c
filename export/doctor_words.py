"""Say what the doctor found: plain sentences and a small table, or one JSON object."""

import json
import math
from dataclasses import asdict
from typing import IO, Any

from export.doctor import Diagnosis
from runner.gap.show import paragraph
from runner.gap.suspects import Suspect

WHERE = {
    1: "so the first input, the context or the encoder's state is wrong, or the column is shifted or in other units",
    2: "so the first input and the encoder's state are right, and what step 2 is given (a state, a prediction, a "
    "covariate) is wrong",
}
LATER = "so the first steps are right, and what is fed from there on is wrong"
MANY_STEPS = 24


def verdict_of(found: Diagnosis) -> str:
    """Return the sentence that the rest of the page explains."""
    largest, step = max(found.residual), found.first_failing_step
    if step is None:
        return (
            "The predictions are the model's: fed back to the training model, they come out unchanged (largest "
            f"difference {largest:.2g} deviations of the target, allowed {found.allowed:.2g})."
        )
    of_which = f"{found.failing:,} of {found.windows:,} windows" if found.failing < found.windows else "all windows"
    return (
        f"The predictions are NOT the model's: fed back to the training model, {of_which} come out changed, from step "
        f"{step} on (by up to {largest:.2g} deviations of the target, allowed {found.allowed:.2g}), "
        f"{WHERE.get(step, LATER)}."
    )


def fault_of(found: Diagnosis) -> str | None:
    """Return what was done wrong, or which simulated mistake comes nearest."""
    if found.first_failing_step is None or not found.suspects:
        return None
    if found.fault is not None:
        return f"What was done: {found.fault.said} ({found.fault.key})"
    nearest = found.suspects[0]
    return (
        "None of the mistakes that were simulated makes these numbers: was it two at once, or another model? "
        f"The nearest is still off by {nearest.difference:.2g} deviations: {nearest.said} ({nearest.key})"
    )


def print_diagnosis(found: Diagnosis, stream: IO[str]) -> None:
    """Print sentences, losses and the differences by step."""
    print(*map(paragraph, _sentences(found)), sep="\n", file=stream)
    _print_steps(found, stream)


def diagnosis_as_json(found: Diagnosis) -> str:
    """Write the diagnosis as one JSON object."""
    told = {
        "schema_version": 1,
        "model": found.model,
        "windows": found.windows,
        "left_out": found.left_out,
        "failing_windows": found.failing,
        "target_scale": found.scale,
        "allowed": found.allowed,
        "residual_by_step": [_number(value) for value in found.residual],
        "first_failing_step": found.first_failing_step,
        "suspects": [_suspect(suspect) for suspect in found.suspects],
        "fault": found.fault.key if found.fault else None,
        "loss_given": found.loss_given,
        "loss_right": found.loss_right,
        "notes": found.notes,
        "verdict": verdict_of(found),
    }
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def _suspect(suspect: Suspect) -> dict[str, Any]:
    """Return a suspect as JSON can hold it: null where the fault cannot be compared."""
    return {**asdict(suspect), "difference": _number(suspect.difference)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sentences(found: Diagnosis) -> list[str]:
    right = "not known" if found.loss_right is None else f"{found.loss_right:.6g}"
    losses = f"masked MSE of the predictions: {found.loss_given:.6g}; of the model's own free-running loop: {right}"
    fault = fault_of(found)
    return [
        verdict_of(found),
        *([fault] if fault else []),
        f"{found.windows:,} windows, {losses}.",
        *(f"Note: {note}" + ("" if note.endswith("?") else ".") for note in found.notes),
    ]


def _print_steps(found: Diagnosis, stream: IO[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("step", justify="right")
    table.add_column("largest difference, in deviations of the target", justify="right")
    table.add_column("")
    for index in _shown(len(found.residual), found.first_failing_step):
        mark = "first that fails" if index + 1 == found.first_failing_step else ""
        table.add_row(f"{index + 1}", f"{found.residual[index]:.2g}", mark)
    Console(file=stream, width=100).print(table)


def _shown(horizon: int, first: int | None) -> list[int]:
    """Return the steps that fit into a small table."""
    if horizon <= MANY_STEPS:
        return list(range(horizon))
    near = {} if first is None else {first - 2, first - 1, first}
    picked = {0, 1, 2, 3, *near, *range(0, horizon, -(-horizon // 12)), horizon - 1}
    return sorted(index for index in picked if 0 <= index < horizon)
