"""Two bundles on the same windows: the verdict is what the data prove, and nothing else opens the gate."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.comparison.compare import Comparison, compare, judge
from runner.comparison.duel import BlockSums
from runner.errors import BundleError, DeviceError, InputError, UsageError
from runner.stop import Stop
from runner.validate import validate

ROWS = 900
"""Enough for 20 blocks of 2(C + H) = 20 windows, and more than a few."""


@pytest.fixture(scope="module")
def bundles(tiny, tmp_path_factory):
    """Return two bundles; the data below are the first one's own forecasts, and noise."""
    root = tmp_path_factory.mktemp("bundles")
    return tuple(tiny.make_bundle(root / str(seed), seed=seed) for seed in (0, 1))


def table_of(tiny, rows=ROWS, noise=0.1, **columns):
    table, rng = tiny.make_table(rows), np.random.default_rng(3)
    values = {name: np.array(table[name].to_pylist(), float) for name in ("past", "past_observed", "future_known")}
    past = np.where(values["past_observed"][:, :, None] > 0, values["past"], 0.0)
    told = tiny.reference_forecast(tiny.draw_weights(0), past, values["past_observed"], values["future_known"])
    target = (told + rng.normal(0, noise, told.shape)).astype(np.float32)
    table = table.set_column(table.column_names.index("target"), "target", tiny.nested(target))
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return table


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "a.parquet"
    pq.write_table(table_of(tiny), path)
    return path


def ask(old, new, data, **options):
    return compare(Comparison(old, new, str(data), **options), Stop())


def test_the_better_bundle_is_proved_better_and_the_gate_opens(bundles, data):
    found = ask(bundles[1], bundles[0], data)
    assert (found.verdict, found.exit_code, found.error) == ("better", 0, None)
    assert found.difference == found.old.masked_mse - found.new.masked_mse > 0
    assert found.interval[0] < found.difference < found.interval[1]
    assert (found.windows.used, found.windows.blocks_are) == (ROWS, "neighbours")
    assert found.windows.blocks == ROWS // 20
    assert set(found.naive) == {"last", "seasonal"}


def test_the_worse_one_is_proved_worse_and_the_gate_stays_shut(bundles, data):
    found = ask(bundles[0], bundles[1], data)
    assert (found.verdict, found.exit_code) == ("worse", 15)
    assert "not better: worse" in found.error


def test_the_same_bundle_twice_differs_by_exactly_nothing_and_is_not_better(bundles, data):
    found = ask(bundles[0], bundles[0], data)
    assert (found.verdict, found.exit_code, found.difference, found.interval) == ("not proven", 15, 0.0, (0.0, 0.0))
    assert set(found.difference_by_step) == {0.0}
    assert found.differs == ()


def test_both_scores_are_those_of_a_run(bundles, data, score, tmp_path):
    found = ask(*bundles, data)
    for name, bundle, contender in zip("on", bundles, (found.old, found.new), strict=True):
        report = score(bundle, data.parent, tmp_path / name)
        assert contender.masked_mse == pytest.approx(report.total.masked_mse, rel=1e-12)
        assert contender.observed_mse == pytest.approx(report.total.observed_mse, rel=1e-12)
        assert [step.observed for step in contender.per_step] == [step.observed for step in report.total.per_step]
        assert found.naive["last"].masked_mse == pytest.approx(report.total.naive["last"].masked_mse, rel=1e-12)
    steps = zip(found.old.per_step, found.new.per_step, strict=True)
    assert list(found.difference_by_step) == [one.masked_mse - other.masked_mse for one, other in steps]


def test_too_few_blocks_prove_nothing_and_say_so(bundles, tiny, tmp_path):
    pq.write_table(table_of(tiny, 100), tmp_path / "few.parquet")
    found = ask(bundles[1], bundles[0], tmp_path / "few.parquet")
    assert (found.verdict, found.interval, found.exit_code) == ("not proven", None, 15)
    assert "5 blocks are too few" in found.reason


