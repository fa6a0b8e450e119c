"""From the flags of `explain-gap` to its answer, in both programs."""

import sys
from contextlib import redirect_stdout
from typing import Any, cast

from runner.gap.explain import OpenModel, Question, Say, explain_gap
from runner.gap.figure import require_figure
from runner.gap.metric import read_reported
from runner.gap.show import show
from runner.stop import Stop


def answer(asked: dict[str, Any], stop: Stop, say: Say, open_model: OpenModel | None = None) -> None:
    """Explain, draw and print what was asked for.

    Args:
        asked: the values of the flags in `runner.options.explaining`.
        stop: ends the work.
        say: takes lines for the log.
        open_model: opens the Keras model.

    Raises:
        FreerunError: as `explain_gap`; and OutputError where the figure cannot be written.
    """
    require_figure(asked["figure"])
    reported = None if asked["reported"] is None else read_reported(asked["reported"])
    question = Question(asked["bundle"], asked["valid"], asked["train"], reported, asked["column"])
    with redirect_stdout(sys.stderr):
        report = explain_gap(question, stop, say, open_model)
    show(report, asked["figure"], cast("Any", sys.stdout), as_json=asked["as_json"])
