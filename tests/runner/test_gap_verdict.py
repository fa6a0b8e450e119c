"""What the verdict says is what the numbers carry."""

import pytest

from runner.gap.report import FirstStep, GapReport, GapWindows, Panellist, Parts
from runner.gap.verdict import verdict

NOTHING = dict.fromkeys(Parts.model_fields)
LOSSES = dict.fromkeys(("L0", "L1", "T"), 0.5) | dict.fromkeys(("F", "E'", "K'", "R'", "B'", "O"), 1.0)


def forecast(name, loss):
    return Panellist(name=name, masked_mse=loss, better_by=1.0 - loss, interval=None, per_step=(loss,))


def report(recoverable=0.0, panel=(), model=None, intervals=None, **parts):
    found = Parts(**NOTHING | parts)
    always = (forecast("free-running", 1.0), forecast("last value", 3.0))
    return GapReport(
        bundle_id="b",
        valid="v",
        train=None,
        model=model,
        windows=GapWindows(
            used=1, total=1, rejected=0, taken_every=1, blocks=1, blocks_are="neighbours", chose_the_epoch=False
        ),
        first_step=FirstStep(equal=True, largest_difference=0.0),
        reported=False,
        teacher_forced=0.5,
        free_running=1.0,
        gap=0.5,
        parts=found,
        shares=found,
        recoverable=recoverable,
        intervals=intervals or {},
        losses=LOSSES,
        per_step=(),
        panel=(*always, *(forecast(*entry) for entry in panel)),
        suspects=(),
        notes=(),
        verdict="",
    )


def test_nothing_to_close_is_said_where_nothing_wins():
    assert "there is little to close" in verdict(report(0.001))


def test_an_optimum_far_below_is_not_called_little_to_close():
    told = verdict(report(0.6, [("optimal", 0.4), ("ridge", 1.2)]))
    assert "little to close" not in told
    assert "Recoverable, with the best forecast at each step: 0.6, 60.0% of the free-running loss" in told
    assert "none of them but the best possible one wins 1%" in told


def test_forecasts_that_win_at_some_steps_alone_are_not_called_nothing():
    told = verdict(report(0.1, [("ridge", 1.05)]))
    assert "with the best forecast at each step: 0.1" in told
    assert "Alone, none of them wins 1%" in told


def test_a_forecast_that_wins_only_where_it_was_chosen_is_named():
    told = verdict(report(-0.02, [("ridge", 0.7)]))
    assert "little to close" not in told
    assert "Chosen on other windows than it is measured on, nothing wins 1%. Alone, ridge does best, 0.7" in told


@pytest.mark.parametrize("value", [0.0, -0.02])
def test_a_horizon_of_nothing_is_no_negative_one(value):
    assert "The true values inside the horizon tell nothing beyond the context" in verdict(report(horizon=value))


def test_chance_is_told_where_the_interval_holds_nothing():
    assert "chance" not in verdict(report(plug_in=0.02)), "a note says it of all parts where there is no interval"
    held = report(plug_in=0.02, intervals={"plug_in": (-0.01, 0.05)})
    assert "95% between -0.01 and 0.05, which may be chance" in verdict(held)
    assert "chance" not in verdict(report(plug_in=0.02, intervals={"plug_in": (0.01, 0.05)}))


def test_the_wiring_is_blamed_alone_only_where_the_model_was_measured():
    told = verdict(report(None, wiring=0.3))
    assert "other targets, mask or decoder_input than then, or the wiring, is at fault" in told
    assert "Is the target's column the right one?" in told
    told = verdict(report(None, model="model.keras", wiring=0.3))
    assert ": the wiring is at fault" in told
    assert "Is it the bundle's own model?" in told
