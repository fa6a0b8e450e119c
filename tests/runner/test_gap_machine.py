"""The loop taken apart does what the production loop does, and each hook changes what it says."""

from dataclasses import replace

import numpy as np
import pytest

from runner.batch import WindowBatch
from runner.decode import decode, teacher_inputs
from runner.gap.machine import Encoded, Hooks, Machine, layers_of, machine_of, unroll
from runner.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(tiny_bundle):
    return Manifest.model_validate_json((tiny_bundle / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def graphs(tiny):
    pair = tiny.make_pair()
    return tiny.run_graph(pair.encoder), tiny.run_graph(pair.decoder_step)


@pytest.fixture(scope="module")
def machine(graphs, manifest):
    return machine_of(*graphs, manifest)


@pytest.fixture(scope="module")
def windows(tiny):
    c, f, h, k, _ = tiny.sizes
    rng = np.random.default_rng(0)
    there, observed = rng.random((9, c)) < 0.8, rng.random((9, h)) < 0.6
    return WindowBatch(
        past=np.where(there[:, :, None], rng.normal(size=(9, c, f)), 0).astype(np.float32),
        past_observed=there.astype(np.float32),
        future_known=rng.normal(size=(9, h, k)).astype(np.float32),
        target=np.where(observed, rng.normal(size=(9, h)), 0.0),
        observed=observed,
        decoder_input=None,
        has_target=np.ones(9, bool),
        reasons=np.zeros(9, np.uint8),
    )


def test_free_running_without_hooks_is_the_production_loop_bit_for_bit(graphs, manifest, machine, windows):
    expected = decode(*graphs, manifest, windows, teacher=False)
    assert np.array_equal(unroll(machine, machine.encode(windows), windows.future_known), expected)


@pytest.mark.parametrize("brought", [False, True], ids=["derived", "brought by the data"])
def test_teacher_forced_without_hooks_is_the_production_loop_bit_for_bit(graphs, manifest, machine, windows, brought):
    given = np.random.default_rng(1).normal(size=windows.target.shape).astype(np.float32) if brought else None
    batch = replace(windows, decoder_input=given)
    encoded = machine.encode(batch)
    found = unroll(machine, encoded, batch.future_known, teacher_inputs(encoded.previous, batch))
    assert np.array_equal(found, decode(*graphs, manifest, batch, teacher=True))
    assert not np.array_equal(found, unroll(machine, encoded, batch.future_known))


def test_repeated_windows_get_the_same_forecasts_each_time(machine, windows):
    once = unroll(machine, machine.encode(windows), windows.future_known)
    thrice = unroll(machine, machine.encode(windows).repeated(3), np.repeat(windows.future_known, 3, axis=0))
    assert np.array_equal(thrice, np.repeat(once, 3, axis=0))


def test_the_layers_of_a_bundle_are_known_by_their_states(machine, manifest):
    assert machine.layers == (("hidden", "cell"),)
    assert machine.horizon == manifest.horizon
    assert layers_of(["hidden", "cell", "hidden_1", "cell_1"]) == (("hidden", "cell"), ("hidden_1", "cell_1"))
    assert layers_of(["hidden", "hidden_1"]) == (("hidden",), ("hidden_1",))
    assert layers_of([]) == ()


def counting():
    """Return a machine whose state counts steps, and whose forecast is 10 * input + count + memory."""

    def encode(batch):
        zeros = np.zeros((len(batch), 1), np.float32)
        return Encoded(zeros + 1, {"count": zeros}, {"memory": zeros + 0.5})

    def step(previous, future, state, memory):
        assert future is None
        return 10 * previous + state["count"] + memory["memory"], {"count": state["count"] + 1}

    return Machine(encode, step, (("count",),), 3)


def run(hooks=None, inputs=None):
    machine = counting()
    return unroll(machine, machine.encode([0]), None, inputs, hooks)[0].tolist()


def test_the_loop_feeds_back_and_hands_on():
    assert run() == [10.5, 106.5, 1067.5]
    assert run(inputs=np.array([[1, 2, 3]], np.float32)) == [10.5, 21.5, 32.5]


def test_what_begins_the_loop_can_be_changed():
    def begin(encoded):
        return replace(encoded, previous=encoded.previous * 2, memory={"memory": encoded.memory["memory"] * 0})

    assert run(Hooks(begin=begin)) == [20, 201, 2012]


def test_what_a_step_hands_on_can_be_changed():
    assert run(Hooks(carry=lambda _, first: first.state)) == [10.5, 105.5, 1055.5]


def test_what_is_fed_back_can_be_changed_and_is_no_forecast():
    seen = []

    def feed(prediction, h):
        seen.append((prediction.item(), h))
        return prediction * 0 + h

    assert run(Hooks(feed=feed)) == [10.5, 1.5, 12.5]
    assert seen == [(10.5, 0), (1.5, 1), (12.5, 2)]
    assert run(Hooks(feed=feed), np.array([[1, 2, 3]], np.float32)) == [10.5, 21.5, 32.5]
