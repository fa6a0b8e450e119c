"""What `freerun score` writes of series is what `freerun evaluate` and `freerun verify-output` read."""

from itertools import cycle

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runner.cli import cli


@pytest.fixture
def evaluate(within, tmp_path):
    """Return what evaluates the folder of a run against rows; flags may be given."""

    def ask(report, actuals, *flags, on="unique_id,ds", code=0):
        pq.write_table(actuals, tmp_path / "actuals.parquet")
        done = within(
            cli, "evaluate", report["out"], "--actuals", tmp_path / "actuals.parquet", "--on", on, "--json", *flags
        )
        assert done.code == code, done.err
        return done.json()

    return ask


def measured(long, rows, *, without=()):
    """Return rows of which every target is known, but for some places, which have no row."""
    return long.table_of([{**row, "y": row["x"]} for place, row in enumerate(rows) if place not in without])


@pytest.mark.parametrize(("column", "flags"), [("OT", ()), ("kW", ("--column", "OT=kW")), ("kW", ("--column", "y=kW"))])
def test_a_target_is_found_in_the_actuals_by_the_name_that_scoring_found_it_by(
    long, tiny, score_rows, evaluate, tmp_path, column, flags
):
    features, target = {"past": ["OT", "x"], "future_known": ["k"]}, {"name": "OT", "feature": 0, "scale": 1.0}
    bundle = tiny.make_bundle(tmp_path / "oil", features=features, target=target)
    rows = long.make_rows(0)
    names = ["unique_id", "ds", column, "x", "k"]
    report, _ = score_rows(long.table_of(rows).rename_columns(names), *flags, bundle=bundle)
    found = evaluate(report, measured(long, rows).rename_columns(names))
    assert found["cells"]["known"] == found["cells"]["forecast"] == 20
    assert evaluate(report, measured(long, rows).rename_columns(names), *flags) == found


def test_columns_of_features_that_scoring_was_told_of_may_stand_in_a_shared_environment(
    long, score_rows, evaluate, monkeypatch
):
    rows = long.make_rows(1)
    monkeypatch.setenv("FREERUN_COLUMN", "x=temperature unique_id=meter")
    report, _ = score_rows(long.table_of(rows).rename_columns(["meter", "ds", "y", "temperature", "k"]))
    found = evaluate(report, measured(long, rows).rename_columns(["meter", "ds", "y", "temperature", "k"]))
    assert found["cells"]["known"] == 20


def test_a_step_without_a_row_is_waited_for_until_a_later_one_of_its_series_is_known(long, score_rows, evaluate):
    rows = long.make_rows(2)
    report, part = score_rows(rows)
    origins = dict(long.latest_origins(rows))
    of_s0 = [place for place, row in enumerate(rows) if row["unique_id"] == "s0" and row["ds"] > origins["s0"]]
    found = evaluate(report, measured(long, rows, without=of_s0[2:]))
    assert (found["cells"]["pending"], found["cells"]["excluded"]) == (2, 0)
    found = evaluate(report, measured(long, rows, without=[of_s0[1]]))
    assert (found["cells"]["pending"], found["cells"]["excluded"], found["cells"]["known"]) == (0, 1, len(part) - 1)
    assert found["masked_mse"] == pytest.approx(found["observed_mse"] * (len(part) - 1) / len(part), rel=1e-12)
    assert found["warnings"] == []


def test_a_folder_whose_parts_have_no_rows_has_no_score(long, score_rows, evaluate):
    rows = long.table_of(long.make_rows(3))
    report, _ = score_rows(rows.slice(0, 0))
    found = evaluate(report, rows)
    assert (found["parts"], found["windows"], found["observed_mse"], found["by_origin"]) == (1, 0, None, [])


