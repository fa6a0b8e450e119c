import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli


@pytest.fixture(scope="module")
def bundles(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    return tuple(tiny.make_bundle(root / str(seed), seed=seed) for seed in (0, 1))


@pytest.fixture
def compared(within, bundles, tmp_path):
    def run(table, *flags, code):
        pq.write_table(table, tmp_path / "data.parquet")
        done = within(cli, "compare", *bundles, tmp_path / "data.parquet", "--json", *flags)
        assert done.code == code, done.err
        return done

    return run


def test_series_give_the_verdict_that_their_windows_give(long, compared):
    rows = long.make_rows(1, (60,) * 25, ahead=0, holes=0.05)
    windows = []
    for series in range(25):
        own = [row for row in rows if row["unique_id"] == f"s{series}"]
        first, last = own[0]["ds"] + 5 * long.hour, own[-1]["ds"] - 4 * long.hour
        steps = range(0, int((last - first) / long.hour) + 1, 2)
        windows += [long.window_at(own, f"s{series}", first + step * long.hour) for step in steps]
    found = compared(long.table_of(rows), "--layout", "long", "--freq", "h", "--stride", 2, code=0).json()
    expected = compared(long.window_table(windows), code=0).json()
    assert found["windows"] == expected["windows"]
    assert found["windows"]["blocks_are"] == "series"
    assert found["windows"]["used"] > 400
    for key in ("interval", "difference_by_step"):  # the sums are grouped by other blocks
        assert found[key] == pytest.approx(expected[key], rel=1e-12), key
    for side, name in (("old", "masked_mse"), ("new", "observed_mse"), ("old", "rejected")):
        assert found[side][name] == pytest.approx(expected[side][name], rel=1e-12)
    assert found["verdict"] == expected["verdict"]
    assert np.isfinite(found["interval"]).all()


def test_what_neither_bundle_can_read_is_refused_for_both_at_once(long, compared):
    table = long.table_of(long.make_rows(2)).drop(["x"])
    refused = compared(table, "--layout", "long", "--freq", "h", code=11)
    assert "OLD and NEW: column 'x' is missing" in refused.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--stride", 2), "--layout long"), (("--layout", "long"), "nobody says how long a time step is")],
)
def test_flags_of_series_want_series_and_a_time_grid(long, compared, flags, told):
    assert told in compared(long.table_of(long.make_rows(2)), *flags, code=2).err


def test_a_bundle_with_static_features_is_compared_with_one_without(long, static_bundle, bundles, within, tmp_path):
    table = long.table_of(long.make_rows(3, (40, 30, 50), ahead=0, holes=0))
    series = table["unique_id"].to_pylist()
    table = table.append_column("size", pa.array([float(name[1:]) for name in series], pa.float32()))
    for name, words in (("shop", ("north", "south", "north")), ("kind", ("open", "shut", "open"))):
        table = table.append_column(name, pa.array([words[int(entry[1:])] for entry in series]))
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=33)
    flags = "--layout", "long", "--freq", "h", "--json"
    found = within(cli, "compare", bundles[0], static_bundle, tmp_path / "data.parquet", *flags).json()
    assert found["windows"]["used"] == found["windows"]["total"] == sum(length - 9 for length in (40, 30, 50))
    alone = within(cli, "compare", static_bundle, static_bundle, tmp_path / "data.parquet", *flags).json()
    assert found["new"]["masked_mse"] == alone["old"]["masked_mse"] != found["old"]["masked_mse"]
