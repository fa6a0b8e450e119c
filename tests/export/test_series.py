import hourly
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.config import TrainConfig
from export.recipe import settled
from export.series import OneGrid, open_series
from export.source import trainable
from export.trials import block_windows
from export.windows import measure, open_windows
from runner.batch import REASONS, join
from runner.errors import InputError

CONTEXT, HORIZON = 12, 5
ARRAYS = ("past", "past_observed", "future_known", "target", "observed")


def recipe_of(**keys):
    given = {"context_length": CONTEXT, "horizon": HORIZON, "freq": "h", "past_features": ["x"], **keys}
    return settled(TrainConfig(**given), "long")[1]


def opened(path, stride=1, columns=None, **keys):
    recipe = recipe_of(**keys)
    return open_series(str(path), recipe, columns or {}, recipe.freq, stride)


@pytest.fixture
def write(tmp_path):
    """Return what writes rows or a table of steps to a file, and gives the folder."""

    def to(rows, name="a.parquet", **writing):
        table = rows if isinstance(rows, pa.Table) else hourly.steps_table(rows)
        (tmp_path / "steps").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "steps" / name, **writing)
        return tmp_path / "steps"

    return to


def arrays(batch):
    return {name: getattr(batch, name) for name in ARRAYS}


@pytest.mark.parametrize(("stride", "seed", "group"), [(1, 0, 1000), (3, 1, 17), (7, 2, 1)])
def test_windows_cut_in_memory_are_those_that_a_hand_cuts(write, tmp_path, stride, seed, group):
    rows = hourly.make_rows(seed, (60, 20, 90), missing=0.03)
    keys = {"past_features": ["x"], "future_features": ["k"], "calendar": ["hour", "holiday"]}
    found = opened(write(rows, row_group_size=group), stride, **keys, holidays=[hourly.HOLIDAY])
    ahead = ("k", *hourly.CALENDAR)
    by_hand = hourly.cut_by_hand(rows, CONTEXT, HORIZON, stride, ("y", "x", *ahead), ahead)
    pq.write_table(by_hand, tmp_path / "windows.parquet")
    expected = open_windows(str(tmp_path / "windows.parquet"))
    cut, read = join(list(found.blocks())), join(list(expected.blocks()))
    assert [REASONS[code] for code in cut.reasons] == [REASONS[code] for code in read.reasons]
    assert set(cut.reasons) == {0, REASONS.index("future_known_missing")}
    for name, values in arrays(trainable(read)).items():
        np.testing.assert_array_equal(getattr(trainable(cut), name), values)
    assert (found.sizes, found.flagged) == (expected.sizes, expected.flagged)


def test_what_is_measured_of_series_is_what_is_measured_of_their_windows(write, tmp_path):
    rows = hourly.make_rows(3, (200, 150), missing=0.02)
    by_hand = hourly.cut_by_hand(rows, CONTEXT, HORIZON, 1, ("y", "x", "k"), ("k",))
    pq.write_table(by_hand, tmp_path / "windows.parquet")
    found = measure(opened(write(rows), future_features=["k"]))
    assert f"{found}" == f"{measure(open_windows(str(tmp_path / 'windows.parquet')))}"
    assert found.windows > 100


def test_never_more_windows_are_cut_at_once_than_a_batch_or_a_block_holds(write, monkeypatch):
    series = opened(write(hourly.make_rows(4, (300, 300), missing=0.1)), calendar=["hour"])
    cut, largest = OneGrid.cut, []
    monkeypatch.setattr(OneGrid, "cut", lambda grid, places: largest.append(len(places)) or cut(grid, places))
    assert sum(map(len, series.shuffled(32, 0, 0))) > 500
    assert max(largest) == 32
    monkeypatch.setattr("export.series.block_size", lambda _: type("Block", (), {"rows": 64}))
    largest.clear()
    assert sum(map(len, series.blocks())) == len(series)
    assert max(largest) == 64


def test_what_is_held_grows_with_the_steps_and_not_with_the_windows(write):
    path = write(hourly.make_rows(5, (400,)))
    small, large = (opened(path, context_length=context).grids[0].rolled.panel for context in (4, 300))
    assert sum(column.nbytes for column in large.numbers.values()) == 400 * 2 * 4
    assert {name: values.shape for name, values in small.numbers.items()} == {"y": (400,), "x": (400,)}


