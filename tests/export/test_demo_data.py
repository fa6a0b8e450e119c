import itertools

import pyarrow.parquet as pq

from export.demo_data import write_demo
from export.windows import open_windows


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo(tmp_path / folder, 40, 20, seed)
    read = {folder: (tmp_path / folder / "train/part-0.parquet").read_bytes() for folder in "abc"}
    assert read["a"] == read["b"] != read["c"]


def test_rows_are_spread_over_files_and_row_groups_and_none_is_a_reject(demo):
    opened = open_windows(str(demo / "train"))
    assert len(opened.layouts) == 4
    assert len(opened.groups) > len(opened.layouts)
    assert sum(len(block) for block in opened.blocks()) == 300
    assert all(len(block.good_rows()) == len(block) for block in opened.blocks())
    ids = [
        pq.read_table(demo / "train" / path, columns=["window_id"])["window_id"].to_pylist() for path in opened.layouts
    ]
    assert list(itertools.chain(*ids)) == list(range(300))