def test_a_margin_has_to_be_won_for_sure(bundles, data):
    found = ask(bundles[1], bundles[0], data, margin=1.0)
    assert (found.verdict, found.exit_code) == ("not proven", 15)
    assert ask(bundles[1], bundles[0], data, margin=found.interval[0] / found.old.masked_mse * 0.99).verdict == "better"


def test_with_enough_series_whole_ones_are_drawn(bundles, tiny, tmp_path):
    series = [f"s{row % 25}" for row in range(ROWS)]
    pq.write_table(table_of(tiny, meter=series), tmp_path / "series.parquet")
    found = ask(bundles[1], bundles[0], tmp_path / "series.parquet", columns={"series": "meter"})
    assert (found.windows.blocks, found.windows.blocks_are, found.verdict) == (25, "series", "better")


def test_with_few_series_neighbours_are_drawn(bundles, tiny, tmp_path):
    pq.write_table(table_of(tiny, series=[row // 300 for row in range(ROWS)]), tmp_path / "series.parquet")
    assert ask(bundles[1], bundles[0], tmp_path / "series.parquet").windows.blocks_are == "neighbours"


def test_where_some_files_name_no_series_neighbours_are_drawn(bundles, tiny, tmp_path):
    series = [f"s{row % 25}" for row in range(ROWS)]
    pq.write_table(table_of(tiny, series=series), tmp_path / "a.parquet")
    pq.write_table(table_of(tiny, 50), tmp_path / "b.parquet")
    found = ask(bundles[1], bundles[0], tmp_path)
    assert (found.windows.blocks_are, found.windows.blocks) == ("neighbours", (ROWS + 50) // 20)


def test_rows_that_neither_can_forecast_are_in_no_score(bundles, tiny, tmp_path):
    table = table_of(tiny)
    future = np.array(table["future_known"].to_pylist(), np.float32)
    future[:7] = np.nan
    table = table.set_column(table.column_names.index("future_known"), "future_known", tiny.nested(future))
    pq.write_table(table, tmp_path / "a.parquet")
    found = ask(*bundles, tmp_path / "a.parquet")
    assert (found.windows.used, found.windows.total) == (ROWS - 7, ROWS)
    assert (found.old.rejected, found.new.rejected) == (7, 7)


def test_what_one_of_them_rejects_is_in_neither_score(bundles, data, monkeypatch):
    calls = itertools.count()

    def each_second_rejects(*given, **settings):
        batch = validate(*given, **settings)
        rows = np.arange(len(batch)) < 5
        return batch.rejecting(rows, "past_not_finite") if next(calls) % 2 else batch

    whole = ask(*bundles, data)
    monkeypatch.setattr("runner.comparison.source.validate", each_second_rejects)
    found = ask(*bundles, data)
    assert (found.old.rejected, found.new.rejected) == (0, 5 * next(calls) // 2)
    assert found.windows.used == ROWS - found.new.rejected < whole.windows.used
    assert found.old.masked_mse != whole.old.masked_mse


def test_what_differs_between_the_bundles_is_told(bundles, tiny, data, tmp_path):
    other = tiny.make_bundle(tmp_path / "other", seed=1, season_length=3, scaling="window")
    found = ask(bundles[0], other, data)
    assert found.differs == ("season_length: OLD 2, NEW 3", "scaling: OLD none, NEW window")


def test_bundles_of_two_horizons_are_not_compared(bundles, tiny, data, tmp_path):
    other = tiny.make_bundle(tmp_path / "other", seed=1, horizon=5)
    with pytest.raises(UsageError, match="horizon: OLD 4, NEW 5"):
        ask(bundles[0], other, data)


def test_a_bundle_of_another_context_is_refused_where_the_data_does_not_fit_it(bundles, tiny, data, tmp_path):
    other = tiny.make_bundle(tmp_path / "other", seed=1, context_length=5)
    with pytest.raises(InputError, match=r"NEW: column 'past'.* expected 5"):
        ask(bundles[0], other, data)


@pytest.mark.parametrize(
    ("drop", "named"),
    [("target", "there is no target"), ("past", "OLD and NEW: column 'past' is missing")],
)
def test_data_that_does_not_fit_is_refused(bundles, tiny, tmp_path, drop, named):
    pq.write_table(table_of(tiny, 10).drop_columns([drop]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=named):
        ask(*bundles, tmp_path / "a.parquet")


def test_data_of_which_nothing_counts_is_refused(bundles, tiny, tmp_path):
    table = table_of(tiny, 10)
    mask = tiny.nested(np.ones((10, 4), np.uint8))
    pq.write_table(table.set_column(table.column_names.index("mask"), "mask", mask), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no target"):
        ask(*bundles, tmp_path / "a.parquet")


def test_a_precision_or_a_device_that_is_not_there_is_refused(bundles, data):
    with pytest.raises(BundleError, match="int8"):
        ask(*bundles, data, precision="int8")
    with pytest.raises((DeviceError, UsageError)):
        ask(*bundles, data, device="cuda")


@pytest.mark.parametrize(
    ("interval", "least", "verdict"),
    [
        ((0.1, 0.2), 0.0, "better"),
        ((0.1, 0.2), 0.1, "not proven"),
        ((0.0, 0.2), 0.0, "not proven"),
        ((-0.1, 0.0), 0.0, "not proven"),
        ((-0.2, -0.1), 0.0, "worse"),
        (None, 0.0, "not proven"),
    ],
)
def test_only_an_interval_above_the_margin_is_better(interval, least, verdict):
    assert judge(interval, 30, least)[0] == verdict


def test_many_blocks_are_drawn_together_and_lose_nothing():
    sums = BlockSums()
    block = np.arange(5000, dtype=np.intp) * 2  # every other one has no window
    sums.add(block, np.ones(5000), np.full(5000, 2.0), np.full(5000, 4.0))
    found = sums.dense()
    assert len(found.cells) == 2000
    assert (found.old.sum(), found.new.sum(), found.cells.sum()) == (5000, 10000, 20000)
    assert set(found.cells) == {8.0, 12.0}


def test_the_command_prints_the_verdict_and_ends_with_15_unless_it_is_better(command, bundles, data):
    done = command("compare", bundles[1], bundles[0], data)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("better: ")
    assert "seasonal naive" in done.out
    done = command("compare", bundles[0], bundles[1], data, "--json")
    assert done.code == done.json()["exit_code"] == 15
    assert "the new bundle is not better" in done.err


@pytest.fixture
def issued(tiny_bundle, dataset, tmp_path, score):
    score(tiny_bundle, dataset, tmp_path / "out")
    return tmp_path / "out"


def test_evaluate_prints_a_table_or_the_report_and_holds_the_ratio(command, issued, dataset):
    done = command("evaluate", issued, "--actuals", dataset, "--on", "id")
    assert (done.code, done.err) == (0, "")
    for word in ("964", "live / certified", "forecast", "bundle"):
        assert word in done.out
    done = command("evaluate", issued, "--actuals", dataset, "--on", "id", "--max-ratio", "0.5", "--json")
    assert done.code == done.json()["exit_code"] == 15
    assert "--max-ratio" in done.err
    assert json.loads((issued / "_report.json").read_text())["total"]["rows"]["scored"] == 241


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (["--on", "id,id"], 2, "each once"),
        (["--on", ""], 2, "COLUMN"),
        (["--on", "a,b,c"], 2, "cannot be joined"),
        (["--on", "id", "--column", "target"], 2, "ROLE=NAME"),
        (["--on", "id", "--max-ratio", "nan"], 2, "--max-ratio"),
        (["--on", "nothing"], 11, "nothing"),
        (["--on", "id", "--by-series", "series.parquet"], 2, "needs a series"),
    ],
)
def test_what_cannot_be_evaluated_has_its_exit_code(command, issued, dataset, args, code, named):
    done = command("evaluate", issued, "--actuals", dataset, *args)
    assert done.code == code, done.err
    assert named in done.err
    assert "Traceback" not in done.err
