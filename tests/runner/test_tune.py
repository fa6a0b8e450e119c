"""Batch size and threads: as the job says, else as measured here before, else by one short measurement."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import runner.tune
from runner.bundle import audit_bundle, open_bundle
from runner.config import Job
from runner.device import Device, cpu_count
from runner.errors import InterruptedRunError
from runner.forecaster import Decoding
from runner.stop import Stop
from runner.tune import BATCH_SIZES, DEFAULT_BATCH_SIZE, WORTH_MEASURING, Measurement, bench_bundle, measure, settle

CPU = Device("cpu")
JUNK = [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"workers": 1}', b'{"rates": {"64": 1}}',
    b'{"workers": 1, "rates": {}}', b'{"workers": 1, "rates": [64]}', b'{"workers": 1, "rates": {"64": "fast"}}',
    b'{"workers": 1, "rates": {"some": 1}}', b'{"workers": null, "rates": {"64": 1}}',
    b'{"workers": 0, "rates": {"64": 1}}', b'{"workers": 3, "rates": {"64": 1}}',
    b'{"workers": 1, "rates": {"63": 1}}', b'{"workers": 1, "rates": {"64": 1, "100000000": 9}}',
    b'{"workers": 1e999, "rates": {"64": 1}}', b'{"workers": 1, "rates": {"64": 1' + b"0" * 400 + b"}}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return the folder that holds this test's measurements alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "freerun"


@pytest.fixture
def bundle(full_bundle):
    return audit_bundle(open_bundle(full_bundle))


@pytest.fixture
def measured(monkeypatch):
    """Let every measurement find the same, and return what was measured."""
    asked = []

    def find(_bundle, how, *_):
        asked.append(how)
        return Measurement(how.workers, {64: 1.0, 256: 3.0, 512: 2.0})

    monkeypatch.setattr("runner.tune.measure", find)
    return asked


@pytest.fixture
def ask(bundle):
    """Return what settles a job: ask(rows, **options of Job)."""

    def run(rows=WORTH_MEASURING, of=bundle, **options):
        options = {"workers": 2, **options}
        return settle(Job(of.path, "IN", Path("OUT"), **options), of, CPU, rows, Stop())

    return run


def kept(cache):
    return sorted(cache.rglob("*")) if cache.exists() else []


@pytest.mark.parametrize("rows", [0, WORTH_MEASURING])
def test_what_the_job_says_stands_and_nothing_is_measured_or_kept(ask, measured, cache, rows):
    how = ask(rows, batch_size=7, workers=3, precision="int8")
    assert how == Decoding(CPU, "int8", 7, 3)
    assert ask(rows, batch_size=7, workers=None) == Decoding(CPU, "fp32", 7, cpu_count())
    assert (measured, kept(cache)) == ([], [])


def test_a_small_run_measures_nothing_and_keeps_nothing(ask, measured, cache):
    how = ask(WORTH_MEASURING - 1, workers=None)
    assert how == Decoding(CPU, "fp32", DEFAULT_BATCH_SIZE["cpu"], cpu_count())
    assert (measured, kept(cache)) == ([], [])


def test_a_large_run_measures_once_and_all_later_ones_remember(ask, measured, cache):
    first = ask()
    assert first == Decoding(CPU, "fp32", 256, 2)
    assert [ask(), ask(1), ask()] == [first] * 3
    assert len(measured) == 1
    (place,) = kept(cache)
    assert place.suffix == ".json"
    assert json.loads(place.read_text())["conditions"]["bundle_id"]


def test_threads_that_the_job_names_stand_though_fewer_were_faster(ask, cache, monkeypatch):
    monkeypatch.setattr("runner.tune.measure", lambda *_: Measurement(2, {64: 2.0, 128: 1.0}))
    monkeypatch.setattr("runner.tune.default_workers", lambda _device: 4)
    assert ask(workers=4) == Decoding(CPU, "fp32", 64, 4)
    assert ask(workers=None) == Decoding(CPU, "fp32", 64, 2)
    assert len(kept(cache)) == 1


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk[:40].decode(errors="replace"))
def test_a_damaged_or_foreign_cache_is_ignored_and_written_anew(ask, measured, cache, junk):
    good = ask()
    (place,) = kept(cache)
    place.write_bytes(junk)
    assert ask(1) == replace(good, batch_size=DEFAULT_BATCH_SIZE["cpu"])
    assert ask() == good
    assert len(measured) == 2
    assert ask(1) == good


@pytest.mark.parametrize("kind", ["pipe", "endless", "link"])
def test_what_is_no_small_plain_file_in_the_cache_is_not_read_to_its_end_or_written_through(
    ask, measured, cache, tmp_path, kind
):
    good = ask()
    (place,) = kept(cache)
    victim = tmp_path / "victim"
    victim.write_bytes(place.read_bytes())
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "endless":
        with place.open("wb") as file:
            file.truncate(1 << 40)
    else:
        place.symlink_to(victim)
    before = victim.read_bytes()
    assert ask(1) == replace(good, batch_size=DEFAULT_BATCH_SIZE["cpu"])
    assert ask() == good
    assert victim.read_bytes() == before
    assert len(measured) == 2


@pytest.mark.parametrize("obstacle", ["file in the way", "folder in its place", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(ask, measured, cache, monkeypatch, obstacle):
    if obstacle == "file in the way":
        cache.parent.write_bytes(b"")
    elif obstacle == "folder in its place":
        ask()
        (place,) = kept(cache)
        place.unlink()
        (place / "full").mkdir(parents=True)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "expanduser", lambda _: (_ for _ in ()).throw(RuntimeError("no home")))
    measured.clear()
    assert ask() == ask() == Decoding(CPU, "fp32", 256, 2)
    assert len(measured) == 2


def test_another_bundle_precision_or_number_of_threads_is_measured_anew(tiny, tmp_path, ask, measured, cache):
    other = audit_bundle(open_bundle(tiny.make_bundle(tmp_path / "other", seed=1)))
    for options in ({}, {"precision": "int8"}, {"workers": 1}, {"of": other}, {"mode": "teacher-forced"}):
        ask(**options)
    assert len(measured) == len(kept(cache)) == 4  # the mode does not matter


def test_another_processor_or_onnxruntime_is_measured_anew(ask, measured, monkeypatch):
    ask()
    monkeypatch.setattr("runner.tune._processor", lambda: "another one")
    ask()
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"another {name}")
    ask()
    assert len(measured) == 3


@pytest.mark.parametrize("word", [None, ""])
def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(ask, measured, tmp_path, monkeypatch, word):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    if word is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    ask()
    assert len(kept(tmp_path / "home" / ".cache" / "freerun")) == 1
    assert len(measured) == 1


def test_a_real_measurement_tries_every_batch_size_and_tells_of_each(bundle):
    told = []
    found = measure(bundle, Decoding(CPU, "fp32", 1, 2), 1.0, Stop(), told.append)
    assert [(trial.batch_size, trial.workers) for trial in told] == [(size, 2) for size in BATCH_SIZES["cpu"]]
    assert found.rates == {trial.batch_size: trial.windows_per_second for trial in told}
    assert min(found.rates.values()) > 0
    assert found.rates[found.batch_size] == max(found.rates.values())


@pytest.mark.parametrize("better", [4, 2])
def test_with_many_threads_half_as_many_are_tried_and_the_best_is_taken(bundle, monkeypatch, better):
    def rate(_loop, batch, workers, *_):
        return len(batch) * (1e7 if workers == better else 1e6)

    monkeypatch.setattr("runner.tune._rate", rate)
    told = []
    found = measure(bundle, Decoding(CPU, "fp32", 1, 4), 1, Stop(), told.append)
    assert {trial.workers for trial in told} == {4, 2}
    assert (found.workers, found.batch_size, found.rates[1024]) == (better, 1024, 1024e7)


def test_a_request_to_stop_ends_a_measurement(bundle):
    stop = Stop()
    stop.request(signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        measure(bundle, Decoding(CPU, "fp32", 1, 2), 60, stop)


def test_bench_measures_each_precision_and_score_follows_it(bundle, ask, cache, monkeypatch):
    monkeypatch.setattr("runner.tune._rate", lambda _loop, batch, *_: 1e9 if len(batch) == 64 else 5e8)
    found = bench_bundle(bundle, CPU, 0.01, Stop())
    assert list(found) == ["fp32", "int8"]
    for bench in found.values():
        assert {trial.batch_size for trial in bench.trials} == set(BATCH_SIZES["cpu"])
        assert (bench.chosen.batch_size, bench.kept) == (64, True)
    assert len(kept(cache)) == 2
    monkeypatch.setattr("runner.tune.measure", lambda *_: pytest.fail("measured again"))
    for precision in ("fp32", "int8"):
        assert ask(1, workers=None, precision=precision).batch_size == 64


def test_the_bench_command_prints_all_trials_and_keeps_the_best(command, tiny, full_bundle, cache):
    done = command("bench", full_bundle, "--seconds", "0.1", "--json")
    assert (done.code, done.err) == (0, "")
    told = done.json()
    assert (told["bundle_id"], told["device"]) == (tiny.read_manifest(full_bundle)["bundle_id"], "cpu")
    assert set(told["precisions"]) == {"fp32", "int8"}
    for bench in told["precisions"].values():
        assert bench["chosen"] == max(bench["trials"], key=lambda trial: trial["windows_per_second"])
        assert bench["kept"] is True
    assert len(kept(cache)) == 2
    words = command("bench", full_bundle, "--seconds", "0.1").out
    assert words.count("kept for freerun score") == 2


def test_a_bench_that_cannot_be_remembered_says_so(command, full_bundle, cache):
    cache.parent.write_bytes(b"")
    done = command("bench", full_bundle, "--seconds", "0.1")
    assert (done.code, done.out.count("cannot be written"), done.out.count("kept")) == (0, 2, 0)


def test_batch_sizes_take_turns_and_the_median_counts(bundle, monkeypatch):
    speeds = {64: [1e9, 1e9, 9e10], 128: [3e9, 2e9, 2e9]}
    turns = []

    def rate(_loop, batch, *_):
        turns.append(len(batch))
        return speeds.get(len(batch), [5e8] * 3)[turns.count(len(batch)) - 1]

    monkeypatch.setattr("runner.tune._rate", rate)
    assert measure(bundle, Decoding(CPU, "fp32", 1, 2), 1, Stop()).batch_size == 128
    assert turns == list(BATCH_SIZES["cpu"]) * 3


def test_of_a_heavy_model_only_sizes_are_tried_that_the_time_allows(bundle, monkeypatch):
    monkeypatch.setattr("runner.tune._rate", lambda *_: 700.0)
    tried = []
    measure(bundle, Decoding(CPU, "fp32", 1, 2), 1.5, Stop(), lambda trial: tried.append(trial.batch_size))
    assert tried == [64, 128]  # two batches of 128 take 0.37 of the 1.5 seconds, of 256 0.73


def test_what_the_time_does_not_allow_is_not_measured_again(bundle, monkeypatch):
    calls = []
    monkeypatch.setattr("runner.tune._rate", lambda *_: calls.append(1) or 1e12)
    measure(bundle, Decoding(CPU, "fp32", 1, 2), 1e-6, Stop())
    assert len(calls) == len(BATCH_SIZES["cpu"])


@pytest.mark.parametrize("args", [["--device", "tpu"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_a_bench_that_cannot_be_followed_is_a_usage_error(command, full_bundle, cache, args):
    assert command("bench", full_bundle, *args).code == 2
    assert kept(cache) == []


@pytest.mark.parametrize(("largest", "tried"), [(300, {64, 128, 256}), (64, {64}), (7, {7})])
def test_no_batch_size_that_takes_too_much_memory_is_tried(bundle, monkeypatch, largest, tried):
    monkeypatch.setattr("runner.bundle.AuditedBundle.largest_batch", lambda *_: largest)
    found = bench_bundle(bundle, CPU, 0.1, Stop())
    assert {trial.batch_size for trial in found["fp32"].trials} <= tried
    assert min(trial.batch_size for trial in found["fp32"].trials) == min(tried)
    assert settle(Job(bundle.path, "IN", Path("OUT")), bundle, CPU, 1, Stop()).batch_size in tried


def test_what_was_measured_changes_no_byte_of_a_run(full_bundle, dataset, tmp_path, score, parts, cache, monkeypatch):
    monkeypatch.setattr("runner.tune.WORTH_MEASURING", 1)
    monkeypatch.setattr("runner.tune.SECONDS", 0.01)
    measured = score(full_bundle, dataset, tmp_path / "measured")
    assert measured.decoding.batch_size in BATCH_SIZES["cpu"]
    assert len(kept(cache)) == 1
    score(full_bundle, dataset, tmp_path / "told", batch_size=7, workers=1)
    assert parts(tmp_path / "measured") == parts(tmp_path / "told")
    shutil.rmtree(cache)
    assert runner.tune.recall(audit_bundle(open_bundle(full_bundle)), Decoding(CPU, "fp32", 1, 2)) is None
