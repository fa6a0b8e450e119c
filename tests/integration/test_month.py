"""A month of nights on ETTh1: failures, a catch-up, a promotion, and measurements that come late."""

import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

KILLED, LATE_SNAPSHOT, PROMOTED, NIGHTS = 7, 20, 16, 30
CAUGHT_UP = {KILLED: KILLED + 2, LATE_SNAPSHOT: LATE_SNAPSHOT + 1}
KILL = """
import os, sys, threading, runner.pipeline
from runner.cli import main
left, turn, commit = int(sys.argv.pop(1)), threading.Lock(), runner.pipeline.Pipeline._commit

def commit_or_die(*args):
    global left
    with turn:
        if not left:
            os.kill(os.getpid(), 9)
        left -= 1
        commit(*args)

runner.pipeline.Pipeline._commit = commit_or_die
main()
"""
"""A run that is killed when it is about to make its next part visible, after so many."""


def kill(month, night, after=0):
    """Run a night in a process of its own that is killed after so many parts."""
    command = [sys.executable, "-c", KILL, after, *month.command(night)]
    done = subprocess.run([str(word) for word in command], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not month.success(night).exists()
    assert len(list((month.out / month.partition(night)).glob("*.parquet"))) == after


def night_of(month, night):
    """Do what cron and whoever is called do on one night."""
    if night == LATE_SNAPSHOT:
        month.score(night, code=11)
    else:
        month.snapshot(night)
        if night == KILLED:
            kill(month, night)
        else:
            month.score(night)
    for missed in (missed for missed, later in CAUGHT_UP.items() if later == night):
        assert not month.success(missed).exists()
        if missed == LATE_SNAPSHOT:
            month.snapshot(missed)
        month.score(missed)
    fresh = {name: kept for name, kept in month.parts().items() if name not in month.issued}
    month.issued |= fresh
    return fresh


def promote(month):
    """Let the gate decide, on the two weeks before; the other way round it stays shut."""
    seen = month.root / "in" / month.partition(PROMOTED - 1), "--layout", "long", "--freq", "h", "--json"
    gate = month.freerun("compare", month.root / "new", month.root / "old", *seen)
    assert (gate.code, gate.json()["verdict"]) == (15, "worse")
    gate = month.freerun("compare", month.root / "old", month.root / "new", *seen)
    assert (gate.code, gate.json()["verdict"]) == (0, "better"), gate.err
    month.bundle = "new"


def check(found, rows):
    """Hold an evaluation against lines of pandas."""
    known = rows[rows["known"]]
    error = known["prediction"].astype(float) - known["y"]
    naive = known["last"].astype(float) - known["y"]
    near = {"rel": 1e-9}
    assert (found["cells"]["forecast"], found["cells"]["known"]) == (len(rows), len(known))
    assert found["cells"]["excluded"] == (rows["mask"] == 1).sum()
    assert found["cells"]["pending"] == rows["y"].isna().sum()
    assert (found["cells"]["twice"], found["cells"]["rejected"]) == (0, 0)
    assert not rows.duplicated(["unique_id", "origin", "step"]).any()
    if not len(known):
        assert (found["observed_mse"], found["ratio"], found["exit_code"]) == (None, None, 0)
        return
    assert found["observed_mse"] == pytest.approx((error**2).mean(), **near)
    assert found["masked_mse"] == pytest.approx((error**2).sum() / rows["mask"].notna().sum(), **near)
    assert found["naive"]["last"]["observed_mse"] == pytest.approx((naive**2).mean(), **near)
    for step, own in (error**2).groupby(known["step"]):
        assert found["per_step"][step - 1]["observed_mse"] == pytest.approx(own.mean(), **near)
        assert found["per_step"][step - 1]["bias"] == pytest.approx(error[own.index].mean(), **near)
    dates = (error**2).groupby(known["origin"].dt.date).mean()
    by_origin = {group["name"]: group["observed_mse"] for group in found["by_origin"] if group["known"]}
    assert by_origin == pytest.approx({str(date): loss for date, loss in dates.items()}, **near)
    bundles = (error**2).groupby(known["bundle_id"]).mean()
    assert {g["name"]: g["observed_mse"] for g in found["by_bundle"] if g["known"]} == pytest.approx(
        dict(bundles), **near
    )
    assert {g["name"]: g["forecast"] for g in found["by_bundle"]} == dict(rows["bundle_id"].value_counts())


def test_a_month_of_nights_loses_no_forecast_counts_none_twice_and_is_judged_as_pandas_would(month):
    for night in range(NIGHTS):
        if night == PROMOTED:
            promote(month)
        fresh = night_of(month, night)
        assert len(fresh) == {KILLED: 0, LATE_SNAPSHOT: 0}.get(night, 1 + (night in CAUGHT_UP.values()))
        measured = month.measure(night)
        check(month.evaluate(), month.joined(measured))
    assert month.parts() == month.issued  # every forecast is there, as it was issued
    assert all(month.success(night).exists() for night in range(NIGHTS))
    assert month.freerun("verify-output", month.out).code == 0
    found = month.evaluate()
    assert (found["parts"], found["windows"], found["cells"]["twice"]) == (NIGHTS, NIGHTS * 7, 0)
    assert [group["forecast"] for group in found["by_bundle"]] == [PROMOTED * 28, (NIGHTS - PROMOTED) * 28]
    known = [group["known"] for group in found["by_bundle"]]
    assert found["ratio"] == pytest.approx(found["observed_mse"] / np.average([4.0, 0.5], weights=known), rel=1e-9)
    assert month.evaluate("--max-ratio", found["ratio"] * 0.999, code=15)["error"]
    assert month.evaluate("--max-ratio", found["ratio"] * 1.001)["error"] is None


def test_a_night_that_is_done_is_not_touched_again(month):
    month.snapshot(0)
    month.score(0)
    before = month.files(0)
    assert month.score(0)["already_done"] == 1
    assert month.files(0) == before
    month.bundle = "new"
    assert month.score(0)["history"] == 1  # --rescore none keeps what the old bundle issued
    assert month.files(0) == before
    month.score(0, "--rescore", "changed", code=2)
    assert month.files(0) == before


def test_parts_of_the_old_bundle_are_not_in_the_way_of_other_nights(month):
    for night, name in enumerate(month.certified):
        month.bundle = name
        month.snapshot(night)
        assert month.score(night, "--rescore", "changed")["history"] == 0
    whole = "score", month.root / "new", month.root / "in", "--out", month.out, *month.flags
    assert month.freerun(*whole, "--rescore", "changed").code == 2  # they are, of a run of the whole
    before = month.parts()
    assert month.freerun(*whole).code == 0
    assert month.parts() == before


def test_a_night_that_the_old_bundle_began_is_finished_by_the_new_one(month):
    month.snapshot(0)
    rows = pq.read_table(path := month.root / "in" / month.partition(0) / "series.parquet", partitioning=None)
    pq.write_table(rows[len(rows) * 6 // 7 :], path.with_name("oil.parquet"))
    pq.write_table(rows[: len(rows) * 6 // 7], path)
    kill(month, 0, after=1)
    (begun,) = month.parts()
    month.bundle = "new"
    month.score(0, "--rescore", "changed", code=2)
    report = month.score(0)
    assert (report["history"], report["this_run"]["parts"], month.success(0).exists()) == (1, 1, True)
    measured = month.measure(3)
    found = month.evaluate()
    check(found, month.joined(measured))
    assert [group["forecast"] for group in found["by_bundle"]] == ([4, 24] if "oil" in begun else [24, 4])


@pytest.mark.parametrize("fallback", ["last", "seasonal"])
def test_nights_with_a_broken_series_are_filled_counted_apart_and_in_no_score_of_the_model(month, fallback):
    flags = "--fallback", fallback
    for night in range(3):
        month.snapshot(night)
        if night:
            month.spoil(night, "MUFL")
        refused = month.score(night, *flags, code=10 if night else 0)  # a series of seven is more than 1 %
        assert month.success(night).exists() == (not night)
        assert refused["this_run"]["filled"] == bool(night)
    month.snapshot(3)
    month.spoil(3, "MUFL")
    month.score(3, *flags, "--max-reject-rate", 0.2)
    assert month.success(3).exists()
    measured = month.measure(8)
    found, rows = month.evaluate(), month.joined(measured)
    filled = rows[rows["source"] == fallback]
    assert set(filled["unique_id"]) == {"MUFL"}
    assert set(filled["reject_reason"]) == {"step_duplicate"}
    assert (found["cells"]["fallback"], len(filled), found["cells"]["rejected"]) == (12, 12, 0)
    check(found, rows[rows["source"] == "model"])
    assert month.freerun("verify-output", month.out).code == 0
    back = 0 if fallback == "last" else 1  # a season of the hand-made bundle is two hours
    for origin, own in filled.groupby("origin"):
        hour = np.flatnonzero(month.series.times == origin)[0]
        season = month.series.y[[hour - back, hour], list(month.series.names).index("MUFL")]
        assert own.sort_values("step")["prediction"].tolist() == [*season, *season]