def test_an_epoch_visits_every_good_window_once_in_full_batches_and_an_order_of_its_own(write):
    rows = hourly.make_rows(6, (100, 100), missing=0.05)
    series = opened(write(rows), future_features=["k"])

    def epoch(seed, number):
        batches = list(series.shuffled(16, seed, number))
        assert {len(batch) for batch in batches[:-1]} == {16}
        return join(batches).past.reshape(-1, CONTEXT * 3)

    good = trainable(join(list(series.blocks()))).past.reshape(-1, CONTEXT * 3)
    first, again, second = epoch(0, 0), epoch(0, 0), epoch(0, 1)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert len(good) < len(series)
    for found in (first, second):
        np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(good, axis=0))


def test_windows_without_any_known_target_in_their_horizon_are_not_trained_on(write):
    rows = hourly.make_rows(7, (60,))
    silent = [row | {"y": None} if 30 <= step < 45 else row for step, row in enumerate(rows)]
    found = measure(opened(write(silent)))
    assert found.rejects == {"past_not_observed": 4}
    assert found.without_target == 45 - 30 - HORIZON + 1


def test_series_that_are_short_unordered_or_double_are_rejects_with_their_reasons_and_a_padded_one_is_fine(write):
    rows = hourly.make_rows(8, (40, 3, 8, 30, 30))
    of = {name: [row for row in rows if row["unique_id"] == name] for name in ("s0", "s1", "s2", "s3", "s4")}
    mixed = [*of["s0"], *of["s1"], *of["s2"], *of["s3"][::-1], *of["s4"], of["s4"][-1]]
    found = measure(opened(write(mixed)))
    assert found.rejects == {"series_too_short": 1, "step_duplicate": 1, "step_unordered": 1}
    assert found.windows == 40 - CONTEXT - HORIZON + 1 + 1


def test_files_whose_times_have_other_types_are_series_of_one_training(write):
    rows = hourly.make_rows(9, (50, 30))
    write([row for row in rows if row["unique_id"] == "s0"])
    others = [row for row in rows if row["unique_id"] == "s1"]
    path = write(hourly.steps_table(others, pa.timestamp("ms")), "b.parquet")
    both, one = opened(path, calendar=["hour"]), opened(write(rows, "a.parquet") / "a.parquet", calendar=["hour"])
    assert len(both.grids) == 2
    for name, values in arrays(join(list(one.blocks()))).items():
        np.testing.assert_array_equal(getattr(join(list(both.blocks())), name), values)


def test_the_signature_follows_the_data_and_how_it_is_cut(write):
    path = write(hourly.make_rows(10, (40,)))
    signatures = {opened(path, 1).signature, opened(path, 2).signature, opened(path, 1, {"x": "k"}).signature}
    assert opened(path, 1).signature in signatures
    write(hourly.make_rows(11, (40,)))
    signatures.add(opened(path, 1).signature)
    assert len(signatures) == 4


def test_all_columns_that_are_missing_are_listed_and_others_may_be_mapped(write):
    path = write(hourly.make_rows(12, (40,)))
    with pytest.raises(InputError) as caught:
        opened(path, columns={"wind": "k", "nope": "k"}, past_features=["temp", "wind"], future_features=["price"])
    assert all(word in f"{caught.value}" for word in ("'temp' is missing", "'price' is missing", "--column nope"))
    mapped = join(list(opened(path, columns={"wind": "k"}, past_features=["wind"]).blocks()))
    assert mapped.past.shape[2] == 2


def test_rows_that_make_no_series_are_refused_by_file(write):
    rows = hourly.make_rows(13, (20, 20))
    path = write([*rows, *rows])
    with pytest.raises(InputError, match=r"a\.parquet: the rows of a series do not stand together"):
        opened(path)
    (path / "a.parquet").unlink()
    with pytest.raises(InputError, match="no Parquet files"):
        opened(path)


def test_a_block_of_windows_that_lie_apart_holds_fewer_of_them_and_as_many_steps(write, valid_windows):
    path = write(hourly.make_rows(17, (60,)))
    assert [block_windows(opened(path, stride)) for stride in (1, 3, HORIZON)] == [34, 12, 7]
    assert block_windows(valid_windows) == 2 * (48 + 12)


def test_series_that_go_on_in_another_file_are_counted(write):
    rows = hourly.make_rows(15, (40, 40))
    path = write(rows)
    assert opened(path).torn == 0
    write(hourly.make_rows(16, (40, 40, 40)), "b.parquet")
    assert opened(path).torn == 2


def test_a_calendar_of_hours_is_refused_where_the_steps_are_days(write):
    rows = hourly.make_rows(14, (25,))
    rows = [row | {"ds": hourly.BEGIN.date().replace(day=1 + step)} for step, row in enumerate(rows)]
    path = write(hourly.steps_table(rows, pa.date32()))
    with pytest.raises(InputError, match="a date has no hour"):
        measure(opened(path, freq="D", calendar=["hour"]))
