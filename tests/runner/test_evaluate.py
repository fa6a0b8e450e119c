"""Forecasts as issued against what came true: a line of numpy gives each number, and nothing leaks or counts twice."""

import fcntl
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import InputError, OutputError, UsageError
from runner.evaluation.evaluate import evaluate
from runner.evaluation.issued import find_parts, read_rows
from runner.evaluation.question import Question
from runner.parts import Maker, Part, Unit, decode_footer, footer_of
from runner.stop import Stop
from runner.storage import OutputFolder

H, SEASON = 4, 3
START = datetime(2016, 6, 30, 23, tzinfo=UTC)
OLD, NEW = "ab" * 32, "cd" * 32
MAKERS = {OLD: Maker("y", 1.0, H, SEASON, "fp32", 0.5, 0.625), NEW: Maker("y", 1.0, H, SEASON, "fp32", 0.25, 0.5)}


def hours(steps, zone="UTC"):
    return pa.array([START + timedelta(hours=int(step)) for step in np.ravel(steps)], pa.timestamp("us", zone))


@dataclass
class World:
    """Two hundred hours of three series, forecasts of them by night, and what of it is known.

    Attributes:
        y: the whole truth [S, T].
        forecast: what was forecast, by (origin, bundle) [S, H].
    """

    root: Path
    y: np.ndarray
    forecast: dict[tuple[int, str], np.ndarray]
    names: tuple = ("a", "b", "c")

    def part(self, origin, bundle=OLD, *, name=None, source=None, nulls=(), series=None, change=lambda table: table):
        """Write the forecasts of one night; return its values."""
        rng = np.random.default_rng(origin)
        chosen = list(range(len(self.names))) if series is None else series
        values = rng.normal(size=(len(chosen), H)).astype(np.float32)
        self.forecast[origin, bundle] = values
        rows = values.size
        masked = np.zeros(values.shape, bool)
        for place in nulls:
            masked[place] = True
        columns = {
            "unique_id": np.repeat(np.array(self.names)[chosen], H),
            "ds": hours(np.tile(origin + 1 + np.arange(H), len(chosen))),
            "step": np.tile(np.arange(1, H + 1, dtype=np.int32), len(chosen)),
            "origin": hours(np.full(rows, origin)),
            "prediction": pa.array(values.ravel(), mask=masked.ravel()),
            "reject_reason": pa.array(np.where(masked.ravel(), "past_not_finite", None).tolist(), pa.string()),
            "bundle_id": pa.array([bundle] * rows).dictionary_encode(),
        }
        if source is not None:
            columns["source"] = pa.array(np.ravel(source).tolist()).dictionary_encode()
        path = name or f"date={origin:03d}/a.parquet"
        unit = Unit(path, None, len(chosen), 1, "ef" * 32)
        part = Part(unit, bundle, "01" * 32, "free-running", "cpu", "0", MAKERS[bundle], {}, len(chosen), {}, None)
        target = self.root / "out" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(target, (table := change(pa.table(columns))).schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(footer_of(part))
        return values

    def actuals(self, until, **columns):
        """Write what is known up to a step; return it with NaN for the rest [S, T]."""
        steps = until + 1
        table = {
            "unique_id": np.repeat(self.names, steps),
            "ds": hours(np.tile(np.arange(steps), len(self.names))),
            "y": self.y[:, :steps].ravel(),
            **columns,
        }
        (self.root / "actuals").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), self.root / "actuals" / "a.parquet")
        return np.where(np.arange(self.y.shape[1]) < steps, self.y, np.nan)

    def evaluate(self, **options):
        asked = Question(self.root / "out", str(self.root / "actuals"), ("unique_id", "ds"), **options)
        return evaluate(asked, Stop())

    def errors(self, known):
        """Return every error that is known, in any order."""
        found = [
            (values - known[:, origin + 1 : origin + 1 + H]).ravel() for (origin, _), values in self.forecast.items()
        ]
        errors = np.concatenate(found).astype(np.float64)
        return errors[~np.isnan(errors)]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, np.random.default_rng(1).normal(size=(3, 200)), {})


