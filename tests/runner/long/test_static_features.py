import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.cli import cli

SHOPS, KINDS = ["north", "south", "south", "north", "east"], ["open", "closed", "open", "open", "open"]
SIZES = [0.5, -1.0, 2.0, float("inf"), 0.0]


@pytest.fixture
def table(long):
    """Return five series with features that do not change: the fourth is endless, the fifth in an unknown shop."""
    found = long.table_of(long.make_rows(4, (20, 12, 15, 9, 10)))
    series = [int(name[1:]) for name in found["unique_id"].to_pylist()]
    return (
        found.append_column("size", pa.array([SIZES[place] for place in series], pa.float64()))
        .append_column("shop", pa.array([SHOPS[place] for place in series]).dictionary_encode())
        .append_column("kind", pa.array([KINDS[place] for place in series]))
    )


def test_static_features_of_series_are_those_of_their_windows(long, table, static_bundle, score_rows, within, tmp_path):
    report, part = score_rows(table, "--output-layout", "windows", bundle=static_bundle)
    rows = table.drop(["size", "shop", "kind"]).to_pylist()
    windows = [long.window_at(rows, *origin) for origin in long.latest_origins(rows)]
    cut = long.window_table(windows).append_column(
        "static", pa.array([[size] for size in SIZES], pa.list_(pa.float32()))
    )
    cut = cut.append_column("shop", pa.array(SHOPS)).append_column("kind", pa.array(KINDS))
    pq.write_table(cut, tmp_path / "cut.parquet")
    done = within(
        cli, "score", static_bundle, tmp_path / "cut.parquet", "--out", tmp_path / "cut", "--max-reject-rate", 1
    )
    assert done.code == 0, done.err
    expected = pq.read_table(tmp_path / "cut" / "cut.parquet")
    for name in ("prediction", "reject_reason"):
        assert part[name].to_pylist() == expected[name].to_pylist()
    assert part["reject_reason"].to_pylist() == [None, None, None, "static_not_finite", "category_unknown"]
    assert report["this_run"]["rows"] == {"read": 5, "scored": 3, "rejected": 2}
    assert len({tuple(np.round(forecast, 5)) for forecast in part["prediction"].to_pylist()[:3]}) == 3


def test_a_series_is_what_its_first_row_says(table, static_bundle, score_rows):
    _, before = score_rows(table, bundle=static_bundle)
    series = table["unique_id"].to_pylist()
    words = table["shop"].to_pylist()
    words = ["nowhere" if place and series[place] == series[place - 1] else word for place, word in enumerate(words)]
    place = table.column_names.index("shop")
    _, after = score_rows(table.set_column(place, "shop", pa.array(words)), bundle=static_bundle)
    assert after.equals(before)


def test_columns_of_static_features_that_are_missing_or_of_other_types_are_told_together(
    table, static_bundle, tmp_path, within
):
    pq.write_table(table.drop(["size"]).set_column(6 - 1, "shop", pa.array([1] * len(table))), tmp_path / "in.parquet")
    flags = "--out", tmp_path / "out", "--layout", "long", "--freq", "h"
    done = within(cli, "score", static_bundle, tmp_path / "in.parquet", *flags)
    assert done.code == 11
    assert "column 'size' is missing" in done.err
