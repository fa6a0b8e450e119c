import pyarrow.parquet as pq
import pytest

from runner.cli import cli
from runner.config import Job
from runner.run import run_job
from runner.stop import Stop


@pytest.mark.parametrize("flags", [(), ("--output-layout", "windows"), ("--window", "rolling"), ("--fallback", "last")])
def test_the_output_of_series_is_verified_and_a_second_run_has_nothing_to_do(
    long, tiny_bundle, within, tmp_path, flags
):
    rows = long.make_rows(1)
    rows[3] = {**rows[3], "ds": rows[2]["ds"]}
    pq.write_table(long.table_of(rows), tmp_path / "in.parquet")
    score = "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--layout", "long", "--freq", "h"
    done = within(cli, *score, *flags, "--max-reject-rate", 1, "--json")
    assert (done.code, done.json()["this_run"]["rejects"]["step_duplicate"]) == (0, 1), done.err
    verified = within(cli, "verify-output", tmp_path / "out")
    assert verified.code == 0, verified.err
    again = within(cli, *score, *flags, "--max-reject-rate", 1, "--json").json()
    assert (again["already_done"], again["this_run"]["rows"]["read"]) == (1, 0)
    assert again["total"] == done.json()["total"]


def test_parts_of_one_window_are_history_to_a_run_of_another(long, tiny_bundle, within, tmp_path):
    pq.write_table(long.table_of(long.make_rows(2)), tmp_path / "in.parquet")
    score = "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--layout", "long", "--freq", "h"
    assert within(cli, *score).code == 0
    refused = within(cli, *score, "--window", "rolling")
    assert refused.code == 2
    assert "1 by this bundle with other options" in refused.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--stride", 2), "--layout long"),
        (("--layout", "long"), "nobody says how long a time step is"),
        (("--layout", "long", "--freq", "h", "--stride", 2), "--window rolling"),
        (("--layout", "long", "--freq", "h", "--from", "2026-01-01"), "--window rolling"),
        (("--layout", "long", "--freq", "fortnight"), "the frequency is not understood"),
        (("--layout", "long", "--freq", "h", "--mode", "teacher-forced"), "--window rolling"),
        (("--layout", "long", "--freq", "h", "--window", "rolling", "--from", "noon"), "--from is no time of the data"),
        (
            ("--layout", "long", "--freq", "h", "--window", "rolling", "--from", "2026-03-30", "--to", "2026-03-29"),
            "--to lies before --from",
        ),
        (("--column", "load=y"), "expected ROLE=NAME, where ROLE is one of"),
    ],
)  # fmt: skip
def test_flags_that_mean_nothing_together_are_refused_before_anything_is_touched(
    long, tiny_bundle, within, tmp_path, flags, told
):
    pq.write_table(long.table_of(long.make_rows(2)), tmp_path / "in.parquet")
    done = within(cli, "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", *flags)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_progress_counts_the_rows_of_the_input_each_once(long, tiny_bundle, tmp_path):
    table = long.table_of(long.make_rows(3, (5000, 4000, 10)))
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3000)
    told = []
    job = Job(tiny_bundle, f"{tmp_path}/in.parquet", tmp_path / "out", layout="long", window="rolling", freq="h")
    report = run_job(job, Stop(), lambda rows, total: told.append((rows, total)))
    assert report.this_run.rows.read > 2 * 4096  # so that blocks were cut in two
    assert (sum(rows for rows, _ in told), {total for _, total in told}) == (len(table), {len(table)})
