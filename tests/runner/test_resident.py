"""The loop that keeps its tensors on the device gives what the plain loop gives, to the last bit.

The tests run it on the CPU, whose tensors onnxruntime binds by address as it does a CUDA device's.
"""

import ctypes
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from runner.batch import WindowBatch
from runner.bundle import open_bundle
from runner.decode import decode
from runner.device import Device
from runner.errors import DeviceError, FreerunError, InterruptedRunError
from runner.features import Features
from runner.forecaster import open_loop
from runner.manifest import Memory, State
from runner.resident import Gate, ResidentLoop
from runner.session import CPU_PROVIDER, CUDA_PROVIDER, check_placement, open_session
from runner.stop import Stop

CPU, CUDA = Device("cpu"), Device("cuda")
SIZES = (1, 2, 7, 64)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return open_bundle(tiny_bundle)


@pytest.fixture
def windows(tiny):
    """Return what draws a batch, other values for each seed."""
    context, past, horizon, future, _ = tiny.sizes

    def draw(rows, seed=0, **changes):
        rng = np.random.default_rng(seed)
        observed = (rng.random((rows, context)) < 0.8).astype(np.float32)
        batch = WindowBatch(
            past=rng.normal(size=(rows, context, past)).astype(np.float32) * observed[:, :, None],
            past_observed=observed,
            future_known=rng.normal(size=(rows, horizon, future)).astype(np.float32),
            target=rng.normal(size=(rows, horizon)),
            observed=rng.random((rows, horizon)) < 0.7,
            decoder_input=None,
            has_target=np.ones(rows, np.bool_),
            reasons=np.zeros(rows, np.int64),
        )
        return replace(batch, **changes)

    return draw


def sessions(graphs, size, stop=None):
    return [
        open_session(graphs[name], name, CPU, threads=1, stop=stop or Stop(), batch_size=size)
        for name in ("encoder", "decoder_step", "decoder_step")
    ]


def both_loops(manifest, graphs, size):
    """Return the loop under test, captured steps included, and the plain one, over sessions of the same graphs."""
    encoder, step, capturing = sessions(graphs, size)
    resident = ResidentLoop(manifest, encoder, step, capturing, size)
    return resident, lambda batch, teacher: decode(encoder, step, manifest, batch, teacher=teacher)


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_batch_comes_out_as_from_the_plain_loop(bundle, windows, size, teacher):
    resident, plain = both_loops(bundle.manifest, bundle.graphs("fp32"), size)
    for seed in range(3):
        batch = windows(size, seed)
        np.testing.assert_array_equal(resident(batch, teacher), plain(batch, teacher))


def test_nothing_of_another_batch_or_mode_is_left(bundle, windows):
    resident, plain = both_loops(bundle.manifest, bundle.graphs("fp32"), 7)
    for seed, teacher in [(0, False), (1, True), (0, True), (2, False), (2, True), (0, False)]:
        batch = windows(7, seed)
        np.testing.assert_array_equal(resident(batch, teacher), plain(batch, teacher))


def test_what_was_returned_does_not_change_with_the_next_batch(bundle, windows):
    resident, plain = both_loops(bundle.manifest, bundle.graphs("fp32"), 1)
    resident(windows(1, 9), teacher=False)
    first = resident(windows(1, 0), teacher=False)
    resident(windows(1, 1), teacher=False)
    np.testing.assert_array_equal(first, plain(windows(1, 0), teacher=False))


def test_the_datas_own_decoder_input_is_fed(bundle, windows):
    resident, plain = both_loops(bundle.manifest, bundle.graphs("fp32"), 2)
    batch = windows(2, decoder_input=np.random.default_rng(5).normal(size=(2, 4)).astype(np.float32))
    np.testing.assert_array_equal(resident(batch, teacher=True), plain(batch, teacher=True))


def test_threads_do_not_disturb_each_other(bundle, windows):
    resident, plain = both_loops(bundle.manifest, bundle.graphs("fp32"), 16)
    work = [(windows(16, seed), seed % 3 == 0) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda item: resident(*item), work))
    for item, predictions in zip(work, found, strict=True):
        np.testing.assert_array_equal(predictions, plain(*item))


