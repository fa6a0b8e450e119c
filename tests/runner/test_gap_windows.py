"""Windows for an explanation: what is left out, which neighbours belong together, and what else is read."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import InputError, InterruptedRunError
from runner.gap.sample import BLOCKS_KEPT, row_bytes
from runner.gap.windows import read_windows
from runner.intervals import FEWEST_BLOCKS, block_length, block_of
from runner.schema import Sizes
from runner.stop import Stop

ROWS = 130


@pytest.fixture
def sizes(tiny):
    context, past, horizon, future, _ = tiny.sizes
    return Sizes(context, horizon, past, future)


@pytest.fixture
def read(sizes):
    def call(folder, columns=None, *, flagged=True, **options):
        return read_windows(str(folder), sizes, columns or {}, options.pop("stop", Stop()), flagged=flagged, **options)

    return call


@pytest.fixture
def write(tmp_path, tiny):
    """Return what writes a table of good windows, changed, as a file of the dataset."""

    def call(rows=ROWS, seed=0, name="a.parquet", without=(), **columns):
        table = tiny.make_table(rows, seed)
        for column, values in columns.items():
            array = values if isinstance(values, pa.Array) else pa.array(values)
            place = table.schema.get_field_index(column)
            table = table.append_column(column, array) if place < 0 else table.set_column(place, column, array)
        pq.write_table(table.drop_columns(list(without)), tmp_path / name)
        return tmp_path

    return call


def lists(tiny, rows, values=None):
    """Return a list of H numbers a row, and the array."""
    horizon = tiny.sizes[2]
    values = np.arange(rows * horizon, dtype=np.float32).reshape(rows, horizon) if values is None else values
    return values, tiny.nested(values)


def test_everything_that_is_good_is_read_in_order(read, write, tiny):
    write(70, 0, "a.parquet")
    windows = read(write(40, 1, "b.parquet"))
    expected = np.concatenate(
        [tiny.make_table(70, 0)["target"].to_pylist(), tiny.make_table(40, 1)["target"].to_pylist()]
    )
    assert len(windows) == windows.total == 110
    assert windows.position.tolist() == list(range(110))
    assert (windows.rejected, windows.taken_every, windows.whole_series, windows.optimal) == (0, 1, False, None)
    assert not windows.batch.reasons.any()
    counted = windows.batch.observed
    np.testing.assert_array_equal(windows.batch.target[counted], expected[counted])
    assert windows.batch.decoder_input is None


def test_neighbours_share_a_block_across_files(read, write, sizes):
    write(70, 0, "a.parquet")
    windows = read(write(40, 1, "b.parquet"))
    length = block_length(sizes.context, sizes.horizon)
    assert windows.block.tolist() == block_of(110, length).tolist()
    assert windows.block.max() == 110 // length - 1


def test_rejects_and_windows_without_a_target_are_left_out_and_keep_their_places(read, write, tiny):
    table = tiny.make_table(ROWS)
    past, target = table["past"].to_pylist(), table["target"].to_pylist()
    past[3], target[5], target[60] = None, None, None
    kinds = {name: table.schema.field(name).type for name in ("past", "target")}
    folder = write(past=pa.array(past, kinds["past"]), target=pa.array(target, kinds["target"]))
    windows = read(folder)
    assert windows.position.tolist() == [row for row in range(ROWS) if row not in {3, 5, 60}]
    assert (windows.rejected, windows.total, len(windows)) == (1, ROWS, ROWS - 3)
    write(
        past=pa.array(past, kinds["past"]), target=pa.array(target, kinds["target"]), decoder_input=lists(tiny, ROWS)[1]
    )
    told = read(folder)
    assert told.position.tolist() == windows.position.tolist()
    assert told.rejected == 1
    assert told.batch.decoder_input is not None


def test_a_block_of_which_nothing_is_left_leaves_no_gap_in_the_numbers(read, write, tiny, sizes):
    length = block_length(sizes.context, sizes.horizon)
    target = tiny.make_table(ROWS)["target"].to_pylist()
    target[length : 2 * length] = [None] * length
    windows = read(write(target=pa.array(target, pa.list_(pa.float32()))))
    assert np.unique(windows.block).tolist() == list(range(ROWS // length - 1))


def test_without_flags_windows_with_missing_steps_are_rejects(read, write):
    folder = write()
    whole = read(folder)
    complete = (whole.batch.past_observed == 1).all(axis=1)
    windows = read(folder, flagged=False)
    assert windows.position.tolist() == np.flatnonzero(complete).tolist()
    assert windows.rejected == (~complete).sum()
    assert windows.batch.past_observed is None


@pytest.mark.parametrize("name", ["series", "store"])
def test_many_series_are_blocks_of_their_own(read, write, name):
    names = [f"s{row % FEWEST_BLOCKS}" for row in range(ROWS)]
    windows = read(write(**{name: names}), {} if name == "series" else {"series": "store"})
    assert windows.whole_series
    assert windows.block.tolist() == [row % FEWEST_BLOCKS for row in range(ROWS)]


def test_a_few_series_are_too_few_to_draw_from_so_neighbours_are(read, write, sizes):
    names = [f"s{row % (FEWEST_BLOCKS - 1)}" for row in range(ROWS)]
    windows = read(write(series=names))
    assert not windows.whole_series
    assert windows.block.tolist() == block_of(ROWS, block_length(sizes.context, sizes.horizon)).tolist()


@pytest.mark.parametrize(
    "kind",
    [
        lambda row: f"store {row % 30}",
        lambda row: float("nan") if row % 30 == 0 else float(row % 30),
        lambda row: None if row % 30 == 0 else row % 30,
    ],
    ids=["text", "NaN", "null"],
)
def test_a_series_may_be_called_anything(read, write, kind):
    windows = read(write(series=[kind(row) for row in range(ROWS)]))
    assert windows.whole_series
    assert windows.block.max() == 29


def test_the_known_best_forecast_is_read_beside_the_windows(read, write, tiny):
    values, array = lists(tiny, ROWS)
    past = tiny.make_table(ROWS)["past"].to_pylist()
    past[0] = None
    folder = write(optimal=array, past=pa.array(past, tiny.make_table(1)["past"].type))
    assert np.array_equal(read(folder).optimal, values[1:])
    write(best=array)
    windows = read(folder, {"optimal": "best"})
    assert np.array_equal(windows.optimal, values)
    assert windows.optimal.dtype == np.float32


def test_the_best_forecast_of_some_files_is_none(read, write, tiny):
    write(10, 0, "a.parquet", optimal=lists(tiny, 10)[1])
    assert read(write(10, 1, "b.parquet")).optimal is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "bad", [None, [1.0] * 4 + [2.0], [1.0, float("nan"), 1, 1], [1e300, 1, 1, 1], [None, 1.0, 1, 1]]
)
def test_a_best_forecast_that_is_none_is_refused(read, write, bad):
    values = [[1.0] * 4 for _ in range(ROWS)]
    values[7] = bad
    with pytest.raises(InputError, match=r"optimal forecasts .* are not all finite"):
        read(write(optimal=pa.array(values, pa.list_(pa.float64()))))


def test_a_null_in_a_fixed_size_list_is_no_forecast_of_zeros(read, write):
    values = [None if row == 7 else [1.0] * 4 for row in range(ROWS)]
    with pytest.raises(InputError, match="not all finite"):
        read(write(optimal=pa.array(values, pa.list_(pa.float32(), 4))))


def test_all_that_does_not_fit_is_told_at_once(read, write, tiny):
    write(10, 0, "a.parquet", optimal=pa.array([[1.0, 2.0]] * 10, pa.list_(pa.float32(), 2)))
    folder = write(10, 1, "b.parquet", without=["past"], decoder_input=lists(tiny, 10)[1])
    with pytest.raises(InputError) as caught:
        read(folder, {"series": "shop"})
    for part in (
        "a.parquet: column 'shop' is missing",
        "a.parquet: column 'optimal' (optimal): list of fixed length 2, expected 4",
        "a.parquet: column 'decoder_input' is missing, and other files have it",
        "b.parquet: column 'past' is missing",
        "b.parquet: column 'shop' is missing",
    ):
        assert part in str(caught.value)


def test_a_column_that_stands_there_twice_is_refused(read, write, tiny, tmp_path):
    write()
    table = tiny.make_table(ROWS).append_column("optimal", lists(tiny, ROWS)[1])
    pq.write_table(table.append_column("optimal", lists(tiny, ROWS)[1]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'optimal' stands there twice"):
        read(tmp_path)


def test_a_target_is_needed_and_at_least_one_good_window(read, write, tmp_path, tiny):
    with pytest.raises(InputError, match="no Parquet files"):
        read(tmp_path)
    with pytest.raises(InputError, match="'target'"):
        read(write(without=["target"]))
    nothing = pa.nulls(ROWS, tiny.make_table(1)["target"].type)
    with pytest.raises(InputError, match=r"no good window with a target\n  got: 130 rows, 0 rejected"):
        read(write(target=pa.array([None] * ROWS, nothing.type)))
    with pytest.raises(InputError, match="no good window with a target"):
        read(write(0))


def test_of_large_data_whole_blocks_are_taken(read, write, sizes):
    length, rows = block_length(sizes.context, sizes.horizon), 3000
    folder = write(rows)
    windows = read(folder, most_bytes=row_bytes(sizes) * length * BLOCKS_KEPT)
    kept = np.unique(windows.position // length)
    assert windows.taken_every == 4  # 150 blocks, of which 40 fit
    assert kept.tolist() == list(range(0, rows // length, 4))
    assert len(windows) == len(kept) * length
    assert windows.block.tolist() == np.repeat(np.arange(len(kept)), length).tolist()
    assert (windows.total, windows.rejected) == (rows, 0)
    assert read(folder, most_bytes=row_bytes(sizes) * rows).taken_every == 1


def test_of_blocks_too_large_the_beginnings_are_taken(read, write, sizes):
    length, rows = block_length(sizes.context, sizes.horizon), 800
    windows = read(write(rows), most_bytes=row_bytes(sizes) * 5 * BLOCKS_KEPT)
    assert windows.taken_every == 4
    assert (windows.position % length).max() == 4
    assert len(windows) == 5 * rows // length
    assert len(np.unique(windows.block)) == rows // length >= BLOCKS_KEPT
    one = read(write(rows), most_bytes=1)
    assert len(one) == 1


def test_a_wish_to_stop_is_heard(read, write):
    stop = Stop()
    stop.end(InterruptedRunError("enough"))
    with pytest.raises(InterruptedRunError, match="enough"):
        read(write(), stop=stop)


def test_a_window_takes_about_as_many_bytes_as_is_said(read, write, sizes, tiny):
    windows = read(write(optimal=lists(tiny, ROWS)[1], decoder_input=lists(tiny, ROWS)[1]))
    whole = replace(windows.batch)
    arrays = [whole.past, whole.past_observed, whole.future_known, whole.target, whole.observed, whole.decoder_input]
    taken = sum(array.nbytes for array in [*arrays, windows.optimal]) / ROWS
    assert taken <= row_bytes(sizes) <= 1.5 * taken
