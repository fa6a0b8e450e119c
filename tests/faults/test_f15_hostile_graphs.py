"""F15: a graph that was written to harm is refused within two seconds, in little memory, and opens nothing."""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import onnx
import pytest
from hostile_graphs import BYTES, CASES, HARMLESS, LATER, endless, reads

from campaigns import bundle_mutations
from campaigns.bundle_mutations import lay, try_bundle
from campaigns.watch import peak_mib, watch_folder, watch_opens
from runner.bundle import audit_bundle, open_bundle
from runner.manifest import bundle_id_of

SECONDS = 2.0
BUSY = 3.0
"""A machine that runs other things at the same time may take so many times as long; processor time may not."""
GROWTH_MIB = 600
"""A file of 10 MB may take 500 when it is parsed; all others stay far below."""
ADDRESS_SPACE = 6 << 30
"""Bytes that a process may map beside what it was forked with."""


def spoilt(good, spoil, canary):
    model = onnx.load_model_from_string(good["decoder_step.onnx"])
    spoil(model, canary)
    return model.SerializeToString()


def bundle_with(good, graph):
    """Close the manifest over another step graph."""
    values = json.loads(good["manifest.json"])
    values["decoder_step"] |= {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    text = json.dumps({**values, "bundle_id": bundle_id_of(values)}).encode()
    return {**good, "decoder_step.onnx": graph, "manifest.json": text}


@pytest.fixture(scope="module")
def good(tiny_bundle):
    """Return the files of a good bundle, which has been opened: all has been imported that there is to import."""
    assert try_bundle(tiny_bundle) == (None, True)
    return {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}


@pytest.fixture
def canary(tmp_path):
    """Return a secret outside the bundle; beside it lies a pipe, which would hang whoever opens it."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "secret").write_bytes(b"\0\0\x80?" * 64)
    os.mkfifo(tmp_path / "canary" / "pipe")
    return tmp_path / "canary" / "secret"


@pytest.fixture
def alone(canary):
    """Return what opens a bundle in a process of its own, and checks all that is promised of it but the outcome."""

    def work(told, folder):
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
        opened, touched, before, started = (
            watch_opens(folder),
            watch_folder(canary.parent),
            peak_mib(),
            time.process_time(),
        )
        fault, accepted = try_bundle(folder)
        told.send((fault, accepted, time.process_time() - started, peak_mib() - before, opened, touched()))

    def run(folder):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, folder))
        started = time.perf_counter()
        process.start()
        theirs.close()
        try:
            assert ours.poll(60), "it hung"
            fault, accepted, seconds, growth, opened, touched = ours.recv()
        except EOFError:
            process.join()
            pytest.fail(f"the process ended by {signal.Signals(-process.exitcode).name}")
        finally:
            process.kill()
            process.join()
        wall = time.perf_counter() - started
        print(f"{seconds:.2f} s of processor time, {wall:.2f} s in all, {growth:.0f} MiB")
        assert fault is None
        assert seconds < SECONDS * BUSY
        assert growth < GROWTH_MIB
        assert opened == []
        assert not touched
        return accepted

    return run


@pytest.fixture
def no_sessions(monkeypatch):
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("onnxruntime was asked"))
    monkeypatch.setattr(bundle_mutations, "open_forecaster", lambda *_, **__: pytest.fail("the audit let it pass"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("no_sessions")
def test_f15_a_hostile_graph_is_refused_by_the_audit_alone(good, canary, alone, tmp_path, name):
    graph = spoilt(good, CASES[name], canary)
    lay(bundle_with(good, graph), tmp_path / "bundle")
    assert not alone(tmp_path / "bundle")


@pytest.mark.parametrize("name", HARMLESS)
def test_f15_what_changes_no_forecast_may_pass(good, canary, alone, tmp_path, name):
    lay(bundle_with(good, spoilt(good, HARMLESS[name], canary)), tmp_path / "bundle")
    assert alone(tmp_path / "bundle")


@pytest.mark.parametrize("name", LATER)
def test_f15_what_passes_the_audit_and_is_no_good_is_refused_as_quickly(good, canary, alone, tmp_path, name):
    lay(bundle_with(good, spoilt(good, LATER[name], canary)), tmp_path / "bundle")
    audit_bundle(open_bundle(tmp_path / "bundle"))
    assert not alone(tmp_path / "bundle")


@pytest.mark.parametrize("place", ["link", "hard", "linked", "int8"])
@pytest.mark.usefixtures("no_sessions")
def test_f15_links_and_folders_beside_the_graphs_are_refused(good, canary, alone, tmp_path, place):
    bundle = tmp_path / "bundle"
    lay(bundle_with(good, spoilt(good, reads(f"{place}/secret" if place == "linked" else place), canary)), bundle)
    if place == "hard":
        os.link(canary, bundle / place)
    else:
        (bundle / place).symlink_to(canary if place == "link" else canary.parent)
    assert not alone(bundle)


def test_f15_the_manifest_cannot_allow_what_the_audit_forbids(good, canary, alone, tmp_path):
    """It comes with the graph, from the same hand."""
    files = bundle_with(good, spoilt(good, endless, canary))
    values = {**json.loads(files["manifest.json"]), "control_flow": ["Loop"]}
    text = json.dumps({**values, "bundle_id": bundle_id_of(values)}).encode()
    lay({**files, "manifest.json": text}, tmp_path / "bundle")
    assert not alone(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("verify", "endless Loop"),
        ("inspect", "ConstantOfShape of 8 GiB"),
        ("bench", "Concat doubling a list"),
        ("score", "data of a pipe"),
    ],
)
def test_f15_every_command_refuses_with_exit_12(good, canary, freerun, dataset, tmp_path, command, name):
    lay(bundle_with(good, spoilt(good, CASES[name], canary)), tmp_path / "bundle")
    started = time.perf_counter()
    done = freerun(command, tmp_path / "bundle", *([dataset, "--out", tmp_path / "out"] if command == "score" else []))
    print(f"{time.perf_counter() - started:.2f} s")
    assert done.code == 12, done.err
    assert "decoder_step.onnx" in done.err
    assert "Traceback" not in done.err
    assert time.perf_counter() - started < SECONDS * BUSY
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.usefixtures("no_sessions")
def test_f15_bytes_that_are_no_graph_are_refused_before_they_take_memory(good, alone, tmp_path, name):
    lay(bundle_with(good, BYTES[name]), tmp_path / "bundle")
    assert not alone(tmp_path / "bundle")