@pytest.mark.parametrize("output", ["long", "windows"])
@pytest.mark.parametrize("fallback", [(), ("--fallback", "last")])
def test_rejects_and_those_that_were_filled_are_in_no_score_and_no_fault_of_the_folder(
    long, score_rows, evaluate, within, output, fallback
):
    rows = long.make_rows(4)
    rows.insert(5, rows[5])  # s0 has a step twice
    rows += [{**rows[-1], "unique_id": "never known", "y": None}]
    flags = "--output-layout", output, *fallback
    report, part = score_rows(long.table_of(rows), *flags, row_group_size=20)
    assert report["this_run"]["rejects"] == {"past_not_observed": 1, "step_duplicate": 1}
    assert report["this_run"]["filled"] == len(fallback) / 2
    done = within(cli, "verify-output", report["out"])
    assert done.code == 0, done.err
    assert "6 rows (2 rejected)" in done.out
    if output == "long":
        actuals, on = measured(long, rows[:5] + rows[6:]), "unique_id,ds"
    else:
        keys = part.select(["unique_id", "origin"])
        actuals, on = keys.append_column("target", pa.array([[0.0] * 4] * len(part))), "unique_id,origin"
    found = evaluate(report, actuals, on=on)
    filled = 4 * report["this_run"]["filled"]
    assert (found["cells"]["forecast"], found["cells"]["fallback"]) == (16, filled)
    assert found["cells"]["rejected"] == 8 - filled
    assert [group["forecast"] for group in found["by_bundle"]] == [16]


FIRST = {"D": "2026-03-01", "h": "2026-03-28T00", "15min": "2026-03-28T23:45", "MS": "2026-01"}
KINDS = [
    (pa.date32(), "D"), (pa.timestamp("ms"), "D"), (pa.timestamp("us", "Europe/Berlin"), "D"),
    (pa.timestamp("us"), "h"), (pa.timestamp("ns", "Europe/Berlin"), "h"), (pa.timestamp("us", "UTC"), "15min"),
    (pa.date32(), "MS"), (pa.int32(), "1"), (pa.int64(), "2"),
]  # fmt: skip
NAMES = pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.int16()


def moments(kind, freq, steps):
    """Return so many times in a row, of a type, without the grid that is tested."""
    if pa.types.is_integer(kind):
        return pa.array(np.arange(steps) * int(freq), kind)
    unit, length = {"D": ("D", 1), "h": ("h", 1), "15min": ("m", 15), "MS": ("M", 1)}[freq]
    shown = pa.array((np.datetime64(FIRST[freq], unit) + np.arange(steps) * length).astype("datetime64[us]"))
    zone = getattr(kind, "tz", None)
    if zone and freq == "D":
        shown = pc.assume_timezone(shown, zone)
    elif zone:
        shown = shown.cast(pa.timestamp("us", "UTC"))
    return shown.cast(pa.timestamp(kind.unit, zone)) if pa.types.is_timestamp(kind) else shown.cast(kind)


@pytest.mark.parametrize(
    ("kind", "freq", "names"), [(*kind, names) for kind, names in zip(KINDS, cycle(NAMES), strict=False)], ids=str
)
def test_times_and_names_of_any_type_are_joined_and_score_as_the_run_did(score_rows, evaluate, kind, freq, names):
    rng, steps = np.random.default_rng(6), 40
    table = {
        "unique_id": pa.array(np.repeat([7, 8], steps)).cast(pa.string()).cast(names),
        "ds": pa.concat_arrays([moments(kind, freq, steps)] * 2),
        "y": rng.normal(size=2 * steps).astype(np.float32),
        "x": rng.normal(size=2 * steps),
        "k": rng.integers(0, 2, 2 * steps).astype(bool),
    }
    report, part = score_rows(pa.table(table), "--window", "rolling", "--freq", freq)
    found, run = evaluate(report, pa.table(table)), report["total"]
    assert (found["windows"], found["cells"]["known"]) == (62, 248)
    for key in ("masked_mse", "observed_mse"):
        assert found[key] == pytest.approx(run[key], rel=1e-12)
        assert found["naive"]["last"][key] == pytest.approx(run["naive"]["last"][key], rel=1e-12)
        if "seasonal" in found["naive"]:
            assert found["naive"]["seasonal"][key] == pytest.approx(run["naive"]["seasonal"][key], rel=1e-12)
    uneven = freq == "MS" or (freq == "D" and getattr(kind, "tz", None))
    assert ("seasonal" in found["naive"]) != bool(uneven)
    assert part["ds"].type == kind
