"""Name what is at fault: in how a loss was averaged, or in how the graphs are put together."""

from runner.gap.ground import Ground
from runner.gap.metric import Reported, averagings
from runner.gap.report import SuspectEntry


def metric_suspects(
    ground: Ground, reported: Reported | None, exact: float, regularisation: float | None
) -> list[SuspectEntry]:
    """Return the ways to average that give the reported loss; nothing where the masked MSE itself gives it.

    Args:
        ground: the windows, and the teacher-forced forecasts of them.
        reported: what training reported.
        exact: the masked MSE, L1.
        regularisation: what the model's regularisers add; None where that is not known.
    """
    if reported is None or reported.is_near(exact):
        return []
    ways = averagings(ground.windows.batch, ground.teacher_forced, ground.scale, regularisation)
    return [
        SuspectEntry(
            kind="metric",
            key=way.key,
            text=way.text,
            difference=None if way.loss != way.loss or reported.loss != reported.loss else way.loss - reported.loss,
            matches=reported.is_near(way.loss),
        )
        for way in ways
    ]


def wiring_suspects(*_: object) -> list[SuspectEntry]:
    return []
