import numpy as np
import pyarrow.parquet as pq

from runner.batch import join
from runner.bundle import open_bundle
from runner.cli import cli
from runner.freq import parse_freq
from runner.long.cut import Cutter
from runner.long.layout import match_long
from runner.long.origins import Roll, roll_over, rolling
from runner.long.panel import join_panels, read_panel
from runner.long.series import whole_series


def panels_of(table, manifest):
    layout, _ = match_long(table.schema, "a.parquet", manifest, {}, parse_freq("h"))
    return layout.grid, [
        read_panel(rows, starts, layout, manifest) for rows, starts in whole_series(table.to_batches(), "unique_id")
    ]


def test_a_window_asked_for_by_number_is_the_one_that_comes_at_its_place(long, tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    table = long.table_of(long.make_rows(0, (40, 2, 30, 25, 1)))
    grid, panels = panels_of(table, manifest)
    panel, roll, cutter = join_panels(panels), Roll(2, None, None), Cutter(manifest, grid, with_target=True)
    in_turn = join([cutter.cut(panel, part) for part in rolling(panel, 6, 4, roll, 7, padded=True)])
    rolled = roll_over(panel, 6, 4, roll, padded=True)
    assert len(rolled) == len(in_turn) > 30
    order = np.random.default_rng(0).permutation(len(rolled))
    picked, expected = cutter.cut(panel, rolled.at(order)), in_turn.take(order)
    for name in ("past", "past_observed", "future_known", "target", "observed", "has_target", "reasons"):
        np.testing.assert_array_equal(getattr(picked, name), getattr(expected, name))


def test_joined_panels_are_the_panel_of_all_their_series(long, tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    table = long.table_of(long.make_rows(1, (40, 12, 30, 25)))
    _, (*pieces,) = panels_of(table, manifest)
    grid, whole = panels_of(table.combine_chunks(), manifest)
    assert len(pieces) > 1
    joined, cutter = join_panels(pieces), Cutter(manifest, grid, with_target=True)
    other = join_panels(whole)
    assert joined.names.equals(other.names)
    rolls = [roll_over(panel, 6, 4, Roll(1, None, None), padded=True) for panel in (joined, other)]
    cuts = [cutter.cut(roll.panel, roll.at(np.arange(len(roll)))) for roll in rolls]
    np.testing.assert_array_equal(cuts[0].past, cuts[1].past)
    np.testing.assert_array_equal(cuts[0].target, cuts[1].target)


def test_a_window_without_any_known_target_is_in_no_score_as_a_row_without_target(
    long, tiny_bundle, score_rows, within, tmp_path
):
    rows = [
        row | {"y": None} if 15 <= place < 24 else row
        for place, row in enumerate(long.make_rows(2, (45,), ahead=0, holes=0))
    ]
    windows = [long.window_at(rows, "s0", long.begin + step * long.hour) for step in range(5, 41)]
    silent = [all(value is None for value in window["target"]) for window in windows]
    assert sum(silent) == 6
    windows = [row | {"target": None} if is_silent else row for row, is_silent in zip(windows, silent, strict=True)]
    pq.write_table(long.window_table(windows), tmp_path / "windows.parquet")
    flags = "--out", tmp_path / "out", "--json", "--max-reject-rate", 1
    expected = within(cli, "score", tiny_bundle, tmp_path / "windows.parquet", *flags).json()
    report, _ = score_rows(rows, "--window", "rolling", "--output-layout", "windows")
    assert report["this_run"] == expected["this_run"]
    assert report["this_run"]["rows"]["scored"] > 30