def test_the_loss_is_one_line_of_numpy(world):
    for origin in (50, 74, 98):
        world.part(origin)
    known = world.actuals(199)
    found = world.evaluate()
    errors = world.errors(known)
    assert found.observed_mse == pytest.approx((errors**2).mean(), rel=1e-12)
    assert found.masked_mse == found.observed_mse
    assert (found.windows, found.cells.forecast, found.cells.known) == (9, 36, 36)
    assert (found.layout, found.parts, found.foreign, found.warnings) == ("long", 3, 0, ())
    for step in found.per_step:
        mine = [world.forecast[key][:, step.step - 1] - known[:, key[0] + step.step] for key in world.forecast]
        assert step.observed_mse == pytest.approx((np.concatenate(mine) ** 2).mean(), rel=1e-12)
        assert step.bias == pytest.approx(np.concatenate(mine).mean(), rel=1e-12)
        assert step.mae == pytest.approx(np.abs(np.concatenate(mine)).mean(), rel=1e-12)


def test_a_horizon_that_is_partly_known_counts_as_far_as_it_is(world):
    for origin in (50, 74):
        world.part(origin)
    known = world.actuals(75)  # of the second night one step of four
    found = world.evaluate()
    assert (found.cells.known, found.cells.pending, found.cells.excluded) == (15, 9, 0)
    assert found.observed_mse == pytest.approx((world.errors(known) ** 2).mean(), rel=1e-12)
    assert found.masked_mse == found.observed_mse  # what is pending is in no denominator
    assert [step.observed for step in found.per_step] == [6, 3, 3, 3]
    assert any("early ones weigh more" in warning for warning in found.warnings)


def test_what_a_mask_excludes_is_due_and_a_null_that_nothing_follows_may_still_come(world):
    world.part(50)
    mask = np.zeros((3, 55), np.int8)
    mask[0, 52] = 1
    world.y[1, 53] = np.nan  # a gap: the next step is known
    world.y[2, 54] = np.nan  # the end
    world.actuals(54, mask=mask.ravel())
    found = world.evaluate()
    assert (found.cells.known, found.cells.excluded, found.cells.pending) == (9, 2, 1)
    assert found.masked_mse == pytest.approx(found.observed_mse * 9 / 11, rel=1e-12)


def test_nothing_known_yet_is_no_fault_and_a_gate_says_that_it_saw_nothing(world):
    world.part(50)
    world.actuals(40)
    found = world.evaluate(max_ratio=0.1)
    assert (found.exit_code, found.observed_mse, found.ratio, found.cells.pending) == (0, None, None, 12)
    assert "nothing that was forecast is known yet, so --max-ratio had nothing to look at" in found.warnings


