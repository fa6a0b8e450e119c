"""Rows in any order, sorted on disk: what comes out is what sorted rows give, and nothing is left behind."""

import random
import subprocess
import sys
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runner.cli import cli
from runner.errors import InputError, InterruptedRunError, OutputError
from runner.long.sort import LONGEST_TEXT, Sorter, sort_megabytes
from runner.stop import Stop
from runner.storage import TEMPORARY, OutputFolder

SEED = random.SystemRandom().randrange(1 << 32)
KINDS = {
    "float16": pa.array(np.array([1.5, np.nan, -0.0, 2, 3], np.float16)),
    "float32": pa.array([0.1, None, float("nan"), float("-inf"), -0.0], pa.float32()),
    "nan with a payload": pa.array(np.array([0x7FC00001, 0xFFC12345, 1, 0, 2], np.uint32)).view(pa.float32()),
    "float64": pa.array([0.1, None, float("nan"), 5e-324, 1e308], pa.float64()),
    "bool": pa.array([True, None, False, True, False]),
    "int8": pa.array([1, None, -128, 127, 0], pa.int8()),
    "uint64": pa.array([1, None, (1 << 64) - 1, 0, 5], pa.uint64()),
    "date32": pa.array([date(2026, 1, 1), None, date(1, 1, 1), date(9999, 1, 1), date(1970, 1, 1)]),
    "seconds": pa.array([1, None, -5, 0, 7], pa.timestamp("s")),
    "nanoseconds in a zone": pa.array([1, None, -5, 0, (1 << 63) - 1], pa.timestamp("ns", "Europe/Berlin")),
    "text": pa.array(["a", None, "", "\0", "é"]),
    "large text": pa.array(["a", None, "", "\0", "é"], pa.large_string()),
    "words": pa.array(["a", None, "", "b", "a"]).dictionary_encode(),
    "large words": pa.array(["a", None, "", "b", "a"], pa.large_string()).dictionary_encode(),
}


@pytest.fixture
def sorter(tmp_path):
    out = OutputFolder(tmp_path / "sorting")
    out.prepare()
    return Sorter(out, Stop(), 64)


def sorted_whole(sorter, *batches):
    return pa.Table.from_batches(list(sorter.sort(batches, "unique_id", "ds")), batches[0].schema)


