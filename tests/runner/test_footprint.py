"""What a run of a graph may take is known from the file, and onnxruntime takes no more."""

import multiprocessing
import resource
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from runner.bundle import audit_bundle, open_bundle
from runner.device import Device
from runner.errors import UsageError
from runner.follow import follow
from runner.footprint import Cost, Step, cost_of
from runner.forecaster import Decoding, open_forecaster
from runner.stop import Stop
from runner.tune import default_batch_size

CPU = Device("cpu")
BATCH, WIDTH = 8, 1 << 17
node = helper.make_node


def step(reads, makes, *, scratch=0, constant=False):
    return Step(set(reads), makes, scratch, sum(makes.values()), constant)


def test_a_tensor_lives_from_its_maker_to_its_last_reader():
    chain = [step([], {"a": 10}), step(["a"], {"b": 10}), step(["b"], {"c": 10})]
    assert cost_of(chain, ["c"]) == Cost(20, 30)
    assert cost_of([*chain, step(["a", "c"], {"d": 1})], ["d"]) == Cost(30, 31)


def test_an_output_lives_to_the_end_and_what_nobody_reads_dies_at_once():
    steps = [step([], {"a": 10}), step(["a"], {"b": 10, "unread": 5}), step(["b"], {"c": 1})]
    assert cost_of(steps, ["c"]).elements == 25
    assert cost_of(steps, ["a", "c"]).elements == 25
    assert cost_of([*steps, step(["c"], {"d": 100})], ["a", "d"]).elements == 10 + 1 + 100


def test_what_a_kernel_needs_beside_counts_while_it_runs():
    assert cost_of([step([], {"a": 10}, scratch=100), step(["a"], {"b": 1})], ["b"]).elements == 110


def test_constants_that_are_computed_live_for_ever():
    constants = [step([], {f"k{at}": 10}, constant=True) for at in range(5)]
    assert cost_of([*constants, step(["k0"], {"a": 1}), step(["a"], {"b": 1})], ["b"]).elements == 52


def test_the_order_is_onnxruntimes_and_not_the_files():
    """Written layer by layer, all of ten tensors would be alive; run branch by branch, one is."""
    made = [step([], {f"wide{at}": 100}) for at in range(10)]
    narrowed = [step([f"wide{at}"], {f"narrow{at}": 1}) for at in range(10)]
    joined = step([f"narrow{at}" for at in range(10)], {"joined": 1})
    assert cost_of([*made, *narrowed, joined], ["joined"]).elements < 120


def test_of_two_branches_the_one_written_last_runs_first():
    """So what it leaves behind is there while the other one is at its largest."""
    first = [step([], {"a": 100}), step(["a"], {"left": 50})]
    last = [step([], {"b": 40}), step(["b"], {"little": 1})]
    little_first = [*first, *last, step(["left", "little"], {"c": 1})]
    left_first = [*last, *first, step(["left", "little"], {"c": 1})]
    assert cost_of(little_first, ["c"]).elements == 1 + 100 + 50
    assert cost_of(left_first, ["c"]).elements == 100 + 50