def test_naive_forecasts_know_nothing_after_the_origin(world):
    for origin in (50, 74):
        world.part(origin)
    known = world.actuals(199)
    found = world.evaluate()
    last, seasonal = [], []
    for origin in (50, 74):
        target = known[:, origin + 1 : origin + 1 + H]
        last.append(target - known[:, origin : origin + 1])
        seasonal.append(target - known[:, [origin + 1 + h - SEASON * (1 + h // SEASON) for h in range(H)]])
    assert found.naive["last"].observed_mse == pytest.approx((np.concatenate(last) ** 2).mean(), rel=1e-12)
    assert found.naive["seasonal"].observed_mse == pytest.approx((np.concatenate(seasonal) ** 2).mean(), rel=1e-12)


def test_a_naive_forecast_reaches_back_over_what_is_missing(world):
    world.part(50)
    world.y[0, [50, 48]] = np.nan  # the origin, and the latest season of the first step
    known = world.actuals(54)
    found = world.evaluate()
    target = known[:, 51:55]
    last = target - np.array([known[0, 49], known[1, 50], known[2, 50]])[:, None]
    back = np.tile([48, 49, 50, 48], (3, 1))
    back[0] = [45, 49, 47, 45]
    seasonal = target - np.take_along_axis(known, back, axis=1)
    assert found.naive["last"].observed_mse == pytest.approx((last**2).mean(), rel=1e-12)
    assert found.naive["seasonal"].observed_mse == pytest.approx((seasonal**2).mean(), rel=1e-12)


def test_rejects_and_fallbacks_are_counted_and_in_no_score(world):
    source = np.full((3, H), "model", object)
    source[1] = "seasonal"
    world.part(50, source=source, nulls=[(0, slice(None))])
    known = world.actuals(199)
    found = world.evaluate()
    assert (found.cells.forecast, found.cells.rejected, found.cells.fallback, found.windows) == (4, 4, 4, 1)
    mine = world.forecast[50, OLD][2] - known[2, 51:55]
    assert found.observed_mse == pytest.approx((mine.astype(np.float64) ** 2).mean(), rel=1e-12)


def test_a_forecast_that_stands_there_twice_counts_once_and_the_first_path_wins(world):
    world.part(50)
    first = world.forecast[50, OLD]
    once = world.actuals(199)
    before = world.evaluate()
    world.part(50, name="date=051/again.parquet", series=[0, 2])
    world.forecast[50, OLD] = first
    found = world.evaluate()
    assert (found.cells.twice, found.cells.forecast, found.windows) == (8, 12, 3)
    assert found.observed_mse == before.observed_mse == pytest.approx((world.errors(once) ** 2).mean(), rel=1e-12)
    assert any("8 forecasts stand there twice" in warning for warning in found.warnings)


def test_two_bundles_for_one_night_both_count_and_each_is_held_against_its_own_certificate(world):
    world.part(50)
    world.part(50, NEW, name="new/a.parquet", series=[0, 1])
    known = world.actuals(199)
    found = world.evaluate(max_ratio=1.0)
    assert [group.name for group in found.by_bundle] == [OLD, NEW]
    assert [group.certified.observed_mse for group in found.by_bundle] == [0.625, 0.5]
    assert [group.known for group in found.by_bundle] == [12, 8]
    assert found.cells.twice == 0
    assert found.certified.observed_mse == pytest.approx((12 * 0.625 + 8 * 0.5) / 20)
    old = world.forecast[50, OLD] - known[:, 51:55]
    assert found.by_bundle[0].ratio == pytest.approx((old.astype(np.float64) ** 2).mean() / 0.625, rel=1e-12)
    assert found.ratio == pytest.approx(found.observed_mse / found.certified.observed_mse)
    assert found.exit_code == 15
    assert "--max-ratio" in found.error
    assert world.evaluate(max_ratio=found.ratio).exit_code == 0


def test_groups_by_date_of_origin_and_by_series_add_up_and_are_named(world, tmp_path):
    for origin in (25, 26, 50):
        world.part(origin)
    known = world.actuals(199)
    found = world.evaluate(by_series=tmp_path / "series.parquet")
    assert [(group.name, group.known) for group in found.by_origin] == [("2016-07-02", 24), ("2016-07-03", 12)]
    losses = {}
    for row, name in enumerate(world.names):
        mine = [world.forecast[key][row] - known[row, key[0] + 1 : key[0] + 1 + H] for key in world.forecast]
        losses[name] = (np.concatenate(mine).astype(np.float64) ** 2).mean()
    assert [group.name for group in found.by_series.worst] == sorted(losses, key=losses.get, reverse=True)
    assert found.by_series.count == 3
    assert found.by_series.quantiles["1"] == pytest.approx(max(losses.values()), rel=1e-12)
    table = pq.read_table(tmp_path / "series.parquet").to_pylist()
    assert {row["unique_id"]: row["observed_mse"] for row in table} == pytest.approx(losses, rel=1e-12)


def test_dates_of_origin_are_those_of_the_forecasts_own_zone(world):
    there = pa.timestamp("us", "Europe/Berlin")  # 23:00 in UTC is the next day
    world.part(0, change=lambda table: table.set_column(3, "origin", table["origin"].cast(there)))
    world.actuals(199)
    assert [group.name for group in world.evaluate().by_origin] == ["2016-07-01"]


@pytest.mark.parametrize("kind", [pa.timestamp("ms", "UTC"), pa.timestamp("ns", "Europe/Berlin")])
def test_times_of_another_unit_or_zone_are_the_same_instants(world, kind):
    world.part(50)
    world.actuals(199)
    before = world.evaluate().observed_mse
    path = world.root / "actuals" / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "ds", table["ds"].cast(kind)), path)
    assert world.evaluate().observed_mse == before


def test_times_without_a_zone_are_not_joined_with_times_that_have_one(world):
    world.part(50)
    world.actuals(199)
    path = world.root / "actuals" / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "ds", table["ds"].cast(pa.timestamp("us"))), path)
    with pytest.raises(InputError, match="time zone"):
        world.evaluate()


