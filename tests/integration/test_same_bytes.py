"""The same work gives the same bytes, however it is cut into batches, threads, files, row groups and parts."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import Job
from runner.run import run_job
from runner.stop import Stop

MODES = ("free-running", "teacher-forced")
PRECISIONS = ("fp32", "int8")
SIZES = {"a": 1, "b": 129, "date=2026-11-23/c": 64, "d": 0, "e": 7, "f": 300, "g": 4300}
"""Rows by file: an empty one, single ones, odd ones, and one of more than a block."""


def spoiled(tiny, rows, seed):
    """Return a table with rejects of several kinds, the first and the last row and a stretch of 50 among them."""
    table = tiny.make_table(rows, seed)
    rng = np.random.default_rng(seed)
    bad = rng.random(rows) < 0.1
    bad[[0, -1]] = True
    bad[100:150] = True
    past = np.array(table["past"].to_pylist(), np.float32)
    past[np.flatnonzero(bad), rng.integers(6)] = np.inf
    future = [None if rng.random() < 0.05 else row for row in table["future_known"].to_pylist()]
    table = table.set_column(1, "past", tiny.nested(past))
    return table.set_column(3, "future_known", pa.array(future, table.schema.field("future_known").type))


@pytest.fixture(scope="module")
def many(tiny, tmp_path_factory):
    """Return a folder of files of odd sizes, some with rejects, in row groups of odd sizes."""
    folder = tmp_path_factory.mktemp("many")
    for seed, (name, rows) in enumerate(SIZES.items()):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = spoiled(tiny, rows, seed) if rows >= 300 else tiny.make_table(rows, seed)
        pq.write_table(table, path, row_group_size=[1000, 33, 50, 7][seed % 4])
    return folder


@pytest.fixture(scope="module")
def run(full_bundle, many, tmp_path_factory):
    """Return what scores all of it once for each set of options: run(**options) -> output folder and report."""
    done = {}

    def score(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in done:
            out = tmp_path_factory.mktemp("out") / "out"
            job = Job(full_bundle, str(many), out, **{"max_reject_rate": 1.0, **options})
            done[key] = out, run_job(job, Stop(), lambda *_: None)
            assert done[key][1].exit_code == 0
        return done[key]

    return score


def parts(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def rows_by_file(out):
    """Return ids, forecasts and reasons by input file, the parts of one file one after the other."""
    found = {}
    for path in sorted(out.rglob("*.parquet")):
        name = str(path.relative_to(out)).split(".")[0]
        found.setdefault(name, []).extend(pq.ParquetFile(path).read(["id", "prediction", "reject_reason"]).to_pylist())
    return found


def first_steps(out):
    return {
        (name, row["id"]): np.float32(row["prediction"][0]).tobytes()
        for name, rows in rows_by_file(out).items() for row in rows if row["prediction"]
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 512, None])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_neither_batches_nor_threads_change_a_byte(run, precision, mode, batch_size, workers):
    expected, told = run(precision=precision, mode=mode)
    found, report = run(precision=precision, mode=mode, batch_size=batch_size, workers=workers)
    assert parts(found) == parts(expected)
    assert (report.total, report.this_run) == (told.total, told.this_run)
    assert report.decoding.loop == "fused"


def test_all_rows_are_there_in_their_order_and_rejects_among_them(run, many):
    out, report = run(precision="fp32", mode="free-running")
    found = rows_by_file(out)
    assert {name: len(rows) for name, rows in found.items()} == SIZES
    for name, rows in found.items():
        given = pq.ParquetFile(many / f"{name}.parquet").read(["id"])["id"].to_pylist()
        assert [row["id"] for row in rows] == given
        assert all((row["prediction"] is None) == (row["reject_reason"] is not None) for row in rows)
    assert report.total.rows.rejected > 300
    assert set(report.total.rejects) == {"past_not_finite", "future_known_missing"}
    assert {row["reject_reason"] for row in found["g"][100:150]} == {"past_not_finite"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows_per_part", [1, 64, 1000])
def test_no_cut_into_parts_changes_a_forecast(run, precision, mode, rows_per_part):
    whole, told = run(precision=precision, mode=mode)
    cut, report = run(precision=precision, mode=mode, rows_per_part=rows_per_part)
    assert len(parts(cut)) > len(parts(whole))
    assert rows_by_file(cut) == rows_by_file(whole)
    assert report.total.rows == told.total.rows
    assert report.total.masked_mse == pytest.approx(told.total.masked_mse, rel=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_modes_agree_bit_for_bit_at_the_first_step_and_not_beyond(run, precision):
    free, forced = (run(precision=precision, mode=mode)[0] for mode in MODES)
    assert first_steps(free) == first_steps(forced)
    assert len(first_steps(free)) > 4000
    assert rows_by_file(free) != rows_by_file(forced)


@pytest.mark.parametrize("mode", MODES)
def test_int8_forecasts_nearly_the_same_and_not_the_same(run, mode):
    fp32, int8 = (rows_by_file(run(precision=precision, mode=mode)[0]) for precision in PRECISIONS)
    pairs = [(a, b) for name in SIZES for a, b in zip(fp32[name], int8[name], strict=True)]
    assert [a["reject_reason"] for a, _ in pairs] == [b["reject_reason"] for _, b in pairs]
    found = np.array([(a["prediction"], b["prediction"]) for a, b in pairs if a["prediction"]])
    difference = np.abs(found[:, 0] - found[:, 1])
    assert 0 < np.median(difference) < 0.02
    assert difference.max() < 0.2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_fused_graph_and_the_loop_step_by_step_forecast_the_same(tiny, run, many, tmp_path, precision):
    plain = tiny.make_bundle(tmp_path / "plain", int8=True)
    job = Job(plain, str(many), tmp_path / "out", precision=precision, max_reject_rate=1.0)
    assert run_job(job, Stop(), lambda *_: None).decoding.loop == "step by step"
    fused, stepwise = rows_by_file(run(precision=precision, mode="free-running")[0]), rows_by_file(tmp_path / "out")
    for name, rows in fused.items():
        found, expected = ([row["prediction"] or [0] * 4 for row in given] for given in (stepwise[name], rows))
        np.testing.assert_allclose(found, expected, atol=2e-6 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("damaged", ["b", "date=2026-11-23/c", "f", "g"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_damaged_file_among_good_ones_is_told_and_all_others_are_scored(
    run, full_bundle, many, tmp_path, freerun, damaged, workers
):
    for name in SIZES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{name}.parquet").write_bytes((many / f"{name}.parquet").read_bytes())
    path = tmp_path / "in" / f"{damaged}.parquet"
    group = pq.read_metadata(path).row_group(pq.read_metadata(path).num_row_groups - 1).column(1)
    content = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    content[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(content)
    options = ["--out", tmp_path / "out", "--workers", workers, "--max-reject-rate", 1, "--json"]
    done = freerun("score", full_bundle, tmp_path / "in", *options)
    assert done.code == done.json()["exit_code"] == 11
    assert f"{damaged}.parquet is damaged" in done.err
    assert "Traceback" not in done.err
    assert done.json()["to_do"] == 1
    expected = parts(run(precision="fp32", mode="free-running")[0])
    del expected[f"{damaged}.parquet"]
    assert parts(tmp_path / "out") == expected
    assert not (Path(tmp_path) / "out" / "_SUCCESS").exists()