def graph(nodes, inputs, outputs):
    def declare(entries):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in entries.items()]

    axes = [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (1, 2)]
    model = helper.make_model(
        helper.make_graph(nodes, "small", declare(inputs), declare(outputs), axes),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def attentive(bundle):
    """Return a model without covariates or flags, where one output of the encoder is memory and both states.

    A loop that wrote a state where it had read it would change the memory, or the other state, with it.
    """
    node = helper.make_node
    encoder = graph(
        [node("Flatten", ["past"], ["keys"]), node("ReduceMean", ["keys", "axis1"], ["previous_0"])],
        {"past": (6, 2)},
        {"keys": (12,), "previous_0": (1,)},
    )
    step = graph(
        [
            node("Squeeze", ["previous", "axis2"], ["last"]),
            node("Add", ["a", "last"], ["moved"]),
            node("Tanh", ["moved"], ["a_next"]),
            node("Sub", ["b", "a"], ["apart"]),
            node("Sigmoid", ["apart"], ["b_next"]),
            node("Mul", ["b_next", "keys"], ["weighed"]),
            node("Add", ["weighed", "a_next"], ["mixed"]),
            node("ReduceMean", ["mixed", "axis1"], ["flat"]),
            node("Unsqueeze", ["flat", "axis1"], ["prediction"]),
        ],
        {"previous": (1, 1), "a": (12,), "b": (12,), "keys": (12,)},
        {"prediction": (1, 1), "a_next": (12,), "b_next": (12,)},
    )
    changes = {
        "features": Features(past=("y", "x"), future_known=()),
        "past_observed": False,
        "encoder": bundle.manifest.encoder.model_copy(update={"tensors": {"past": "past", "previous_0": "previous_0"}}),
        "states": tuple(
            State(encoder_output="keys", step_input=name, step_output=f"{name}_next", width=12) for name in "ab"
        ),
        "memory": (Memory(encoder_output="keys", step_input="keys", shape=(12,)),),
    }
    return bundle.manifest.model_copy(update=changes), {"encoder": encoder, "decoder_step": step}


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 7])
def test_memory_and_states_from_one_output_stay_apart(attentive, windows, size, horizon):
    manifest, graphs = attentive
    resident, plain = both_loops(manifest.model_copy(update={"horizon": horizon}), graphs, size)
    for seed, teacher in [(0, False), (1, True), (2, False)]:
        drawn = windows(size, seed, past_observed=None, future_known=None)
        target = np.random.default_rng(seed).normal(size=(size, horizon))
        batch = replace(drawn, target=target, observed=target > 0)
        np.testing.assert_array_equal(resident(batch, teacher), plain(batch, teacher))


@dataclass
class Capturing:
    """Stands for the session that captures: how its calls behave is a test's to say."""

    step: object
    behave: object
    ids: list = field(default_factory=list)

    def bind(self, inputs, outputs, graph_id):
        self.ids.append(graph_id)
        return partial(self.behave, self.step.bind(inputs, outputs), outputs, {})


def honest(call, _outputs, kept):
    kept["calls"] = kept.get("calls", 0) + 1
    call()


def failing(_call, _outputs, _kept):
    raise FreerunError("capture refused")


def idle(_call, _outputs, _kept):
    pass


def forgetful(call, outputs, kept):
    """Write what came out when it was captured, whatever the inputs are now."""
    if not kept:
        call()
        kept.update({place: ctypes.string_at(place.address, 4 * prod(place.shape)) for place in outputs.values()})
    for place, content in kept.items():
        ctypes.memmove(place.address, content, len(content))


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("behave", [honest, failing, idle, forgetful])
def test_captured_steps_are_kept_only_if_they_change_no_number(bundle, windows, behave, teacher):
    encoder, step, _ = sessions(bundle.graphs("fp32"), 7)
    resident = ResidentLoop(bundle.manifest, encoder, step, Capturing(step, behave), 7)
    for seed in range(3):
        batch = windows(7, seed)
        expected = decode(encoder, step, bundle.manifest, batch, teacher=teacher)
        np.testing.assert_array_equal(resident(batch, teacher), expected)
    kept = isinstance(resident.lanes.lane.steps[teacher][0], partial)
    assert kept == (behave is honest)