def test_integers_are_series_and_times_as_well(world):
    def numbered(table):
        who = pa.array([ord(name) for name in table["unique_id"].to_pylist()], pa.int32())
        table = table.set_column(0, "unique_id", who)
        for name in {"ds", "origin"} & set(table.column_names):
            hour = (np.asarray(table[name]) - np.datetime64(START.replace(tzinfo=None))) // np.timedelta64(1, "h")
            table = table.set_column(table.column_names.index(name), name, pa.array(hour))
        return table

    world.part(50)
    world.actuals(199)
    before = world.evaluate()
    world.part(50, change=numbered)
    path = world.root / "actuals" / "a.parquet"
    pq.write_table(numbered(pq.read_table(path)), path)
    found = world.evaluate()
    assert found.observed_mse == before.observed_mse
    assert found.naive == before.naive
    assert [group.name for group in found.by_origin] == ["50"]
    assert {group.name for group in found.by_series.worst} == {"97", "98", "99"}


def test_actuals_that_contradict_each_other_are_refused_with_examples_and_equal_ones_are_fine(world):
    world.part(50)
    world.actuals(199)
    before = world.evaluate()
    table = pq.read_table(world.root / "actuals" / "a.parquet")
    pq.write_table(table, world.root / "actuals" / "b.parquet")
    assert world.evaluate().observed_mse == before.observed_mse
    y = table["y"].to_numpy().copy()
    y[51] += 1
    pq.write_table(table.set_column(2, "y", pa.array(y)), world.root / "actuals" / "b.parquet")
    with pytest.raises(InputError, match=r"different things of 1 steps:\n  - a at 2016-07-03 02:00:00"):
        world.evaluate()


def test_a_value_that_comes_later_takes_the_place_of_a_null(world):
    world.part(50)
    world.actuals(199)
    before = world.evaluate()
    table = pq.read_table(world.root / "actuals" / "a.parquet")
    pq.write_table(table.set_column(2, "y", pa.nulls(len(table), pa.float64())), world.root / "actuals" / "0.parquet")
    assert world.evaluate() == before


def test_columns_of_the_actuals_may_have_other_names(world):
    world.part(50)
    world.actuals(199)
    before = world.evaluate()
    path = world.root / "actuals" / "a.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["meter", "at", "load"]), path)
    for target in ("target", "y"):
        found = world.evaluate(columns={"unique_id": "meter", "ds": "at", target: "load"})
        assert found.observed_mse == before.observed_mse
    with pytest.raises(InputError, match="'unique_id' is missing"):
        world.evaluate()
    with pytest.raises(UsageError, match="no role"):
        world.evaluate(columns={"colour": "load"})


@pytest.mark.parametrize(("flag", "excluded"), [("mask", 1), ("available_mask", 0), ("observed", 0)])
def test_both_polarities_exclude(world, flag, excluded):
    world.part(50)
    values = np.full((3, 200), 1 - excluded)
    values[:, 51] = excluded
    world.actuals(199, **{flag: values.ravel()})
    assert world.evaluate().cells.excluded == 3


def test_a_flag_that_is_neither_0_nor_1_is_refused(world):
    world.part(50)
    world.actuals(199, mask=np.full(600, 7))
    with pytest.raises(InputError, match="neither 0 nor 1"):
        world.evaluate()


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [("mask", ["no"] * 600, "no flags"), ("y", ["1"] * 600, "no target"), ("y", [np.inf] * 600, "infinite")],
)
def test_columns_of_the_wrong_type_are_refused(world, column, values, named):
    world.part(50)
    world.actuals(199, **{column: values})
    with pytest.raises(InputError, match=named):
        world.evaluate()


