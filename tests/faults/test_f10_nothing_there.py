"""F10: where there is nothing, a part of the right schema, exit 0 and a score of null; a graph never sees zero rows."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from campaigns.hand_made import TINY, H
from campaigns.scoring import opened
from runner.session import GraphSession

FULL = TINY.make_table(9, seed=10)
ROWS_OF_GROUPS = {
    "no rows, no row group": [],
    "no rows, one row group": [0],
    "no rows, three row groups": [0, 0, 0],
    "row groups without rows between others": [0, 4, 0, 0, 5, 0],
}
CONTENTS = {
    "all masked": FULL.set_column(5, "mask", TINY.nested(np.ones((9, H), np.uint8))),
    "all rejects": FULL.set_column(1, "past", pa.nulls(9, FULL["past"].type)),
    "no target in any row": FULL.set_column(4, "target", pa.nulls(9, FULL["target"].type)),
    "no target column": FULL.drop_columns(["target", "mask"]),
}
KINDS = [*ROWS_OF_GROUPS, *CONTENTS]
GOOD_ROWS = {"row groups without rows between others": 9, "all masked": 9, "no target in any row": 9}
WITHOUT_TARGET = {"no target in any row", "no target column"}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f10")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


@pytest.fixture(autouse=True)
def graphs_never_see_zero_rows(monkeypatch):
    run = GraphSession.__call__

    def watched(self, feeds):
        assert all(len(value) for value in feeds.values()), "onnxruntime would abort the process"
        return run(self, feeds)

    monkeypatch.setattr(GraphSession, "__call__", watched)


def write(path, kind):
    if kind in CONTENTS:
        pq.write_table(CONTENTS[kind], path, row_group_size=4)
        return
    start = 0
    with pq.ParquetWriter(path, FULL.schema) as writer:
        for rows in ROWS_OF_GROUPS[kind]:
            writer.write_table(FULL.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == ROWS_OF_GROUPS[kind], "the test must write what it says"


def schema_of(path):
    return pq.ParquetFile(path).schema_arrow


@pytest.mark.parametrize("rows_per_part", [1_000_000, 4], ids=["whole", "cut"])
@pytest.mark.parametrize("mode", ["free-running", "teacher-forced"])
@pytest.mark.parametrize("kind", KINDS)
def test_f10_a_file_of_nothing_makes_a_part_of_the_right_schema_and_a_score_of_null(
    scorer, tmp_path, kind, mode, rows_per_part
):
    write(tmp_path / "a.parquet", kind)
    report = scorer.run(tmp_path, mode=mode, rows_per_part=rows_per_part)
    if kind == "no target column" and mode == "teacher-forced":
        assert (report.exit_code, scorer.visible()) == (11, set())
        return
    assert (report.exit_code, report.error) == (0, None)
    rows = pq.read_metadata(tmp_path / "a.parquet").num_rows
    good = 9 if kind == "no target column" else GOOD_ROWS.get(kind, 0)
    good = 0 if mode == "teacher-forced" and kind in WITHOUT_TARGET else good
    assert (report.total.rows.read, report.total.rows.scored) == (rows, good)
    scored = kind == "row groups without rows between others"
    assert (report.total.masked_mse is not None, report.total.observed_mse is not None) == (scored, scored)
    parts = sorted(scorer.out.glob("*.parquet"))
    assert sum(pq.read_metadata(part).num_rows for part in parts) == rows
    names = [name for name in schema_of(tmp_path / "a.parquet").names if name not in {"past", "past_observed"}]
    expected = [*(name for name in names if name != "future_known"), "prediction", "reject_reason", "bundle_id"]
    for part in parts:
        assert schema_of(part).names == expected
        assert schema_of(part).field("prediction").type == pa.list_(pa.field("element", pa.float32()))
    assert (scorer.out / "_SUCCESS").exists()


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise([*KINDS, KINDS[0]])), ids=str)
def test_f10_nothing_beside_something_changes_nothing_of_it(scorer, tmp_path, first, second):
    source = tmp_path / "in"
    TINY.write_dataset(source, {"b.parquet": 7})
    alone = scorer.run(source)
    part = (scorer.out / "b.parquet").read_bytes()
    write(source / "a.parquet", first)
    write(source / "c.parquet", second)
    report = scorer.run(source)
    assert report.exit_code == 0
    assert (scorer.out / "b.parquet").read_bytes() == part
    observed_elsewhere = "row groups without rows between others" in {first, second}
    assert (report.total.observed_mse == alone.total.observed_mse) == (not observed_elsewhere)
    empty = [name for name, kind in (("a", first), ("c", second)) if kind.startswith("no rows")]
    for name in empty:
        assert schema_of(scorer.out / f"{name}.parquet") == schema_of(scorer.out / "b.parquet")


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_f10_all_rejects_is_complete_and_only_the_gate_minds(scorer, tmp_path, rate):
    write(tmp_path / "a.parquet", "all rejects")
    report = scorer.run(tmp_path, max_reject_rate=rate, max_masked_mse=0.0)
    assert (report.status, report.exit_code) == ("done", 0 if rate == 1 else 10)
    assert report.total.rejects == {"past_missing": 9}
    part = pq.ParquetFile(scorer.out / "a.parquet").read()
    assert part["prediction"].null_count == len(part) == 9
    assert set(part["reject_reason"].to_pylist()) == {"past_missing"}
    assert (scorer.out / "_SUCCESS").exists() == (rate == 1)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"PAR1\0\0\0\0PAR1"], ids=repr)
def test_f10_a_file_without_even_a_footer_is_refused_by_name(scorer, content):
    report = scorer.score(content)
    assert (report.exit_code, scorer.visible()) == (11, set())
    assert "m.parquet is not a readable Parquet file" in report.error


@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "no folder"])
@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
def test_f10_no_files_at_all_is_exit_11_unless_allowed(scorer, tmp_path, there, allowed):
    if there:
        (tmp_path / "in" / "day=1").mkdir(parents=True)
    report = scorer.run(tmp_path / "in", allow_empty=allowed)
    assert report.exit_code == (0 if allowed else 11)
    assert (report.total.parts, report.total.masked_mse, report.total.per_step) == (0, None, ())
    assert scorer.visible() == ({"_SUCCESS"} if allowed else set())
    assert str(tmp_path / "in") in (report.error or str(tmp_path / "in"))


def test_f10_the_command_lives_through_every_kind_of_nothing(freerun, tiny_bundle, tmp_path):
    for number, kind in enumerate(KINDS):
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in" / f"{number}.parquet", kind)
    ended = freerun(
        "score", tiny_bundle, tmp_path / "in", "--out", tmp_path / "out", "--json", "--max-reject-rate", "1"
    )
    assert (ended.code, ended.json()["total"]["parts"]) == (0, len(KINDS))
    assert ended.json()["total"]["rows"] == {"read": 45, "scored": 36, "rejected": 9}