def test_steps_that_are_replayed_are_not_run_beside_it(bundle, windows):
    encoder, step, _ = sessions(bundle.graphs("fp32"), 2)
    resident = ResidentLoop(bundle.manifest, encoder, step, Capturing(step, honest), 2)
    for seed in range(3):
        resident(windows(2, seed), teacher=False)
    calls = [call.args[-1]["calls"] for call in resident.lanes.lane.steps[False]]
    assert calls == [4] * bundle.manifest.horizon  # captured, tried, and two batches


def test_every_captured_call_has_an_id_of_its_own(bundle, windows):
    encoder, step, _ = sessions(bundle.graphs("fp32"), 2)
    capturing = Capturing(step, honest)
    resident = ResidentLoop(bundle.manifest, encoder, step, capturing, 2)
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            for teacher in (False, True, False):
                pool.submit(resident, windows(2), teacher).result()
    assert capturing.ids == list(range(1, 4 * bundle.manifest.horizon + 1))


def test_nobody_runs_beside_what_has_to_run_alone():
    gate, inside, seen = Gate(), [], []

    def work(alone):
        for _ in range(50):
            with gate.alone() if alone else gate.shared():
                inside.append(alone)
                time.sleep(0.0001)
                seen.append(tuple(inside))
                inside.remove(alone)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [True, False, False, True]))
    assert len(seen) == 200
    assert {state for state in seen if True in state} == {(True,)}


def test_while_a_thread_captures_no_other_one_touches_the_device(bundle, windows):
    encoder, step, _ = sessions(bundle.graphs("fp32"), 2)
    beside = {"captured": [], "replayed": []}

    def watched(call, _outputs, kept):
        call()
        time.sleep(0.001)
        kept["calls"] = kept.get("calls", 0) + 1
        beside["captured" if kept["calls"] <= 2 else "replayed"].append(resident.gate.running)

    resident = ResidentLoop(bundle.manifest, encoder, step, Capturing(step, watched), 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: resident(windows(2, seed), teacher=seed % 2 == 0), range(40)))
    assert set(beside["captured"]) == {0}
    assert max(beside["replayed"]) > 1


def test_a_stop_ends_the_loop_as_an_interruption(bundle, windows):
    stop = Stop()
    encoder, step, capturing = sessions(bundle.graphs("fp32"), 7, stop)
    resident = ResidentLoop(bundle.manifest, encoder, step, capturing, 7)
    resident(windows(7), teacher=False)
    stop.request(signal.SIGTERM)
    for teacher in (False, True):
        with pytest.raises(InterruptedRunError, match="SIGTERM"):
            resident(windows(7), teacher)


def test_a_stop_between_two_steps_ends_the_replay_too(bundle, windows):
    stop = Stop()
    encoder, step, _ = sessions(bundle.graphs("fp32"), 7, stop)
    calls = []

    def interrupted(_call, _outputs, _kept):
        calls.append(1)
        stop.request(signal.SIGINT)

    resident = ResidentLoop(bundle.manifest, encoder, step, Capturing(step, interrupted), 7)
    with pytest.raises(InterruptedRunError, match="SIGINT"):
        resident(windows(7), teacher=False)
    assert len(calls) == 1


@pytest.mark.parametrize("role", ["past_observed", "future_known"])
def test_an_input_that_a_batch_lacks_is_not_taken_from_the_batch_before(bundle, windows, role):
    resident, _ = both_loops(bundle.manifest, bundle.graphs("fp32"), 2)
    resident(windows(2), teacher=False)
    with pytest.raises(FreerunError, match=f"the graphs take {role}"):
        resident(windows(2, **{role: None}), teacher=False)


