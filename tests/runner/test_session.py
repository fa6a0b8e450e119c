"""A graph runs on exactly the device asked for, or not at all; whatever onnxruntime raises comes out as ours."""

import os
import signal

import numpy as np
import onnxruntime as ort
import pytest

from runner.bundle import open_bundle
from runner.device import Device
from runner.errors import BundleError, DeviceError, FreerunError, InterruptedRunError
from runner.session import CPU_PROVIDER, CUDA_PROVIDER, open_session
from runner.stop import Stop

CPU, CUDA = Device("cpu"), Device("cuda", 1)
has_cuda = CUDA_PROVIDER in ort.get_available_providers()


@pytest.fixture(scope="module")
def graph(tiny_bundle):
    return open_bundle(tiny_bundle).graphs("fp32")["encoder"]


@pytest.fixture
def feeds(tiny):
    context, features, *_ = tiny.sizes
    past = np.random.default_rng(0).normal(size=(5, context, features)).astype(np.float32)
    return {"past": past, "past_observed": np.ones((5, context), np.float32)}


def start(graph, device=CPU, stop=None):
    return open_session(graph, "encoder.onnx", device, threads=1, stop=stop or Stop())


class FakeSession:
    """A session that got another provider than the one asked for, as onnxruntime gives with a mere warning."""

    def __init__(self, *_args, **_settings):
        pass

    def get_providers(self):
        return [CPU_PROVIDER]


def test_outputs_come_by_name_and_equal_a_second_call(graph, feeds):
    session = start(graph)
    first, second = session(feeds), session(feeds)
    assert set(first) == {"previous_0", "hidden", "cell"}
    assert first["hidden"].shape == (5, 3)
    np.testing.assert_array_equal(first["previous_0"], -1)
    np.testing.assert_array_equal(first["hidden"], second["hidden"])


def test_a_row_comes_out_the_same_whatever_else_is_in_the_batch(graph, feeds):
    session = start(graph)
    alone = session({name: array[2:3] for name, array in feeds.items()})
    np.testing.assert_array_equal(session(feeds)["cell"][2:3], alone["cell"])


@pytest.mark.parametrize("spoil", ["missing", "misnamed", "reshaped", "retyped"])
def test_what_onnxruntime_raises_is_told_in_our_words_with_the_graphs_name(graph, feeds, spoil):
    spoiled = {
        "missing": {"past": feeds["past"]},
        "misnamed": {"past": feeds["past"], "other": feeds["past_observed"]},
        "reshaped": {**feeds, "past": feeds["past"][:, :, :1]},
        "retyped": {**feeds, "past": feeds["past"].astype(np.float64)},
    }
    with pytest.raises(FreerunError, match=r"onnxruntime failed while running encoder\.onnx"):
        start(graph)(spoiled[spoil])


def test_a_graph_that_onnxruntime_cannot_load_is_a_bundle_error_with_its_name(graph):
    with pytest.raises(BundleError, match=r"encoder\.onnx"):
        start(graph[: len(graph) // 2])


def test_a_stop_ends_calls_as_an_interruption_and_not_as_a_failure(graph, feeds):
    stop = Stop()
    session = start(graph, stop=stop)
    session(feeds)
    stop.request(signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match="SIGTERM"):
        session(feeds)


def test_a_session_opened_after_the_stop_is_stopped_too(graph, feeds):
    stop = Stop()
    stop.request(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match="SIGINT"):
        start(graph, stop=stop)(feeds)


def test_a_model_cannot_set_the_options_of_its_session(graph, monkeypatch):
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    start(graph)
    assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


@pytest.mark.skipif(has_cuda, reason="this onnxruntime has CUDA")
def test_cuda_is_refused_where_onnxruntime_has_none(graph):
    with pytest.raises(DeviceError, match="cuda:1 was not granted") as caught:
        start(graph, CUDA)
    assert CPU_PROVIDER in str(caught.value)
    assert "remedy: " in str(caught.value)


def test_cuda_is_refused_where_only_the_cpu_was_granted(graph, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    with pytest.raises(DeviceError, match=f"got: {CPU_PROVIDER}"):
        start(graph, CUDA)


def test_cuda_that_fails_to_start_is_a_device_error_and_not_the_bundles_fault(graph, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError("no driver")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(DeviceError, match="no driver"):
        start(graph, CUDA)


def test_cuda_alone_is_asked_for_with_its_index_and_without_the_cpu_behind_it(graph, monkeypatch):
    asked = {}

    def note(_graph, options, providers):
        asked.update(providers=providers, entry=options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        return FakeSession()

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", note)
    with pytest.raises(DeviceError):
        start(graph, CUDA)
    ((name, settings),) = asked["providers"]
    assert (name, settings["device_id"], asked["entry"]) == (CUDA_PROVIDER, "1", "1")


@pytest.mark.skipif(has_cuda, reason="this onnxruntime has CUDA")
def test_a_run_on_a_missing_cuda_makes_no_part_and_says_so_in_its_report(
    tiny_bundle, dataset, tmp_path, score, contents
):
    report = score(tiny_bundle, dataset, tmp_path / "out", device="cuda")
    left = contents(tmp_path / "out")
    assert set(left) == {"_report.json"}
    assert (report.exit_code, report.status, report.device) == (13, "failed", "cuda:0")
    assert b'"exit_code": 13' in left["_report.json"]
