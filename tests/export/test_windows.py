import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.windows import Moments, measure, open_windows
from runner.errors import InputError


def columns(demo, *names):
    table = pa.concat_tables([pq.read_table(path) for path in sorted((demo / "train").glob("*.parquet"))])
    return [np.array(table.column(name).to_pylist(), np.float64) for name in names]


def test_statistics_equal_numpy_over_what_is_observed(demo, statistics):
    past, there, target, mask = columns(demo, "past", "past_observed", "target", "mask")
    past = past.reshape(len(past), 48, 3)[there == 1]
    np.testing.assert_allclose(statistics.past_location, past.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(statistics.past_scale, past.std(axis=0), rtol=1e-12)
    assert statistics.target_scale == pytest.approx(target[mask == 0].std(), rel=1e-12)
    assert statistics.excluded_share == pytest.approx(mask.mean(), rel=1e-12)
    assert (statistics.windows, statistics.without_target, statistics.rejects) == (300, 0, {})


def test_moments_keep_their_digits_far_from_zero():
    rows = np.random.default_rng(0).normal(1e9, 1.0, (1000, 1))
    moments = Moments(0.0, np.zeros(1), np.zeros(1))
    for block in np.split(rows, 10):
        moments = moments.add(block)
    assert moments.scale()[0] == pytest.approx(rows.std(), rel=1e-6)


def test_an_epoch_visits_every_window_once_in_an_order_of_its_own(train_windows):
    def order(seed, epoch):
        return np.concatenate([batch.target[:, 0] for batch in train_windows.shuffled(32, seed, epoch)])

    first, again, second = order(0, 0), order(0, 0), order(0, 1)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert len(first) == 300


def test_a_small_pool_still_visits_every_window_once(train_windows, monkeypatch):
    monkeypatch.setattr("export.windows.POOL_BYTES", 1)
    sizes = [len(batch) for batch in train_windows.shuffled(32, 0, 0)]
    assert sum(sizes) == 300
    assert sizes[:-1] == [32] * (len(sizes) - 1)


@pytest.mark.parametrize("kind", ["nested", "flat with flags", "ragged type"])
def test_sizes_are_read_off_any_encoding(tmp_path, kind):
    past = np.zeros((2, 5, 3), np.float32)
    table = {"target": [[0.0] * 4] * 2, "future_known": np.zeros((2, 8)).tolist()}
    if kind == "flat with flags":
        flat = pa.FixedSizeListArray.from_arrays(pa.array(past.ravel()), 15)
        table |= {"past": flat, "past_observed": [[True] * 5] * 2}
    else:
        table["past"] = past.tolist()
    if kind == "nested":
        inner = pa.FixedSizeListArray.from_arrays(pa.array(past.ravel()), 3)
        table["past"] = pa.FixedSizeListArray.from_arrays(inner, 5)
    table["future_known"] = pa.array(table["future_known"], pa.list_(pa.float32()))
    table["target"] = pa.array(table["target"], pa.list_(pa.float32()))
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    sizes = open_windows(str(tmp_path)).sizes
    assert (sizes.context, sizes.past, sizes.horizon, sizes.future) == (5, 3, 4, 2)


def test_what_is_missing_is_named(tmp_path):
    pq.write_table(pa.table({"pst": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError) as caught:
        open_windows(str(tmp_path))
    assert "'past' (past) is missing" in str(caught.value)
    assert "'target' (target) is missing" in str(caught.value)


def test_a_flat_list_is_one_feature_and_columns_may_have_other_names(tmp_path):
    lists = pa.array([None, [1.0, 2.0, 3.0]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"history": lists, "load": lists}), tmp_path / "a.parquet")
    opened = open_windows(str(tmp_path), None, {"past": "history", "target": "load"})
    assert (opened.sizes.context, opened.sizes.past, opened.sizes.horizon, opened.sizes.future) == (3, 1, 3, 0)
    assert measure(opened).rejects == {"past_missing": 1}


def test_rows_without_a_target_are_no_rejects(tmp_path):
    lists = pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32()))
    target = pa.array([[1.0], None, [4.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"past": lists, "target": target}), tmp_path / "a.parquet")
    found = measure(open_windows(str(tmp_path)))
    assert (found.windows, found.without_target, found.rejects) == (2, 1, {})
    assert (found.target_location, found.target_level) == (2.5, 4.0)
