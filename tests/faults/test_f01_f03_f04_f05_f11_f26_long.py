"""The same faults where a row is a time step: kills, signals, full disks, damage, bombs, replaced files."""

import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from campaigns.processes import freerun, start
from campaigns.watch import run_measured
from runner.cli import cli
from runner.long.sort import Sorter

SEED = random.SystemRandom().randrange(1 << 32)
HOUR = 3_600_000_000
CEILING_MIB = 250
"""What any input may take beyond what a small one takes."""
LATEST_SECONDS = 2.0


def table_of(unique_id, step, seed=0):
    """Return rows of these series at these hours, each with numbers of its own."""
    values = np.random.default_rng(seed).normal(size=(3, len(step))).astype(np.float32)
    ds = pa.array(np.asarray(step) * HOUR).view(pa.timestamp("us", "UTC"))
    return pa.table([unique_id, ds, *values], names=["unique_id", "ds", "y", "x", "k"])


def shuffled(series, steps, seed):
    """Return so many series of so many hours, their rows in any order."""
    order = np.random.default_rng(seed).permutation(series * steps)
    names = pa.array([f"series {place}" for place in range(series)])
    return table_of(pa.DictionaryArray.from_arrays(order // steps, names), order % steps, seed)


def words(bundle, source, out, *flags):
    layout = "--layout", "long", "--freq", "h", "--window", "rolling", "--stride", 40
    return ["score", bundle, source, "--out", out, *layout, "--quiet", "--batch-size", 16, *flags]


def parts(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return a folder of files whose rows are in any order."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(8):
        pq.write_table(shuffled(30, 120 + seed, seed), folder / f"{seed}.parquet", row_group_size=1000)
    return folder


def test_f01_a_run_that_sorts_killed_at_any_moment_is_finished_by_the_same_command(tiny_bundle, many, tmp_path):
    print(f"seed {SEED}")
    draw, left = random.Random(SEED), 0
    whole = start(freerun(*words(tiny_bundle, many, tmp_path / "whole", "--sort")), tmp_path / "whole.log").wait()
    assert whole.code == 0, whole.text
    expected = parts(tmp_path / "whole")
    for attempt in range(3):
        out = tmp_path / str(attempt)
        for delay in (draw.uniform(0, whole.seconds), draw.uniform(0, whole.seconds)):
            running = start(freerun(*words(tiny_bundle, many, out, "--sort")), tmp_path / "log")
            time.sleep(delay)
            running.send(signal.SIGKILL)
            running.wait()
            left += len(list(out.glob(".*.freerun-tmp")))
            made = parts(out)
            assert made.items() <= expected.items()
        ended = start(freerun(*words(tiny_bundle, many, out, "--sort")), tmp_path / "log").wait()
        assert ended.code == 0, ended.text
        assert parts(out) == expected
        assert list(out.rglob("*freerun-tmp")) == []
    print(f"{left} unfinished files and folders were left")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a file that is sorted by way of the disk."""
    path = tmp_path_factory.mktemp("large") / "large.parquet"
    with pq.ParquetWriter(path, shuffled(1, 1, 0).schema, compression="lz4") as writer:
        for seed in range(12):
            writer.write_table(shuffled(400, 1000, seed))
    return path


def test_f03_sigterm_in_the_middle_of_a_sort_ends_it_in_time_and_leaves_nothing(tiny_bundle, large, tmp_path):
    out = tmp_path / "out"
    running = start(freerun(*words(tiny_bundle, large, out, "--sort")), tmp_path / "log")
    while not (ended := running.poll()) and not list(out.glob(".*.freerun-tmp/*storage*")):
        time.sleep(0.01)
    assert ended is None, ended
    sent = time.monotonic()
    running.send(signal.SIGTERM)
    ended = running.wait()
    assert (ended.code, time.monotonic() - sent < LATEST_SECONDS) == (143, True), ended.text
    assert "Traceback" not in ended.text
    assert list(out.glob("*.parquet")) == list(out.glob(".*.freerun-tmp")) == []


def test_f04_a_disk_that_is_full_while_rows_are_sorted_is_told_and_nothing_is_left(tiny_bundle, large, tmp_path):
    (tmp_path / "out").mkdir()
    mount = ["unshare", "--mount", "sh", "-ec"]
    if subprocess.run([*mount, f"mount -t tmpfs -o size=8m tmpfs {tmp_path / 'out'}"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    program = "from runner.cli import main; main()"
    script = f'mount -t tmpfs -o size=8m tmpfs {tmp_path}/out; "$@" || code=$?; ls -a {tmp_path}/out; exit $code'
    command = [
        *mount,
        script,
        "sh",
        sys.executable,
        "-c",
        program,
        *words(tiny_bundle, large, tmp_path / "out", "--sort"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 14, done.stderr
    assert f"cannot sort in {tmp_path / 'out'}" in done.stderr
    assert "free space for --out" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(done.stdout.split()) == {".", "..", ".lock", "_ledger.json", "_report.json", "_unfinished.json"}


@pytest.mark.parametrize("sort", [(), ("--sort",)], ids=["as it is", "sorted"])
def test_f05_a_damaged_page_of_time_steps_is_named_and_the_other_files_are_scored(tiny_bundle, within, tmp_path, sort):
    (tmp_path / "in").mkdir()
    table = table_of(pa.array(np.repeat(np.arange(30), 50)), np.tile(np.arange(50), 30))
    plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True, "row_group_size": 500}
    for name in ("a", "bad", "c"):
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet", **plain)
    column = pq.read_metadata(tmp_path / "in" / "bad.parquet").row_group(1).column(2)
    content = bytearray((tmp_path / "in" / "bad.parquet").read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 100] ^= 1
    (tmp_path / "in" / "bad.parquet").write_bytes(content)
    done = within(cli, *words(tiny_bundle, tmp_path / "in", tmp_path / "out", *sort))
    assert done.code == 11
    assert "bad.parquet is damaged in row group 1" in done.err
    assert "Traceback" not in done.err
    assert list(parts(tmp_path / "out")) == ["a.parquet", "c.parquet"]
    assert list((tmp_path / "out").glob(".*.freerun-tmp")) == []


@pytest.fixture(scope="module")
def base(tiny_bundle, tmp_path_factory):
    """Return the peak of a run over a few rows, in MiB."""
    folder = tmp_path_factory.mktemp("small")
    pq.write_table(table_of(pa.array(["a"] * 100), np.arange(100)), folder / "in.parquet")
    done = run_measured(*words(tiny_bundle, folder / "in.parquet", folder / "out"))
    assert done.code == 0, done.messages
    return done.peak_mib


ROWS = 1 << 18


def write_groups(path, tables, count):
    """Write tables again and again, a row group each, in as few bytes as can be."""
    plain = {"compression": "zstd", "use_dictionary": ["unique_id", "y", "x", "k"]}
    encoding = {"column_encoding": {"ds": "DELTA_BINARY_PACKED"}}
    with pq.ParquetWriter(path, tables[0].schema, **plain, **encoding) as writer:
        for place in range(count):
            writer.write_table(tables[place % len(tables)], row_group_size=ROWS)


def steady(names):
    """Return rows that compress to nothing: series after series, each of 4,096 hours, all numbers the same."""
    step = np.arange(ROWS) % 4096
    ids = pa.DictionaryArray.from_arrays(np.arange(ROWS, dtype=np.int32) // 4096, pa.array(names))
    ones = np.ones(ROWS, np.float32)
    ds = pa.array(step * HOUR).view(pa.timestamp("us", "UTC"))
    return pa.table([ids, ds, ones, ones, ones], names=["unique_id", "ds", "y", "x", "k"])


def test_f11_a_megabyte_of_series_that_decodes_to_a_gibibyte_takes_no_more_than_a_small_file(
    tiny_bundle, base, tmp_path
):
    path = tmp_path / "bomb.parquet"
    write_groups(path, [steady([f"{group}-{place}" for place in range(64)]) for group in range(172)], 172)
    held = pq.read_metadata(path)
    assert (held.num_rows * 24 > 1 << 30, path.stat().st_size < 2 << 20) == (True, True)
    done = run_measured(*words(tiny_bundle, path, tmp_path / "out", "--stride", 100_000))
    print(f"{path.stat().st_size >> 10} KiB on disk, {done.peak_mib:.0f} MiB, a small run {base:.0f} MiB")
    assert done.code == 0, done.messages
    assert pq.read_metadata(tmp_path / "out" / "bomb.parquet").num_rows == 172 * 64 * 4
    assert done.peak_mib - base < CEILING_MIB


@pytest.mark.parametrize("sort", [(), ("--sort",)], ids=["as it is", "sorted"])
def test_f11_one_series_that_decodes_to_a_gibibyte_is_refused_before_it_is_in_memory(tiny_bundle, base, tmp_path, sort):
    path = tmp_path / "bomb.parquet"
    write_groups(path, [steady(["a"] * 64)], 172 if not sort else 20)
    done = run_measured(*words(tiny_bundle, path, tmp_path / "out", *sort))
    print(f"{path.stat().st_size >> 10} KiB on disk, {done.peak_mib:.0f} MiB, a small run {base:.0f} MiB")
    assert done.code == 11, done.messages
    assert "a series is too long to be held in memory" in done.messages
    assert done.peak_mib - base < 400


@pytest.mark.parametrize("dictionary", [False, True], ids=["plain", "dictionary"])
def test_f11_names_that_decode_to_400_megabytes_are_refused_unread(tiny_bundle, base, tmp_path, dictionary):
    names = pa.array([f"{place}" + "x" * 1_000_000 for place in range(400)])
    one_page = {"use_dictionary": dictionary, "dictionary_pagesize_limit": 2 << 30, "write_statistics": False}
    pq.write_table(table_of(names, np.zeros(400, np.int64)), tmp_path / "in.parquet", compression="zstd", **one_page)
    assert (tmp_path / "in.parquet").stat().st_size < 1 << 20
    done = run_measured(*words(tiny_bundle, tmp_path / "in.parquet", tmp_path / "out"))
    print(f"{done.peak_mib:.0f} MiB, a small run {base:.0f} MiB")
    assert done.code == 11, done.messages
    assert "in.parquet: column 'unique_id' has a text that is too long" in done.messages
    assert done.peak_mib - base < CEILING_MIB


def test_f26_a_file_that_is_replaced_while_its_rows_are_sorted_is_scored_as_its_new_version(
    tiny_bundle, within, many, tmp_path, monkeypatch
):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.parquet"
    shutil.copy(many / "0.parquet", path)
    shutil.copy(many / "1.parquet", tmp_path / "new")
    sort, turns = Sorter.sort, []

    def raced(self, pieces, *names):
        for batch in sort(self, pieces, *names):
            if not turns:
                (tmp_path / "new").replace(path)
            turns.append(len(batch))
            yield batch

    monkeypatch.setattr(Sorter, "sort", raced)
    assert within(cli, *words(tiny_bundle, tmp_path / "in", tmp_path / "raced", "--sort")).code == 0
    assert len(turns) == 2
    assert within(cli, *words(tiny_bundle, tmp_path / "in", tmp_path / "calm", "--sort")).code == 0
    assert parts(tmp_path / "raced") == parts(tmp_path / "calm")
