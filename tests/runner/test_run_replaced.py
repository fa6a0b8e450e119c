"""An input file that is replaced while it is read is read anew, and never scored half from one, half from the other."""

import pyarrow.parquet as pq
import pytest

import runner.feed
import runner.pipeline


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def replace_while_reading(monkeypatch, path, contents):
    """Replace a file by the next of `contents` each time its first block has been read."""
    read_blocks, waiting = runner.feed.read_blocks, list(contents)

    def racing(file, unit, layout, size, stop):
        for block in read_blocks(file, unit, layout, size, stop):
            if unit.path == path.name and waiting:
                path.with_name("incoming").write_bytes(waiting.pop(0))
                path.with_name("incoming").replace(path)
            yield block

    monkeypatch.setattr("runner.feed.read_blocks", racing)


def test_a_file_replaced_while_it_is_read_is_read_anew(
    tiny, tiny_bundle, dataset, tmp_path, score, parts, findings, monkeypatch
):
    tiny.write_dataset(tmp_path / "next", {"other": 1, "b.parquet": 55})
    new = (tmp_path / "next" / "b.parquet").read_bytes()
    replace_while_reading(monkeypatch, dataset / "b.parquet", [new])
    raced = score(tiny_bundle, dataset, tmp_path / "raced")
    assert (dataset / "b.parquet").read_bytes() == new
    calm = score(tiny_bundle, dataset, tmp_path / "calm")
    assert (raced.exit_code, raced.total.rows.read) == (0, 130 + 55 + 41)
    assert findings(raced) == findings(calm)
    assert parts(tmp_path / "raced") == parts(tmp_path / "calm")


def test_a_file_that_is_replaced_again_and_again_is_exit_11_and_never_half_scored(
    tiny, tiny_bundle, dataset, out, tmp_path, score, parts, monkeypatch
):
    tiny.write_dataset(tmp_path / "next", {str(rows): rows for rows in range(20, 30)})
    contents = [(tmp_path / "next" / str(rows)).read_bytes() for rows in range(20, 30)]
    replace_while_reading(monkeypatch, dataset / "b.parquet", contents)
    report = score(tiny_bundle, dataset, out)
    assert (report.status, report.exit_code) == ("failed", 11)
    assert "replaced while it is read" in report.error
    assert "b.parquet" not in parts(out)
    assert not (out / "_SUCCESS").exists()


def test_a_damaged_file_is_told_once_although_another_was_read_anew(
    tiny, tiny_bundle, dataset, out, tmp_path, score, parts, monkeypatch
):
    tiny.write_dataset(tmp_path / "next", {"other": 1, "b.parquet": 55})
    replace_while_reading(monkeypatch, dataset / "b.parquet", [(tmp_path / "next" / "b.parquet").read_bytes()])
    content = bytearray((dataset / "a.parquet").read_bytes())
    content[8:40] = bytes(byte ^ 0xFF for byte in content[8:40])
    (dataset / "a.parquet").write_bytes(content)
    report = score(tiny_bundle, dataset, out)
    assert (report.exit_code, report.to_do, report.total.rows.read) == (11, 1, 55 + 41)
    assert report.error.count("a.parquet is damaged") == 1
    assert "replaced" not in report.error
    assert set(parts(out)) == {"b.parquet", "date=2026-11-23/c.parquet"}


@pytest.mark.parametrize("kind", ["more rows", "fewer rows", "a column less", "another type"])
def test_a_file_replaced_after_planning_and_before_its_turn_is_planned_anew(
    tiny, tiny_bundle, dataset, tmp_path, score, parts, monkeypatch, kind
):
    rows = {"more rows": 60, "fewer rows": 5}.get(kind, 41)
    table = tiny.make_table(rows, seed=9)
    if kind == "a column less":
        table = table.drop_columns(["note"])
    if kind == "another type":
        table = table.set_column(0, "id", table["id"].cast("string"))
    pq.write_table(table, tmp_path / "next")
    opening, waiting = runner.pipeline.open_part, [tmp_path / "next"]

    def racing(out, path, *rest):
        if waiting:  # the first part is begun; the last file's turn is still to come
            waiting.pop().replace(dataset / "date=2026-11-23" / "c.parquet")
        return opening(out, path, *rest)

    monkeypatch.setattr("runner.pipeline.ITEMS_READ_AHEAD", 1)
    monkeypatch.setattr("runner.pipeline.open_part", racing)
    raced = score(tiny_bundle, dataset, tmp_path / "raced", batch_size=1, workers=1)  # so little is read ahead
    calm = score(tiny_bundle, dataset, tmp_path / "calm")
    assert (raced.exit_code, raced.error) == (0, None)
    assert raced.total == calm.total
    assert parts(tmp_path / "raced") == parts(tmp_path / "calm")
