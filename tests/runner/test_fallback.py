"""A naive forecast in the place of a reject: of what is known of its past, told as such, and in no score."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.batch import WindowBatch, reason_code
from runner.cli import cli
from runner.fallback import fill

C, F, H, _, _ = 6, 2, 4, 1, 3
SEASON = 2


def batch_of(past, known, reasons):
    """Return windows of these pasts [B, C, M], of which these are known, with reasons."""
    past, known = np.asarray(past, np.float32), np.asarray(known, bool)
    codes = np.array([reason_code(reason) for reason in reasons], np.uint8)
    return WindowBatch(past, None, None, None, None, None, np.zeros(len(codes), bool), codes, naive=known)


def test_of_several_targets_each_repeats_its_own_last_known_value():
    past = [[[1, 10], [2, 20], [3, 30]]]
    known = [[[True, True], [False, True], [False, False]]]
    prediction = np.zeros((1, 4), np.float32)
    found, filled = fill(batch_of(past, known, ["past_not_finite"]), prediction, "last", (0, 1), None)
    assert (found.tolist(), filled.tolist()) == ([[1, 20, 1, 20]], [True])
    found, _ = fill(batch_of(past, known, ["past_not_finite"]), prediction, "seasonal", (0, 1), 2)
    assert found.tolist() == [[1, 20, 1, 10]]
    assert prediction.tolist() == [[0, 0, 0, 0]], "what was given stays as it was"


def test_a_target_of_which_nothing_is_known_leaves_the_whole_window_without_a_forecast():
    known = [[[True, False], [True, False], [True, False]]]
    found, filled = fill(
        batch_of(np.ones((1, 3, 2)), known, ["past_not_finite"]), np.full((1, 4), 9, np.float32), "last", (0, 1), None
    )
    assert (found.tolist(), filled.tolist()) == ([[9, 9, 9, 9]], [False])


def test_good_rows_and_rows_nobody_asked_about_are_left_alone():
    batch = batch_of(np.ones((2, 3, 1)), np.ones((2, 3, 1)), ["", "past_shape"])
    prediction = np.array([[5, 6], [7, 8]], np.float32)
    found, filled = fill(batch, prediction, "last", (0,), None)
    assert (found.tolist(), filled.tolist()) == ([[5, 6], [1, 1]], [False, True])
    asked_nothing = WindowBatch(batch.past, None, None, None, None, None, batch.has_target, batch.reasons)
    assert fill(asked_nothing, prediction, "last", (0,), None)[0] is prediction


def spoil(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(
        table.schema.names.index(column), column, pa.array(values, pa.list_(kind_of(table, column)))
    )


def kind_of(table, column):
    kind = table.schema.field(column).type.value_type
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


@pytest.fixture
def table(tiny):
    return tiny.make_table(12, 3)


@pytest.fixture
def scored(within, tiny_bundle, tmp_path):
    def score(table, *flags, bundle=tiny_bundle, code=0):
        folder = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        pq.write_table(table, folder / "in.parquet")
        words = "score", bundle, folder / "in.parquet", "--out", folder / "out", "--json", "--max-reject-rate", 1
        done = within(cli, *words, *flags)
        assert done.code == code, done.err
        return done.json()["this_run"], pq.read_table(folder / "out" / "in.parquet")

    return score


def past_of(table, row):
    return np.array(table["past"][row].as_py(), np.float32), np.array(table["past_observed"][row].as_py(), bool)


def by_hand(table, row, kind):
    past, there = past_of(table, row)
    last = past[np.flatnonzero(there)[-1], 0]
    if kind == "last":
        return [last] * H
    steps = [[c for c in range(C + h - SEASON, -1, -SEASON) if c < C and there[c]] for h in range(H)]
    return [past[found[0], 0] if found else last for found in steps]


@pytest.mark.parametrize("kind", ["last", "seasonal"])
def test_rejects_of_windows_are_filled_from_their_own_past_and_are_in_no_score(table, scored, kind):
    spoiled = spoil(table, "future_known", 4, [[float("inf")]] * H)
    spoiled = spoil(spoiled, "mask", 7, [2] * H)
    plain, calm = scored(spoiled)
    report, part = scored(spoiled, "--fallback", kind)
    assert (report["rejects"], report["filled"]) == ({"future_known_not_finite": 1, "mask_not_binary": 1}, 2)
    assert {**report, "filled": 0} == plain
    assert part["source"].to_pylist() == [kind if row in {4, 7} else "model" for row in range(12)]
    for row in (4, 7):
        assert part["prediction"][row].as_py() == by_hand(table, row, kind)
    assert "source" not in calm.schema.names
    good = [row for row in range(12) if row not in {4, 7}]
    assert part.take(good)["prediction"].to_pylist() == calm.take(good)["prediction"].to_pylist()


def test_a_reject_without_any_known_past_stays_null(table, scored):
    spoiled = spoil(table, "past_observed", 2, [False] * C)
    spoiled = spoil(spoiled, "past", 5, None)
    spoiled = spoil(spoiled, "past", 6, [[1.0, 1.0]])
    infinite = [[float("inf"), 1.0]] * C
    spoiled = spoil(spoiled, "past", 8, infinite)
    report, part = scored(spoiled, "--fallback", "last")
    reasons = {2: "past_not_observed", 5: "past_missing", 6: "past_shape", 8: "past_not_finite"}
    assert (report["rows"]["rejected"], report["filled"]) == (4, 0)
    for row, reason in reasons.items():
        found = (part["prediction"][row].as_py(), part["source"][row].as_py(), part["reject_reason"][row].as_py())
        assert found == (None, None, reason)


def test_an_infinite_value_is_not_what_is_repeated(table, scored):
    past, there = past_of(table, 3)
    last = np.flatnonzero(there)[-1]
    values = past.tolist()
    values[last][0] = float("inf")
    report, part = scored(spoil(table, "past", 3, values), "--fallback", "last")
    assert (report["rejects"], report["filled"]) == ({"past_not_finite": 1}, 1)
    assert set(part["prediction"][3].as_py()) == {past[np.flatnonzero(there)[-2], 0]}


def test_filled_rejects_count_as_rejects_still(table, scored):
    spoiled = spoil(table, "future_known", 4, [[float("inf")]] * H)
    report, _ = scored(spoiled, "--fallback", "last", "--max-reject-rate", 0.01, code=10)
    assert report["rows"]["rejected"] == report["filled"] == 1


def test_a_seasonal_fallback_without_a_season_is_refused(tiny, table, within, tmp_path):
    bundle = tiny.make_bundle(tmp_path / "bundle", season_length=None)
    pq.write_table(table, tmp_path / "in.parquet")
    words = "score", bundle, tmp_path / "in.parquet", "--out", tmp_path / "out"
    done = within(cli, *words, "--fallback", "seasonal")
    assert (done.code, (tmp_path / "out").exists()) == (2, False)
    assert "--fallback last" in done.err