def test_files_that_are_no_parts_are_left_out_and_named(world):
    world.part(50)
    world.actuals(199)
    before = world.evaluate()
    pq.write_table(pa.table({"prediction": [1.0]}), world.root / "out" / "other.parquet")
    found = world.evaluate()
    assert (found.foreign, found.observed_mse) == (1, before.observed_mse)
    assert any("other.parquet" in warning for warning in found.warnings)


def test_damaged_parts_are_refused_by_name(world):
    world.part(50)
    world.actuals(199)
    (world.root / "out" / "x.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"x\.parquet is damaged"):
        world.evaluate()


def test_a_part_that_is_replaced_between_footer_and_rows_is_refused(world):
    world.part(50)
    out = OutputFolder(world.root / "out")
    (issued,), _ = find_parts(out, Stop())
    assert sum(batch.num_rows for batch in read_rows(out, issued, ["step"], Stop())) == 12
    with pytest.raises(InputError, match="was replaced"):
        next(read_rows(out, replace(issued, digest=b"another"), ["step"], Stop()))


def test_a_folder_of_rejects_alone_has_counts_and_no_score(world):
    world.part(50, nulls=[(slice(None), slice(None))])
    world.actuals(199)
    found = world.evaluate()
    assert (found.cells.rejected, found.cells.forecast, found.windows) == (12, 0, 0)
    assert (found.masked_mse, found.per_step, found.by_origin, found.by_bundle[:1]) == (None, (), (), ())


def test_out_is_only_read_also_while_a_run_holds_its_lock(world):
    world.part(50)
    world.actuals(199)
    lock = world.root / "out" / ".lock"
    lock.touch()
    before = {path: path.stat() for path in (world.root / "out").rglob("*")}
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert world.evaluate().cells.known == 12
    after = {path: path.stat() for path in (world.root / "out").rglob("*")}
    assert [(path, stat.st_mtime_ns) for path, stat in before.items()] == [
        (path, stat.st_mtime_ns) for path, stat in after.items()
    ]


def test_steps_of_different_lengths_leave_the_seasonal_forecast_out_and_say_so(world):
    world.part(50, change=lambda table: table.set_column(1, "ds", hours(np.tile([51, 52, 54, 57], 3))))
    world.actuals(199)
    found = world.evaluate()
    assert "seasonal" not in found.naive
    assert any("not all equally long" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("on", "error", "named"),
    [(("unique_id",), UsageError, "--on unique_id,ds"), (("unique_id", "day"), InputError, "'day' is missing")],
)
def test_keys_that_cannot_be_are_refused(world, on, error, named):
    world.part(50)
    world.actuals(199)
    with pytest.raises(error, match=named):
        evaluate(Question(world.root / "out", str(world.root / "actuals"), on), Stop())


def test_a_month_of_nights_with_failures_and_a_promotion_scores_every_forecast_once(world):
    nights = range(24, 144, 24)
    for count, origin in enumerate(nights):
        if count == 3:
            continue  # this night fails
        world.part(origin, NEW if count > 2 else OLD)
        known = world.actuals(max(origin - 48, 0))  # two days late
        found = world.evaluate()
        assert found.cells.known == 0 or found.observed_mse == pytest.approx(
            (world.errors(known) ** 2).mean(), rel=1e-12
        )
    world.part(96, OLD)  # caught up
    known = world.actuals(199)
    found = world.evaluate()
    assert (found.windows, found.cells.known, found.cells.twice) == (15, 60, 0)
    assert found.observed_mse == pytest.approx((world.errors(known) ** 2).mean(), rel=1e-12)
    assert [group.known for group in found.by_bundle] == [48, 12]


def test_the_file_for_the_series_may_not_lie_in_out(world):
    world.part(50)
    world.actuals(199)
    with pytest.raises(UsageError, match="only read"):
        world.evaluate(by_series=world.root / "out" / "series.parquet")
    (world.root / "file").touch()
    with pytest.raises((OutputError, UsageError)):
        world.evaluate(by_series=world.root / "file" / "series.parquet")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        evaluate(Question(tmp_path / "nowhere", str(tmp_path), ("a", "b")), Stop())
    with pytest.raises(InputError, match="holds no part"):
        evaluate(Question(tmp_path, str(tmp_path), ("a", "b")), Stop())


# The windows layout: parts are made by a real run.


@pytest.fixture
def scored(tiny_bundle, dataset, tmp_path, score):
    """Return an output folder and the report of its run."""
    return tmp_path / "out", score(tiny_bundle, dataset, tmp_path / "out")


def windows(out, actuals, *on, **options):
    return evaluate(Question(out, str(actuals), on or ("id",), **options), Stop())


def test_windows_evaluated_against_their_own_input_score_as_the_run_did(scored, dataset):
    out, report = scored
    found = windows(out, dataset)
    assert (found.layout, found.windows, found.cells.forecast) == ("windows", 241, 964)
    assert found.masked_mse == pytest.approx(report.total.masked_mse, rel=1e-12)
    assert found.observed_mse == pytest.approx(report.total.observed_mse, rel=1e-12)
    for step, other in zip(found.per_step, report.total.per_step, strict=True):
        assert step.model_dump() == pytest.approx(other.model_dump(), rel=1e-12)
    assert found.certified.observed_mse == 1.0
    assert (found.naive, found.by_origin, found.by_series.count) == ({}, (), 0)


def test_windows_that_are_not_known_yet_are_pending(scored, dataset):
    out, _ = scored
    (dataset / "a.parquet").unlink()
    found = windows(out, dataset)
    assert (found.cells.forecast, found.cells.pending) == (964, 520)


def test_windows_with_a_series_and_an_origin_are_grouped(tiny, tiny_bundle, tmp_path, score):
    (tmp_path / "in").mkdir()
    table = tiny.make_table(60)
    table = table.append_column("series", pa.array([f"s{row % 3}" for row in range(60)]))
    table = table.append_column("origin", hours([24 * (row // 3) for row in range(60)]))
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    report = score(tiny_bundle, tmp_path / "in", tmp_path / "out")
    found = windows(tmp_path / "out", tmp_path / "in", "series", "origin")
    assert found.masked_mse == pytest.approx(report.total.masked_mse, rel=1e-12)
    assert len(found.by_origin) == 20
    assert {group.name for group in found.by_series.worst} == {"s0", "s1", "s2"}
    assert sum(group.known for group in found.by_origin) == found.cells.known


def test_windows_that_contradict_each_other_are_refused(scored, tiny, dataset):
    out, _ = scored
    pq.write_table(
        tiny.make_table(5, seed=0).set_column(4, "target", tiny.nested(np.ones((5, 4), np.float32))),
        dataset / "z.parquet",
    )
    with pytest.raises(InputError, match="window 0, step 1"):
        windows(out, dataset)


def test_targets_of_another_length_are_refused(scored, tiny, tmp_path):
    out, _ = scored
    table = tiny.make_table(5).set_column(4, "target", tiny.nested(np.ones((5, 3), np.float32)))
    pq.write_table(table, tmp_path / "short.parquet")
    with pytest.raises(InputError, match="fixed length 3, expected 4"):
        windows(out, tmp_path / "short.parquet")


def test_forecasts_of_another_length_than_the_footer_tells_are_refused(scored, dataset):
    out, _ = scored
    table, footer = pq.read_table(out / "a.parquet"), pq.read_metadata(out / "a.parquet").metadata
    longer = pa.array([[0.0] * 5] * len(table), pa.list_(pa.float32()))
    with pq.ParquetWriter(out / "a.parquet", table.schema) as writer:
        writer.write_table(table.set_column(table.column_names.index("prediction"), "prediction", longer))
        writer.add_key_value_metadata({key: footer[key] for key in footer if key.startswith(b"freerun")})
    with pytest.raises(InputError, match="other lengths than its horizon"):
        windows(out, dataset)


def test_a_part_tells_what_its_bundle_was_certified_at(scored):
    out, _ = scored
    part = decode_footer(pq.read_metadata(out / "a.parquet").metadata)
    assert part.maker == Maker("y", 1.0, 4, 2, "fp32", 1.0, 1.0)
    assert replace(part, maker=replace(part.maker, scale=2.0)).encode() != part.encode()
