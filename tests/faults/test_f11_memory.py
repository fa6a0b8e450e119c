"""F11: memory stays under its ceiling, whatever a row group decodes to."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from campaigns.watch import run_measured
from runner.reader import PIECE_ROWS

MIB = 1 << 20
CEILING_MIB = 250
"""What any input may take beyond what a small one takes: blocks that wait, and a row group in the making."""


def peak_mib(bundle, source, out):
    """Score in a process of its own; return its exit code and its peak in MiB."""
    done = run_measured("score", bundle, source, "--out", out, "--quiet", "--workers", 2)
    return done.code, done.peak_mib


@pytest.fixture(scope="module")
def base(tiny, tiny_bundle, tmp_path_factory):
    """Return the peak of a run over a few rows."""
    folder = tmp_path_factory.mktemp("small")
    tiny.write_dataset(folder / "in", {"a.parquet": 5000})
    code, peak = peak_mib(tiny_bundle, folder / "in", folder / "out")
    assert code == 0
    return peak


def write_one_row_group(path, tiny, rows, column):
    """Write good windows with one more column, all rows in one row group; `column(n)` makes n items of it."""
    piece = tiny.make_table(1024).append_column("more", column(1024)).combine_chunks()
    pq.write_table(pa.concat_tables([piece] * (rows // 1024)), path, row_group_size=rows, compression="zstd")
    assert pq.read_metadata(path).num_row_groups == 1
    return path


def embeddings(width, *, random):
    """Return what makes lists of so many numbers, all the same or all different."""

    def column(rows):
        values = np.random.default_rng(0).normal(size=rows * width) if random else np.ones(rows * width)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32)), width)

    return column


def test_f11_a_row_group_of_150_mib_takes_no_more_memory_than_a_small_one(tiny, tiny_bundle, base, tmp_path):
    column = embeddings(1200, random=True)
    path = write_one_row_group(tmp_path / "large.parquet", tiny, 32 * 1024, column)
    assert path.stat().st_size > 130 * MIB
    code, peak = peak_mib(tiny_bundle, path, tmp_path / "out")
    print(f"{peak:.0f} MiB, a small run {base:.0f} MiB")
    assert (code, pq.read_metadata(tmp_path / "out" / path.name).num_rows) == (0, 32 * 1024)
    assert peak - base < CEILING_MIB


def test_f11_a_small_file_that_decodes_to_1_gib_of_numbers_takes_no_more_either(tiny, tiny_bundle, base, tmp_path):
    path = write_one_row_group(tmp_path / "bomb.parquet", tiny, 64 * 1024, embeddings(4096, random=False))
    assert path.stat().st_size < 8 * MIB
    code, peak = peak_mib(tiny_bundle, path, tmp_path / "out")
    print(f"{path.stat().st_size / MIB:.1f} MiB on disk; {peak:.0f} MiB, a small run {base:.0f} MiB")
    assert (code, pq.read_metadata(tmp_path / "out" / path.name).num_rows) == (0, 64 * 1024)
    assert peak - base < CEILING_MIB


@pytest.mark.parametrize(("length", "texts"), [(100_000, 1024), (3_000_000, 300)])
def test_f11_text_that_decodes_to_many_times_its_size_takes_no_more_either(
    tiny, tiny_bundle, base, tmp_path, length, texts
):
    def column(rows):
        return pa.array(["x" * length] * texts + [""] * (rows - texts))

    rows = 1024 * (1 if texts < 1024 else 10)
    path = write_one_row_group(tmp_path / "text.parquet", tiny, rows, column)
    code, peak = peak_mib(tiny_bundle, path, tmp_path / "out")
    print(f"{path.stat().st_size / MIB:.1f} MiB on disk; {peak:.0f} MiB, a small run {base:.0f} MiB")
    assert (code, pq.read_metadata(tmp_path / "out" / path.name).num_rows) == (0, rows)
    assert (
        peak - base < CEILING_MIB + PIECE_ROWS * length / MIB
    )  # what is decoded at once before it is known to be large


def test_f11_a_row_that_no_memory_should_have_to_hold_is_refused_and_the_others_are_scored(tiny, tiny_bundle, tmp_path):
    good, bad = tiny.make_table(10, 1), tiny.make_table(10, 2)
    (tmp_path / "in").mkdir()
    pq.write_table(good, tmp_path / "in" / "good.parquet")
    notes = pa.array(["x" * (100 * MIB), *[""] * 9])
    pq.write_table(bad.append_column("more", notes), tmp_path / "in" / "bad.parquet")
    code, _ = peak_mib(tiny_bundle, tmp_path / "in", tmp_path / "out")
    assert code == 11
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["good.parquet"]