def graph_of(nodes, *constants):
    """Return a graph of x [batch, WIDTH] to y [batch, 1], the greatest element of what the nodes make: `wide`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])]
    last = node("ReduceMax", ["wide", "axes"], ["y"])
    axes = numpy_helper.from_array(np.array([1]), "axes")
    return helper.make_graph([*nodes, last], "g", inputs, outputs, [axes, *constants])


def held_back():
    """Keep twelve tensors, and read them in the order opposite to the one they were made in."""
    names = ["x", *(f"up{at}" for at in range(12))]
    nodes = [node("Tanh", [a], [b]) for a, b in pairwise(names)]
    back = [names[-1], *(f"down{at}" for at in range(11)), "wide"]
    return graph_of(
        nodes + [node("Mul", [a, kept], [b]) for a, kept, b in zip(back, reversed(names), back[1:], strict=False)]
    )


def fan():
    """Make sixteen tensors that one node reads."""
    factors = [numpy_helper.from_array(np.float32(at), f"k{at}") for at in range(16)]
    nodes = [node("Mul", ["x", f"k{at}"], [f"part{at}"]) for at in range(16)]
    return graph_of([*nodes, node("Max", [f"part{at}" for at in range(16)], ["wide"])], *factors)


def recurrent():
    """Run an LSTM whose gates, which nobody sees, are sixteen times as large as what goes in."""
    steps, units = WIDTH // 16, 64
    weights = {"W": np.zeros((1, 4 * units, 16), np.float32), "R": np.zeros((1, 4 * units, units), np.float32)}
    lists = {"shape": np.array([-1, steps, 16]), "first": np.array([0])}
    nodes = [
        node("Reshape", ["x", "shape"], ["cut"]),
        node("Transpose", ["cut"], ["by_time"], perm=[1, 0, 2]),
        node("LSTM", ["by_time", "W", "R"], ["", "h"], hidden_size=units),
        node("Squeeze", ["h", "first"], ["wide"]),
    ]
    return graph_of(nodes, *(numpy_helper.from_array(value, name) for name, value in {**weights, **lists}.items()))


def run(told, model):
    """Run a graph once, and tell by how many elements a window the process's peak of memory grew."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    small = helper.make_graph([node("Tanh", ["x"], ["y"])], "small", value[:1], value[1:])
    session = onnxruntime.InferenceSession(graph_bytes(small))
    session.run(None, {"x": np.ones(1, np.float32)})
    x = np.ones((BATCH, WIDTH), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", BATCH)
    onnxruntime.InferenceSession(model, options).run(None, {"x": x})
    told.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 4 / BATCH)


def graph_bytes(graph):
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("graph", [held_back, fan, recurrent])
def test_onnxruntime_takes_what_was_worked_out(graph):
    made = graph()
    bound = follow(made, {"x": ("batch", WIDTH)}, {"y": ("batch", 1)}).elements
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(theirs, graph_bytes(made)))
    process.start()
    taken = ours.recv() if ours.poll(60) else None
    process.kill()
    process.join()
    print(f"{taken / WIDTH:.1f} times the input where {bound / WIDTH:.1f} were worked out")
    assert bound > 10 * WIDTH
    assert 0.5 * bound < taken < 1.3 * bound


@pytest.fixture(scope="module")
def audited(full_bundle):
    return audit_bundle(open_bundle(full_bundle))


def test_the_largest_batch_follows_from_the_most_demanding_graph(audited, monkeypatch):
    most = max(audited.facts[name].cost.elements for name in ("encoder.onnx", "decoder_step.onnx", "fused.onnx"))
    monkeypatch.setattr("runner.bundle.LARGEST_CALL", {"cpu": 100 * most, "cuda": 700 * most})
    assert audited.largest_batch("fp32", CPU) == 100
    assert audited.largest_batch("fp32", Device("cuda")) == 700


def test_a_larger_batch_is_a_usage_error_that_names_the_largest(audited, monkeypatch):
    monkeypatch.setattr("runner.bundle.AuditedBundle.largest_batch", lambda *_: 99)
    with (
        pytest.raises(UsageError, match=r"got: 100 windows\n  expected: at most 99\n  remedy: --batch-size 99"),
        open_forecaster(audited, Decoding(CPU, "fp32", 100, 1), Stop()),
    ):
        pass


def test_a_run_that_was_told_no_batch_size_takes_a_smaller_one_where_memory_counts(audited, monkeypatch):
    assert default_batch_size(audited, "fp32", CPU) == 128
    monkeypatch.setattr("runner.bundle.AuditedBundle.largest_batch", lambda *_: 99)
    assert default_batch_size(audited, "fp32", CPU) == 99
