"""One run: the report says what the parts hold, the bytes depend on the data alone, and the gates judge this run."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from runner.errors import BundleError, BusyError, UsageError
from runner.pipeline import Pipeline

KEYS = {
    "schema_version", "run_id", "status", "exit_code", "error", "bundle_id", "input", "out", "mode", "device",
    "precision", "decoding", "options", "versions", "started_at", "finished_at", "seconds", "windows_per_second",
    "already_done",
    "orphans", "this_run", "total", "warnings", "to_do", "history",
}  # fmt: skip
SUMMARY_KEYS = {"parts", "rows", "rejects", "filled", "masked_mse", "observed_mse", "per_step", "naive", "per_target"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def spoil(tiny, dataset):
    """Return what replaces a file by one with this many unfit rows (past not finite) before its good ones."""

    def write(name, bad, good):
        table = tiny.make_table(bad + good, seed=5)
        past = np.array(table.column("past").to_pylist(), np.float32)
        past[:bad, 0, :] = np.inf
        pq.write_table(table.set_column(1, "past", tiny.nested(past)), dataset / name)

    return write


def all_rows(out):
    tables = [pq.ParquetFile(path).read() for path in sorted(out.rglob("*.parquet"))]
    return pa.concat_tables([table.select(["target", "mask", "prediction"]) for table in tables])


def test_the_report_has_the_keys_of_the_contract_and_is_the_file_beside_the_parts(tiny_bundle, dataset, out, score):
    report = score(tiny_bundle, dataset, out)
    told = json.loads((out / "_report.json").read_text())
    assert told == json.loads(report.model_dump_json())
    assert set(told) == KEYS
    assert set(told["this_run"]) == set(told["total"]) == SUMMARY_KEYS
    assert set(told["seconds"]) == {"read", "decode", "write", "wall"}
    assert set(told["this_run"]["rows"]) == {"read", "scored", "rejected"}
    assert [step["step"] for step in told["total"]["per_step"]] == [1, 2, 3, 4]
    assert set(told["total"]["naive"]) == {"last", "seasonal"}
    assert (told["status"], told["exit_code"], told["error"], told["to_do"]) == ("done", 0, None, 0)
    assert (told["input"], told["out"], told["device"]) == (str(dataset), str(out), "cpu")
    assert set(told["decoding"]) == {"loop", "batch_size", "workers"}


@pytest.mark.parametrize("mode", ["free-running", "teacher-forced"])
def test_both_scores_are_one_line_of_numpy_over_the_output(tiny_bundle, dataset, out, score, mode):
    report = score(tiny_bundle, dataset, out, mode=mode)
    rows = all_rows(out)
    target, excluded, found = (np.array(rows.column(name).to_pylist(), np.float64) for name in rows.column_names)
    squared = np.where(excluded == 1, 0, (found - target) ** 2)
    assert report.total.masked_mse == pytest.approx(squared.sum() / squared.size, rel=1e-9)
    assert report.total.observed_mse == pytest.approx(squared.sum() / (excluded == 0).sum(), rel=1e-9)
    by_step = [step.masked_mse for step in report.total.per_step]
    assert by_step == pytest.approx(squared.mean(axis=0).tolist(), rel=1e-9)
    assert report.this_run == report.total


def test_the_modes_agree_at_the_first_step_and_at_no_other(tiny_bundle, dataset, tmp_path, score):
    found = {}
    for mode in ("free-running", "teacher-forced"):
        score(tiny_bundle, dataset, tmp_path / mode, mode=mode)
        found[mode] = np.array(all_rows(tmp_path / mode).column("prediction").to_pylist())
    same = found["free-running"] == found["teacher-forced"]
    assert same[:, 0].all()
    assert not same[:, 1:].all(axis=0).any()


def test_the_parts_and_the_scores_do_not_depend_on_batches_or_threads(tiny_bundle, dataset, tmp_path, score, parts):
    seen = []
    for batch_size in (1, 7, 64, 512):
        for workers in (1, 2):
            out = tmp_path / f"{batch_size}-{workers}"
            report = score(tiny_bundle, dataset, out, batch_size=batch_size, workers=workers)
            seen.append((parts(out), report.total))
    assert all(one == seen[0] for one in seen)
    assert len(seen[0][0]) == 3


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(tiny_bundle, dataset, out, score, contents):
    report = score(tiny_bundle, dataset, out, dry_run=True)
    assert (report.status, report.exit_code, report.to_do, report.already_done) == ("dry-run", 0, 3, 0)
    assert not out.exists()
    score(tiny_bundle, dataset, out)
    (out / "b.parquet").unlink()
    before = contents(out)
    again = score(tiny_bundle, dataset, out, dry_run=True)
    assert (again.to_do, again.already_done) == (1, 2)
    assert contents(out) == before


def test_too_many_rejects_end_with_10_and_without_success(tiny_bundle, dataset, out, score, spoil):
    spoil("b.parquet", bad=5, good=65)
    report = score(tiny_bundle, dataset, out)
    assert (report.status, report.exit_code) == ("done", 10)
    assert report.this_run.rejects == {"past_not_finite": 5}
    assert report.this_run.rows.model_dump() == {"read": 241, "scored": 236, "rejected": 5}
    assert "5 of 241 rows" in report.error
    assert not (out / "_SUCCESS").exists()
    assert json.loads((out / "_report.json").read_text())["exit_code"] == 10


def test_rejects_up_to_the_rate_are_fine(tiny_bundle, dataset, out, score, spoil):
    spoil("b.parquet", bad=5, good=65)
    assert score(tiny_bundle, dataset, out, max_reject_rate=5 / 241).exit_code == 0
    assert (out / "_SUCCESS").exists()


def test_a_worse_score_than_allowed_ends_with_15_and_without_success(tiny_bundle, dataset, out, score):
    good = score(tiny_bundle, dataset, out.with_name("good"))
    bound = good.this_run.masked_mse
    assert score(tiny_bundle, dataset, out.with_name("equal"), max_masked_mse=bound).exit_code == 0
    report = score(tiny_bundle, dataset, out, max_masked_mse=bound * (1 - 1e-9))
    assert (report.status, report.exit_code) == ("done", 15)
    assert str(bound) in report.error
    assert not (out / "_SUCCESS").exists()


def test_a_damaged_file_outranks_rejects_and_rejects_outrank_the_score(
    tiny, tiny_bundle, dataset, tmp_path, score, spoil
):
    spoil("b.parquet", bad=20, good=50)
    gates = {"max_masked_mse": 0.0}
    assert score(tiny_bundle, dataset, tmp_path / "both", **gates).exit_code == 10
    assert score(tiny_bundle, dataset, tmp_path / "score", max_reject_rate=1, **gates).exit_code == 15
    short = tiny.make_table(5).set_column(1, "past", pa.array([[[1.0, 2.0]]] * 5, pa.list_(pa.list_(pa.float32()))))
    pq.write_table(short, dataset / "misfit.parquet")
    assert score(tiny_bundle, dataset, tmp_path / "all", **gates).exit_code == 11


def test_the_gates_look_at_this_run_alone(tiny_bundle, dataset, out, score, spoil):
    score(tiny_bundle, dataset, out)
    spoil("tonight.parquet", bad=2, good=8)
    report = score(tiny_bundle, dataset, out)
    assert report.exit_code == 10
    assert report.total.rows.rejected / report.total.rows.read < 0.01
    assert report.this_run.rows.rejected / report.this_run.rows.read == 0.2


def test_no_rows_and_no_score_pass_every_gate(tiny_bundle, dataset, out, score):
    score(tiny_bundle, dataset, out)
    again = score(tiny_bundle, dataset, out, max_reject_rate=0, max_masked_mse=0)
    assert (again.exit_code, again.error, again.this_run.masked_mse) == (0, None, None)


def test_success_is_gone_before_the_first_new_part_and_back_after_the_last(
    tiny, tiny_bundle, dataset, out, score, monkeypatch
):
    score(tiny_bundle, dataset, out)
    tiny.write_dataset(dataset, {"new.parquet": 5, "newer.parquet": 5})
    seen = []

    commit = Pipeline._commit

    def watch(self, part, unclosed):
        seen.append((out / "_SUCCESS").exists())
        commit(self, part, unclosed)
        seen.append((out / "_SUCCESS").exists())

    assert (out / "_SUCCESS").exists()
    monkeypatch.setattr(Pipeline, "_commit", watch)
    assert score(tiny_bundle, dataset, out).exit_code == 0
    assert seen == [False] * 4
    assert (out / "_SUCCESS").read_bytes() == b""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_report_tells_how_was_decoded_and_nothing_where_nothing_was(
    tiny_bundle, full_bundle, dataset, tmp_path, score, precision
):
    report = score(full_bundle, dataset, tmp_path / "out", precision=precision, batch_size=7, workers=3)
    assert report.precision == precision
    assert report.decoding.model_dump() == {"loop": "fused", "batch_size": 7, "workers": 3}
    assert score(full_bundle, dataset, tmp_path / "out", precision=precision).decoding is None
    plain = score(tiny_bundle, dataset, tmp_path / "plain", batch_size=9, workers=1)
    assert plain.decoding.model_dump() == {"loop": "step by step", "batch_size": 9, "workers": 1}


def test_parts_of_another_precision_are_history(full_bundle, dataset, out, score):
    score(full_bundle, dataset, out)
    with pytest.raises(UsageError, match="3"):
        score(full_bundle, dataset, out, precision="int8")
    report = score(full_bundle, dataset, out, precision="int8", rescore="all")
    assert (report.exit_code, report.this_run.parts) == (0, 3)


def test_only_files_of_ours_lie_beside_the_parts_and_none_ends_in_parquet(tiny_bundle, dataset, out, score):
    score(tiny_bundle, dataset, out)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names - {"a.parquet", "b.parquet", "date=2026-11-23/c.parquet"} == {
        ".lock", "_SUCCESS", "_ledger.json", "_report.json",
    }  # fmt: skip


def test_a_second_run_at_the_same_time_is_busy_and_touches_nothing(tiny_bundle, dataset, out, score, contents):
    score(tiny_bundle, dataset, out)
    before = contents(out)
    with FileLock(out / ".lock"), pytest.raises(BusyError, match="another run"):
        score(tiny_bundle, dataset, out, recheck=True)
    assert contents(out) == before
    assert score(tiny_bundle, dataset, out).exit_code == 0


def test_a_link_planted_as_the_lock_is_not_followed(tiny_bundle, dataset, out, tmp_path, score):
    (tmp_path / "victim").write_bytes(b"precious")
    out.mkdir()
    (out / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="cannot lock"):
        score(tiny_bundle, dataset, out)
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"device": "tpu"}, UsageError),
        ({"expect_bundle_id": "0" * 64}, BundleError),
        ({"precision": "int8"}, BundleError),
    ],
)
def test_what_is_refused_at_the_door_makes_no_output_folder(tiny_bundle, dataset, out, score, options, kind):
    with pytest.raises(kind):
        score(tiny_bundle, dataset, out, **options)
    assert not out.exists()