def test_what_onnxruntime_raises_is_told_in_our_words(bundle, windows):
    resident, _ = both_loops(bundle.manifest, bundle.graphs("fp32"), 2)
    with pytest.raises(FreerunError, match="onnxruntime failed while decoding on cpu"):
        resident(windows(2, past=np.zeros((2, 5, 2), np.float32)), teacher=False)
    with pytest.raises(FreerunError, match="float32 lies on the device, not float64"):
        resident(windows(2, past=np.zeros((2, 6, 2))), teacher=False)
    wrong = bundle.manifest.model_copy(update={"memory": (Memory(encoder_output="x", step_input="x", shape=(1,)),)})
    resident, _ = both_loops(wrong, bundle.graphs("fp32"), 2)
    with pytest.raises(FreerunError, match="onnxruntime failed while running encoder"):
        resident(windows(2), teacher=False)


def test_a_batch_of_another_size_is_refused(bundle, windows):
    resident, _ = both_loops(bundle.manifest, bundle.graphs("fp32"), 7)
    with pytest.raises(ValueError, match="bound to 7 windows, not 6"):
        resident(windows(6), teacher=False)


@pytest.fixture
def cuda(monkeypatch):
    """Pretend to have a CUDA device; return the settings of the sessions that were asked for, and what shall happen."""
    script = SimpleNamespace(asked=[], refuses_capture=False, placed=CUDA_PROVIDER)

    class FakeSession:
        def __init__(self, _graph, options, providers):
            ((_, settings),) = providers
            script.asked.append((settings, options))
            if script.refuses_capture and "enable_cuda_graph" in settings:
                raise RuntimeError("this session cannot use the graph capture feature")

        def get_providers(self):
            return [CUDA_PROVIDER]

        def get_outputs(self):
            return []

        def get_provider_graph_assignment_info(self):
            node = SimpleNamespace(name="lstm", op_type="LSTM")
            return [SimpleNamespace(ep_name=script.placed, get_nodes=lambda: [node])]

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    return script


def test_on_cuda_the_step_alone_is_captured_and_no_node_may_leave_the_device(bundle, cuda):
    loop = open_loop(bundle.manifest, bundle.graphs("fp32"), CUDA, Stop(), 64)
    assert isinstance(loop, ResidentLoop)
    assert (loop.encoder.label, loop.step.label, loop.capturing.label) == ("encoder", "decoder_step", "decoder_step")
    assert ["enable_cuda_graph" in settings for settings, _ in cuda.asked] == [False, False, True]
    for _, options in cuda.asked:
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_where_capture_is_refused_the_loop_does_without_and_stays_on_cuda(bundle, cuda):
    cuda.refuses_capture = True
    loop = open_loop(bundle.manifest, bundle.graphs("fp32"), CUDA, Stop(), 64)
    assert isinstance(loop, ResidentLoop)
    assert loop.capturing is None
    assert loop.step.device == CUDA


def test_a_node_on_the_cpu_refuses_the_device(bundle, cuda):
    cuda.placed = CPU_PROVIDER
    with pytest.raises(DeviceError, match=f"LSTM 'lstm' on {CPU_PROVIDER}"):
        open_loop(bundle.manifest, bundle.graphs("fp32"), CUDA, Stop(), 64)


def placed(graph):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(graph, options, providers=[CPU_PROVIDER])
    return session.get_provider_graph_assignment_info()


def test_what_onnxruntime_itself_records_of_a_cpu_session_is_understood(bundle):
    found = placed(bundle.graphs("fp32")["decoder_step"])
    check_placement(found, "decoder_step", CPU)
    with pytest.raises(DeviceError, match="decoder_step does not run on cuda:0 alone") as caught:
        check_placement(found, "decoder_step", CUDA)
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("  - LSTM ")] == [f"  - LSTM '' on {CPU_PROVIDER}"]
    assert sum(line.startswith("  - ") for line in lines) == len(found)


def test_without_a_record_the_placement_is_not_proven():
    with pytest.raises(DeviceError, match="no record of any node"):
        check_placement([], "decoder_step", CUDA)
