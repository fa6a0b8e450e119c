"""Series that cannot be forecast: each with its reason, and with a naive forecast where one was asked for."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

C, H, SEASON = 6, 4, 2
INFINITE = float("inf")


@pytest.fixture(scope="module")
def unflagged(tiny, tmp_path_factory):
    """Return a bundle whose encoder cannot tell what is missing."""
    return tiny.make_bundle(tmp_path_factory.mktemp("unflagged") / "bundle", flags=False)


@pytest.fixture
def rows(long):
    """Return two series without holes, of which `s0` will be spoiled."""
    return long.make_rows(1, (12, 12), holes=0)


def own(rows, series="s0"):
    return [row for row in rows if row["unique_id"] == series]


def at(rows, step, **values):
    """Return the rows with values of `s0` at this step replaced; steps 0 to 11 are known, 12 to 15 ahead."""
    begin = own(rows)[0]["ds"]
    return [
        {**row, **values} if row["unique_id"] == "s0" and row["ds"] - begin == timedelta(hours=step) else row
        for row in rows
    ]


def without(rows, *steps):
    begin = own(rows)[0]["ds"]
    return [row for row in rows if row["unique_id"] != "s0" or (row["ds"] - begin) // timedelta(hours=1) not in steps]


def series_of(part, name):
    return part.filter(pc.equal(part["unique_id"], name))


def duplicate(rows):
    twice = {**own(rows)[11], "y": 77.0}
    return [*own(rows)[:12], twice, *own(rows)[12:], *own(rows, "s1")], {"y": {11: 77.0}}


def unordered(rows):
    mine = own(rows)
    return [*mine[:4], mine[5], mine[4], *mine[6:], *own(rows, "s1")], {}


def off_grid(rows):
    odd = {**own(rows)[7], "ds": own(rows)[7]["ds"] + timedelta(minutes=5)}
    return [*own(rows)[:7], odd, *own(rows)[8:], *own(rows, "s1")], {"y": {7: None}}


def unknown(rows):
    return [{**row, "y": None} if row["unique_id"] == "s0" else row for row in rows], {"y": dict.fromkeys(range(12))}


SPOILED = {
    "step_duplicate": duplicate,
    "step_unordered": unordered,
    "step_off_grid": off_grid,
    "past_not_observed": unknown,
    "past_not_finite": lambda rows: (at(rows, 9, x=INFINITE), {}),
    "past_not_finite, nan": lambda rows: (at(rows, 9, x=None), {}),
    "past_not_finite, target": lambda rows: (at(rows, 9, y=-INFINITE), {"y": {9: None}}),
    "future_known_missing": lambda rows: (without(rows, 13), {}),
    "future_known_missing, all": lambda rows: (without(rows, 12, 13, 14, 15), {}),
    "future_known_not_finite": lambda rows: (at(rows, 14, k=INFINITE), {}),
    "future_known_not_finite, null": lambda rows: (at(rows, 14, k=None), {}),
}
"""What spoils a series, by its reason; and what is known of its targets otherwise than in the rows given."""


def by_hand(rows, changed, kind):
    """Return the naive forecast of `s0` from the known targets of its last context."""
    known = {step: row["y"] for step, row in enumerate(own(rows)) if row["y"] is not None} | changed.get("y", {})
    known = {step: value for step, value in known.items() if value is not None}
    if not known:
        return [None] * H
    origin = max(known)
    past = {step: value for step, value in known.items() if step > origin - C}
    last = past[origin]
    if kind == "last":
        return [last] * H
    seasons = [[past.get(origin + h - SEASON * back) for back in (1, 2, 3, 4, 5)] for h in range(1, H + 1)]
    return [
        next((value for back, value in enumerate(found, 1) if value is not None and h - SEASON * back <= 0), last)
        for h, found in enumerate(seasons, 1)
    ]


@pytest.mark.parametrize("kind", [None, "last", "seasonal"])
@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_series_is_a_reject_with_its_reason_and_its_fallback(score_rows, rows, name, kind):
    spoiled, changed = SPOILED[name](rows)
    _, calm = score_rows(rows)
    report, part = score_rows(spoiled, *(["--fallback", kind] if kind else []))
    reason = name.partition(",")[0]
    expected = by_hand(rows, changed, kind) if kind else [None] * H
    filled = expected[0] is not None
    assert report["this_run"]["rejects"] == {reason: 1}
    assert report["this_run"]["rows"] == {"read": 2, "scored": 1, "rejected": 1}
    assert report["this_run"]["filled"] == filled
    assert report["this_run"]["masked_mse"] is None
    mine = series_of(part, "s0")
    assert mine["reject_reason"].to_pylist() == [reason] * H
    assert mine["prediction"].to_pylist() == [value if value is None else np.float32(value) for value in expected]
    assert mine["source"].to_pylist() == [kind if filled else None] * H
    assert series_of(part, "s1").to_pylist() == series_of(calm, "s1").to_pylist()


def test_rejects_beyond_the_rate_end_the_run_with_10_filled_or_not(score_rows, rows):
    spoiled, _ = duplicate(rows)
    for flags in ((), ("--fallback", "last")):
        report, part = score_rows(spoiled, "--max-reject-rate", 0.4, *flags, code=10)
        assert report["this_run"]["rows"]["rejected"] == 1
        assert len(part) == 2 * H
        score_rows(spoiled, "--max-reject-rate", 0.5, *flags)


@pytest.mark.parametrize("column", ["y", "x", "k"])
def test_what_float32_cannot_hold_is_not_finite(long, score_rows, rows, column):
    table = long.table_of(rows)
    values = table[column].cast(pa.float64()).to_pylist()
    values[14 if column == "k" else 9] = 1e300
    report, _ = score_rows(table.set_column(table.schema.names.index(column), column, pa.array(values)))
    assert report["this_run"]["rejects"] == {"future_known_not_finite" if column == "k" else "past_not_finite": 1}


def test_a_rolling_window_whose_truth_is_infinite_is_a_reject_and_in_no_score(score_rows, rows):
    flags = "--window", "rolling", "--stride", 100
    calm, _ = score_rows(rows, *flags)
    report, part = score_rows(at(rows, 8, y=INFINITE), *flags, "--fallback", "last")
    assert report["this_run"]["rejects"] == {"target_not_finite": 1}
    assert report["this_run"]["per_step"][0]["observed"] == calm["this_run"]["per_step"][0]["observed"] - 1
    assert report["this_run"]["masked_mse"] != calm["this_run"]["masked_mse"]
    assert set(series_of(part, "s0")["prediction"].to_pylist()) == {own(rows)[5]["y"]}


def test_a_fallback_is_in_no_score(score_rows, rows):
    flags = "--window", "rolling", "--stride", 2
    spoiled, _ = duplicate(rows)
    plain, _ = score_rows(spoiled, *flags)
    filled, part = score_rows(spoiled, *flags, "--fallback", "last")
    assert {**filled["this_run"], "filled": 0} == plain["this_run"]
    assert filled["this_run"]["filled"] == 1
    assert set(series_of(part, "s0")["prediction"].to_pylist()) == {77.0}


SHORT = [("latest", 5), ("latest", 1), ("rolling", 9), ("rolling", 5)]


@pytest.mark.parametrize(("window", "length"), SHORT)
def test_a_series_shorter_than_a_context_is_padded_where_the_graph_sees_what_is_missing(
    long, score_rows, unflagged, window, length
):
    rows = long.make_rows(2, (length, 20), holes=0)
    flags = "--window", window, *(() if window == "latest" else ("--stride", 100))
    report, part = score_rows(rows, *flags)
    assert (report["this_run"]["rejects"], report["this_run"]["rows"]["scored"]) == ({}, 2)
    origin = own(rows)[length - 1 if window == "latest" else length - 1 - H]["ds"]
    assert series_of(part, "s0")["origin"].to_pylist() == [origin] * H
    report, part = score_rows(rows, *flags, "--fallback", "last", bundle=unflagged)
    assert report["this_run"]["rejects"] == {"series_too_short": 1}
    assert report["this_run"]["rows"]["scored"] == report["this_run"]["filled"] == 1
    assert set(series_of(part, "s0")["prediction"].to_pylist()) == {own(rows)[length - 1]["y"]}


@pytest.mark.parametrize("length", [1, 4])
def test_a_series_without_a_step_before_a_whole_horizon_has_no_rolling_window(long, score_rows, length):
    rows = long.make_rows(3, (length, 20), holes=0)
    report, part = score_rows(rows, "--window", "rolling", "--stride", 100)
    assert report["this_run"]["rejects"] == {"series_too_short": 1}
    assert series_of(part, "s0")["origin"].to_pylist() == [own(rows)[length - 1]["ds"]] * H


def test_a_hole_in_the_context_is_a_reject_where_the_graph_does_not_see_it(score_rows, rows, unflagged):
    for spoiled in (without(rows, 9), at(rows, 9, y=None)):
        report, _ = score_rows(spoiled, bundle=unflagged)
        assert report["this_run"]["rejects"] == {"past_not_observed": 1}
    report, _ = score_rows(rows, bundle=unflagged)
    assert report["this_run"]["rejects"] == {}


@pytest.mark.parametrize(("name", "reason"), [("mask", "mask_not_binary"), ("available_mask", "observed_not_binary")])
@pytest.mark.parametrize("value", [2, -1, None])
def test_a_flag_that_is_neither_0_nor_1_is_a_reject_where_there_is_a_target(
    long, score_rows, rows, name, reason, value
):
    table = long.table_of(rows)
    flags = [int(name == "available_mask")] * len(table)
    flags[3] = value
    report, part = score_rows(table.append_column(name, pa.array(flags)), "--fallback", "last")
    assert report["this_run"]["rejects"] == {reason: 1}
    assert set(series_of(part, "s0")["prediction"].to_pylist()) == {own(rows)[11]["y"]}


@pytest.mark.parametrize("name", ["mask", "available_mask"])
@pytest.mark.parametrize("kind", [pa.int8(), pa.bool_(), pa.float64()])
def test_both_polarities_exclude_the_same_targets_and_say_nothing_of_steps_without_one(
    long, score_rows, rows, name, kind
):
    excluded = [3, 11]  # of s0; the second is its last known step
    missing = rows
    for step in excluded:
        missing = at(missing, step, y=None)
    _, expected = score_rows(missing)
    counts = np.ones(len(rows), bool)
    counts[excluded] = False
    flags = [
        None if row["y"] is None else flag for row, flag in zip(rows, counts == (name == "available_mask"), strict=True)
    ]
    for named in (name, "flag"):
        table = long.table_of(rows).append_column(named, pa.array(flags).cast(pa.int8()).cast(kind))
        _, found = score_rows(table, *(() if named == name else ("--column", f"{name}=flag")))
        assert found.equals(expected)
    assert set(series_of(expected, "s0")["origin"].to_pylist()) == {own(rows)[10]["ds"]}


def test_a_row_that_is_all_there_is_of_a_series_is_forecast(long, score_rows):
    rows = long.make_rows(4, (1,), holes=0)
    report, part = score_rows(rows)
    assert (report["this_run"]["rows"]["scored"], part.num_rows) == (1, H)
    report, _ = score_rows(rows[:1])
    assert report["this_run"]["rejects"] == {"future_known_missing": 1}


@pytest.mark.parametrize("window", ["latest", "rolling"])
def test_a_gap_of_a_hundred_years_takes_no_more_time_than_its_rows(long, score_rows, window):
    rows = long.make_rows(5, (12,), holes=0)
    for place, row in enumerate(rows):
        row["ds"] = long.begin + timedelta(seconds=place, days=36525 * (place >= 6))
    report, part = score_rows(rows, "--freq", "s", "--window", window, "--fallback", "last")
    if window == "latest":
        assert report["this_run"]["rejects"] == {}
        assert set(part["origin"].to_pylist()) == {rows[11]["ds"]}
        return
    origins = sorted(set(part["origin"].to_pylist()))
    before = [rows[5]["ds"] + timedelta(seconds=step) for step in range(6)]
    assert origins == [*before, *(rows[place]["ds"] for place in (6, 7))]
    assert report["this_run"]["rejects"] == {"future_known_missing": 6}


@pytest.mark.parametrize(("next_row", "left_out"), [(11, []), (12, [11]), (14, [11, 12, 13])])
def test_a_context_without_any_row_makes_no_rolling_window(long, score_rows, next_row, left_out):
    rows = long.make_rows(6, (30,), ahead=0, holes=0)
    kept = [row for place, row in enumerate(rows) if place <= 5 or place >= next_row]
    report, part = score_rows(kept, "--window", "rolling", "--fallback", "last")
    origins = [(time - long.begin) // long.hour for time in sorted(set(part["origin"].to_pylist()))]
    assert origins == [place for place in range(C - 1, 30 - H) if place not in left_out]
    assert "past_not_observed" not in report["this_run"]["rejects"]