def left_in(sorter):
    return list(sorter.out.root.rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_any_type_comes_back_bit_for_bit(sorter, kind):
    column = KINDS[kind]
    batch = pa.record_batch({"unique_id": [2, 1, 3, 1, 2], "ds": [0, 1, 0, 0, 1], "Y": column, "y": [1, 2, 3, 4, 5]})
    found = sorted_whole(sorter, batch)
    expected = batch.take(pa.array([3, 1, 0, 4, 2]))
    assert found.schema == batch.schema
    assert found["y"].to_pylist() == expected["y"].to_pylist()
    assert bits(found["Y"].combine_chunks()) == bits(expected["Y"])


def bits(column):
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        column = column.view(f"int{kind.bit_width}")
    return column.to_pylist()


def test_text_is_ordered_by_its_bytes_and_equal_steps_stay_in_the_order_of_the_file(sorter):
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    alphabet = ["", "\0", "a", "A", "z" * 12, "é", "😀", "\uffff", " "]
    names = ["".join(draw.choices(alphabet, k=draw.randrange(6))) for _ in range(30)]
    rows = [(draw.choice(names), draw.randrange(-3, 3), place) for place in range(4000)]
    pieces = [
        pa.record_batch(
            {"unique_id": pa.array([row[0] for row in part]).dictionary_encode(), "ds": [row[1] for row in part],
             "place": [row[2] for row in part]}
        )
        for part in (rows[:7], rows[7:3000], rows[3000:])
    ]  # fmt: skip
    found = sorted_whole(sorter, *pieces)
    expected = sorted(rows, key=lambda row: (row[0].encode(), row[1]))
    assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == expected


def test_more_rows_than_fit_its_memory_are_sorted_by_way_of_the_disk(sorter):
    spilt = []

    def pieces():
        rng = np.random.default_rng(0)
        for _ in range(32):
            keys = rng.permutation(65536)
            spilt.append(sum(path.stat().st_size for path in left_in(sorter)))
            values = {name: rng.normal(size=65536) for name in "abcde"}
            yield pa.record_batch({"unique_id": keys % 64, "ds": keys, **values})

    rows, before = 0, (-1, -1)
    for batch in sorter.sort(pieces(), "unique_id", "ds"):
        keys = list(zip(batch["unique_id"].to_pylist(), batch["ds"].to_pylist(), strict=True))
        assert all(one <= other for one, other in zip([before, *keys], keys, strict=False))
        rows, before = rows + len(keys), keys[-1]
    assert rows == 32 * 65536
    assert max(spilt) > 1 << 20
    assert left_in(sorter) == []


def test_no_rows_and_one_row(sorter):
    batch = pa.record_batch({"unique_id": ["a"], "ds": [1]})
    assert list(sorter.sort([], "unique_id", "ds")) == []
    assert sorted_whole(sorter, batch.slice(0, 0)).num_rows == 0
    assert sorted_whole(sorter, batch).to_batches() == [batch]


def test_what_reading_raises_is_raised_with_its_cause_and_the_folder_is_gone(sorter):
    cause = OSError("checksum")

    def pieces():
        yield pa.record_batch({"unique_id": [1], "ds": [1]})
        raise InputError("in.parquet is damaged") from cause

    with pytest.raises(InputError, match=r"in\.parquet is damaged") as refusal:
        list(sorter.sort(pieces(), "unique_id", "ds"))
    assert refusal.value.__cause__ is cause
    assert left_in(sorter) == []


def test_who_stops_reading_early_leaves_nothing_behind(sorter):
    batch = pa.record_batch({"unique_id": np.zeros(100_000, np.int64), "ds": np.arange(100_000)})
    rows = sorter.sort([batch], "unique_id", "ds")
    next(rows)
    assert left_in(sorter) != []
    rows.close()
    assert left_in(sorter) == []
    assert sorter.running is None


def test_a_stop_ends_a_sort_in_the_middle(sorter):
    def pieces():
        for _ in range(3):
            yield pa.record_batch({"unique_id": [1], "ds": [1]})
        sorter.stop.end(InterruptedRunError("interrupted"))  # looked at by nobody here but duckdb
        while True:
            yield pa.record_batch({"unique_id": np.zeros(1000, np.int64), "ds": np.arange(1000)})

    with pytest.raises(InterruptedRunError):
        list(sorter.sort(pieces(), "unique_id", "ds"))
    assert left_in(sorter) == []


def test_a_disk_that_is_full_is_an_output_error_that_names_the_place(sorter, monkeypatch):
    monkeypatch.setattr("runner.long.sort.SEALS", ("SET max_temp_directory_size = '1MB'",))

    def pieces():
        while True:
            yield pa.record_batch({"unique_id": np.zeros(65536, np.int64), "ds": np.arange(65536)})

    with pytest.raises(OutputError, match="free space") as refusal:
        list(sorter.sort(pieces(), "unique_id", "ds"))
    assert str(sorter.out.root) in str(refusal.value)
    assert left_in(sorter) == []


def test_a_bug_in_a_query_is_told_as_a_bug(sorter, monkeypatch):
    monkeypatch.setattr("runner.long.sort.SEALS", ("SET nonsense = 1",))
    with pytest.raises(duckdb.Error, match="nonsense"):
        list(sorter.sort([pa.record_batch({"unique_id": [1], "ds": [1]})], "unique_id", "ds"))


def test_a_name_that_takes_too_much_memory_is_refused(sorter):
    batch = pa.record_batch({"unique_id": ["a", "x" * (LONGEST_TEXT + 1)], "ds": [1, 2]})
    with pytest.raises(InputError, match="1,025 bytes"):
        list(sorter.sort([batch], "unique_id", "ds"))
    assert len(sorted_whole(sorter, pa.record_batch({"unique_id": ["x" * LONGEST_TEXT], "ds": [1]}))) == 1


def test_duckdb_reads_no_other_file_and_loads_nothing_from_a_network(sorter, tmp_path):
    (tmp_path / "secret.csv").write_text("a,b")
    with sorter.out.scratch() as folder, sorter._connected(folder) as connection:
        for query in (
            f"SELECT * FROM '{tmp_path / 'secret.csv'}'",
            "INSTALL httpfs",
            "SET enable_external_access = true",
            "ATTACH '/tmp/other.db'",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(query)
        names = ("autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions")
        asked = "SELECT name, value FROM duckdb_settings() WHERE name IN (SELECT unnest(?))"
        assert dict(connection.execute(asked, [list(names)]).fetchall()) == dict.fromkeys(names, "false")


def test_a_sort_takes_a_quarter_of_what_the_run_may_take():
    assert [sort_megabytes(most) for most in (None, 4000, 400, 100)] == [128, 128, 100, 64]


def shuffled(table, seed=SEED):
    return table.take(np.random.default_rng(seed).permutation(len(table)))


@pytest.mark.parametrize("flags", [(), ("--window", "rolling", "--stride", 3)], ids=["latest", "rolling"])
def test_forecasts_of_shuffled_rows_are_those_of_sorted_ones_bit_for_bit(long, score_rows, flags):
    print(f"seed {SEED}")
    table = long.table_of(long.make_rows(20, tuple(range(3, 40))))
    table = table.take(pc.sort_indices(table, [("unique_id", "ascending"), ("ds", "ascending")]))
    report, expected = score_rows(table, *flags)
    for rows in (table, shuffled(table)):
        again, found = score_rows(rows, "--sort", *flags, row_group_size=100)
        assert found.equals(expected)
        assert again["this_run"] == report["this_run"]
    assert report["this_run"]["rows"]["scored"] > 10


def test_without_sorting_series_that_do_not_stand_together_are_refused_with_the_remedy(
    long, within, tiny_bundle, tmp_path
):
    (tmp_path / "in").mkdir()
    table = long.table_of(long.make_rows(21))
    pq.write_table(shuffled(table, 0), tmp_path / "in" / "a.parquet")
    pq.write_table(table, tmp_path / "in" / "b.parquet")
    words = (
        "score",
        tiny_bundle,
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--layout",
        "long",
        "--freq",
        "h",
        "--quiet",
    )
    done = within(cli, *words)
    assert done.code == 11
    assert "a.parquet: the rows of a series do not stand together" in done.err
    assert "--sort" in done.err
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["b.parquet"]
    done = within(cli, *words, "--sort", "--rescore", "all")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_of_duplicate_steps_the_last_row_of_the_file_is_what_the_fallback_repeats(long, score_rows):
    rows = long.make_rows(22, (20, 20), holes=0)
    origin = long.latest_origins(rows)[0][1]
    (last,) = (row for row in rows if row["unique_id"] == "s0" and row["ds"] == origin)
    table = long.table_of([*rows, {**last, "y": 41.0}, {**last, "y": 42.0}])
    report, part = score_rows(table, "--sort", "--fallback", "last")
    assert report["this_run"]["rejects"] == {"step_duplicate": 1}
    assert set(part.filter(pc.equal(part["unique_id"], "s0"))["prediction"].to_pylist()) == {42.0}


def test_columns_that_nobody_asked_for_are_not_sorted(long, score_rows):
    table = long.table_of(long.make_rows(23))
    more = table.append_column("more", pa.array([[{"x": 1}]] * len(table)))
    _, expected = score_rows(table, "--sort")
    _, found = score_rows(more, "--sort")
    assert found.equals(expected)


def test_parts_of_unsorted_rows_are_not_taken_for_those_of_sorted_ones(long, within, tiny_bundle, tmp_path):
    rows = long.make_rows(24, (30,), holes=0)
    pq.write_table(long.table_of(rows[::-1]), tmp_path / "in.parquet")
    words = (
        "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--layout", "long", "--freq", "h",
        "--json",
    )  # fmt: skip
    done = within(cli, *words)
    assert (done.code, done.json()["this_run"]["rejects"]) == (10, {"step_unordered": 1})
    assert within(cli, *words, "--sort").code == 2
    done = within(cli, *words, "--sort", "--rescore", "all")
    assert (done.code, done.json()["this_run"]["rejects"]) == (0, {})


def test_without_duckdb_a_sort_is_refused_before_anything_is_touched(long, command, tiny_bundle, tmp_path, monkeypatch):
    pq.write_table(long.table_of(long.make_rows(25)), tmp_path / "in.parquet")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    words = "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--layout", "long", "--freq", "h"
    done = command(*words, "--sort")
    assert done.code == 2
    assert "freerun[sort]" in done.err
    assert not (tmp_path / "out").exists()
    assert command(*words).code == 0


def test_what_a_killed_sort_left_is_told_and_cleared(long, score_rows, tmp_path, command, tiny_bundle):
    table = long.table_of(long.make_rows(26))
    score_rows(table)
    case = next(tmp_path.rglob("out")).parent
    left = case / "out" / f".{'0' * 16}{TEMPORARY}"
    left.mkdir()
    (left / "duckdb_temp_storage-0.tmp").write_bytes(b"rows")
    (left / "more").mkdir()
    assert "note: 1 unfinished files" in command("verify-output", case / "out").err
    words = "score", tiny_bundle, case / "in.parquet", "--out", case / "out", "--layout", "long", "--freq", "h"
    assert command(*words, "--sort", "--rescore", "all").code == 0
    assert not left.exists()


def test_a_sort_loads_neither_pandas_nor_the_dataset_module(long, tiny_bundle, tmp_path):
    pq.write_table(shuffled(long.table_of(long.make_rows(27))), tmp_path / "in.parquet")
    code = (
        "import os, sys; from runner.cli import main; leave = os._exit\n"
        "def told(code):\n    print(*sorted(sys.modules)); sys.stdout.flush(); leave(code)\n"
        "os._exit = told; main()"
    )
    words = "score", tiny_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--layout", "long", "--freq", "h"
    command = [sys.executable, "-c", code, *map(str, words), "--sort", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert {"duckdb", "pandas", "pyarrow.dataset"} & set(done.stderr.split()) == {"duckdb"}
