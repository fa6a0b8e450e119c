"""The decoding loop, driven by fake graphs: what is handed on, under which name, and what is fed back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.batch import WindowBatch
from runner.decode import decode, decode_fused, encoder_feeds, teacher_inputs
from runner.manifest import Manifest

START = -1.0
STATES = [
    {"encoder_output": "h_made", "step_input": "h_in", "step_output": "h_out", "width": 2},
    {"encoder_output": "c_made", "step_input": "c_in", "step_output": "c_out", "width": 2},
]
MEMORY = [{"encoder_output": "keys_made", "step_input": "keys_in", "shape": [3]}]


@pytest.fixture
def manifest(tiny, tiny_bundle):
    raw = tiny.read_manifest(tiny_bundle)
    raw["states"], raw["memory"] = STATES, MEMORY
    raw["encoder"]["tensors"] = {"past": "P", "past_observed": "PO", "previous_0": "P0"}
    raw["decoder_step"]["tensors"] = {"previous": "Y", "future_known": "K", "prediction": "YHAT"}
    return Manifest.model_validate_json(json.dumps(raw))


def windows(tiny, rows=5, seed=0):
    c, f, h, k, _ = tiny.sizes
    rng = np.random.default_rng(seed)
    observed = rng.random((rows, h)) < 0.6
    return WindowBatch(
        past=rng.normal(size=(rows, c, f)).astype(np.float32),
        past_observed=np.ones((rows, c), np.float32),
        future_known=rng.normal(size=(rows, h, k)).astype(np.float32),
        target=np.where(observed, rng.normal(size=(rows, h)), 0.0),
        observed=observed,
        decoder_input=None,
        has_target=np.ones(rows, bool),
        reasons=np.zeros(rows, np.uint8),
    )


class Graphs:
    """An encoder and a step of plain numpy, which write down everything they are fed."""

    def __init__(self):
        self.encoded, self.steps = [], []

    def encoder(self, feeds):
        self.encoded.append(dict(feeds))
        total = feeds["P"].sum(axis=(1, 2))[:, None]
        keys = np.repeat(total * np.float32(0.01), 3, axis=1)
        start = np.full((len(total), 1), START, np.float32)
        return {"c_made": total * [0.1, 0.2], "keys_made": keys, "P0": start, "h_made": total * [0.3, 0.4]}

    def step(self, feeds):
        self.steps.append(dict(feeds))
        future = feeds["K"][:, 0] if "K" in feeds else np.zeros((len(feeds["Y"]), 1), np.float32)
        hidden = 0.5 * feeds["h_in"] + 0.25 * feeds["c_in"] + feeds["Y"][:, 0]
        cell = 0.125 * feeds["c_in"] + future
        found = hidden.sum(axis=1) + feeds["keys_in"].sum(axis=1)
        return {"c_out": cell, "YHAT": found[:, None, None].astype(np.float32), "h_out": hidden}


def by_hand(batch, inputs=None):
    """The same forecast without the loop under test: row by row, in plain Python."""
    forecasts = []
    for index in range(len(batch)):
        total = batch.past[index].sum()
        hidden, cell, keys = total * np.array([0.3, 0.4]), total * np.array([0.1, 0.2]), 3 * np.float32(0.01) * total
        previous, row = START, []
        for h in range(batch.future_known.shape[1]):
            previous = previous if inputs is None else inputs[index][h]
            hidden = 0.5 * hidden + 0.25 * cell + previous
            cell = 0.125 * cell + batch.future_known[index, h]
            row.append(hidden.sum() + keys)
            previous = row[-1]
        forecasts.append(row)
    return np.array(forecasts)


def test_each_prediction_is_the_next_steps_input_and_the_states_go_round_by_name(tiny, manifest):
    batch, graphs = windows(tiny), Graphs()
    found = decode(graphs.encoder, graphs.step, manifest, batch, teacher=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(batch), rtol=1e-5)
    assert len(graphs.encoded) == 1
    assert len(graphs.steps) == manifest.horizon


def test_the_step_is_fed_exactly_its_tensors_in_the_shapes_of_the_contract(tiny, manifest):
    batch, graphs = windows(tiny, rows=3), Graphs()
    found = decode(graphs.encoder, graphs.step, manifest, batch, teacher=False)
    for h, feeds in enumerate(graphs.steps):
        assert {name: array.shape for name, array in feeds.items()} == {
            "Y": (3, 1, 1),
            "K": (3, 1, 1),
            "h_in": (3, 2),
            "c_in": (3, 2),
            "keys_in": (3, 3),
        }
        assert feeds["Y"].dtype == feeds["K"].dtype == np.float32
        np.testing.assert_array_equal(feeds["K"][:, 0], batch.future_known[:, h])
        np.testing.assert_array_equal(feeds["Y"][:, 0, 0], found[:, h - 1] if h else np.full(3, START))


def test_memory_is_made_once_and_read_at_every_step(tiny, manifest):
    batch, graphs = windows(tiny), Graphs()
    decode(graphs.encoder, graphs.step, manifest, batch, teacher=False)
    made = graphs.encoder({"P": batch.past})["keys_made"]
    for feeds in graphs.steps:
        np.testing.assert_array_equal(feeds["keys_in"], made)


def test_inputs_that_the_bundle_does_not_take_are_not_fed(tiny, manifest):
    batch, graphs = replace(windows(tiny), past_observed=None, future_known=None), Graphs()
    decode(graphs.encoder, graphs.step, manifest, batch, teacher=False)
    assert graphs.encoded[0].keys() == {"P"}
    assert graphs.steps[0].keys() == {"Y", "h_in", "c_in", "keys_in"}


def test_the_encoder_is_fed_the_context_and_its_flags(tiny, manifest):
    batch = windows(tiny)
    feeds = encoder_feeds(manifest, batch)
    assert feeds.keys() == {"P", "PO"}
    assert feeds["P"] is batch.past
    assert feeds["PO"] is batch.past_observed


@pytest.mark.parametrize("teacher", [False, True])
def test_a_windows_forecast_does_not_depend_on_its_company(tiny, manifest, teacher):
    batch, graphs = windows(tiny), Graphs()
    together = decode(graphs.encoder, graphs.step, manifest, batch, teacher=teacher)
    for index in range(len(batch)):
        alone = decode(graphs.encoder, graphs.step, manifest, batch.take(np.array([index])), teacher=teacher)
        np.testing.assert_array_equal(alone[0], together[index])


@pytest.mark.parametrize("teacher", [False, True])
def test_decoding_leaves_its_input_as_it_was(tiny, manifest, teacher):
    batch, before, graphs = windows(tiny), windows(tiny), Graphs()
    decode(graphs.encoder, graphs.step, manifest, batch, teacher=teacher)
    for name in ("past", "future_known", "target", "observed"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(before, name))


def test_a_teacher_forced_step_is_fed_the_truth_and_not_the_prediction(tiny, manifest):
    batch, graphs = windows(tiny), Graphs()
    batch = replace(batch, observed=np.ones_like(batch.observed))
    found = decode(graphs.encoder, graphs.step, manifest, batch, teacher=True)
    truth = np.concatenate([np.full((5, 1), START), batch.target[:, :-1]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([feeds["Y"][:, 0] for feeds in graphs.steps], axis=1), truth)
    np.testing.assert_allclose(found, by_hand(batch, truth), rtol=1e-5)


@pytest.mark.parametrize("brought", [False, True])
def test_free_running_and_teacher_forced_agree_bit_for_bit_at_the_first_step_only(tiny, manifest, brought):
    batch, graphs = windows(tiny), Graphs()
    batch = replace(batch, decoder_input=np.full((5, 4), 77, np.float32) if brought else None)
    free, forced = (decode(graphs.encoder, graphs.step, manifest, batch, teacher=flag) for flag in (False, True))
    np.testing.assert_array_equal(free[:, 0], forced[:, 0])
    assert (free[:, 1:] != forced[:, 1:]).all()


def test_the_datas_own_decoder_input_counts_from_the_second_step_on(tiny):
    own = np.arange(20, dtype=np.float32).reshape(5, 4)
    fed = teacher_inputs(np.full((5, 1), START, np.float32), replace(windows(tiny), decoder_input=own))
    np.testing.assert_array_equal(fed[:, 0], np.full(5, START))
    np.testing.assert_array_equal(fed[:, 1:], own[:, 1:])


def test_a_decoder_input_serves_windows_without_a_target(tiny, manifest):
    graphs, own = Graphs(), np.arange(20, dtype=np.float32).reshape(5, 4)
    batch = replace(windows(tiny), target=None, observed=None, decoder_input=own)
    decode(graphs.encoder, graphs.step, manifest, batch, teacher=True)
    assert [float(feeds["Y"][1, 0, 0]) for feeds in graphs.steps] == [START, 5, 6, 7]


def test_teacher_forcing_with_nothing_to_teach_is_refused(tiny):
    batch = replace(windows(tiny), target=None, observed=None)
    with pytest.raises(ValueError, match="needs a target or a decoder_input"):
        teacher_inputs(np.zeros((5, 1), np.float32), batch)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_teachers_input_is_the_last_target_that_counts_else_the_start_value(tiny, observed):
    rows = len(observed)
    target = np.arange(1.0, 4 * rows + 1).reshape(rows, 4)
    starts = -np.arange(1, rows + 1, dtype=np.float32)[:, None]
    batch = replace(windows(tiny, rows), target=target, observed=np.array(observed))
    fed = teacher_inputs(starts, batch)
    assert fed.dtype == np.float32
    for row in range(rows):
        carried = [starts[row, 0]]
        for h in range(3):
            carried.append(target[row, h] if observed[row][h] else carried[-1])
        assert fed[row].tolist() == carried


class FusedGraph:
    """A graph that holds the loop over the fake graphs, as the bundle format says that it must."""

    def __init__(self):
        self.fed = []

    def __call__(self, feeds):
        self.fed.append(dict(feeds))
        graphs, teacher = Graphs(), feeds["T"]
        encoded = graphs.encoder({"P": feeds["P"]})
        state = {"h_in": encoded["h_made"], "c_in": encoded["c_made"], "keys_in": encoded["keys_made"]}
        start, found = encoded["P0"], []
        for h in range(teacher.shape[1]):
            given = np.where(np.isinf(teacher[:, h : h + 1]), start, teacher[:, h : h + 1])
            previous = np.where(np.isnan(given), found[-1], given) if h else start
            known = {"K": feeds["K"][:, h : h + 1]} if "K" in feeds else {}
            returned = graphs.step({"Y": previous[:, :, None].astype(np.float32), **known, **state})
            state |= {"h_in": returned["h_out"], "c_in": returned["c_out"]}
            found.append(returned["YHAT"][:, :, 0])
        return {"YHAT": np.concatenate(found, axis=1)}


FUSED = {"past": "P", "past_observed": "PO", "future_known": "K", "teacher": "T", "prediction": "YHAT"}


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("brought", [False, True])
def test_the_fused_graph_is_told_to_do_what_the_loop_does(tiny, manifest, teacher, brought):
    own = np.arange(20, dtype=np.float32).reshape(5, 4)
    batch, graphs = replace(windows(tiny), decoder_input=own if brought else None), Graphs()
    found = decode_fused(FusedGraph(), FUSED, manifest.horizon, batch, teacher=teacher)
    expected = decode(graphs.encoder, graphs.step, manifest, batch, teacher=teacher)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["past_observed", "future_known"])
def test_the_fused_graph_is_fed_exactly_what_is_there(tiny, manifest, name):
    batch, fused = windows(tiny), FusedGraph()
    decode_fused(fused, FUSED, manifest.horizon, batch, teacher=False)
    decode_fused(fused, FUSED, manifest.horizon, replace(batch, **{name: None}), teacher=False)
    whole, bare = fused.fed
    assert whole.keys() == {"P", "PO", "K", "T"}
    assert bare.keys() == whole.keys() - {FUSED[name]}
    assert whole["P"] is batch.past
    assert {feeds["T"].dtype for feeds in fused.fed} == {np.dtype(np.float32)}


def test_free_running_the_fused_graph_gets_no_value_to_feed_and_teacher_forced_one_at_each_step(tiny, manifest):
    batch, fused = windows(tiny), FusedGraph()
    for teacher in (False, True):
        decode_fused(fused, FUSED, manifest.horizon, batch, teacher=teacher)
    free, forced = (feeds["T"] for feeds in fused.fed)
    assert np.isnan(free).all()
    assert not np.isnan(forced).any()
    assert np.isinf(forced[:, 0]).all()
    counts = np.maximum.accumulate(batch.observed[:, :-1], axis=1)
    np.testing.assert_array_equal(np.isfinite(forced[:, 1:]), counts)


M = 2
FUTURE = 3
"""Steps of the fake model of two targets."""


def two_targets(manifest):
    target = manifest.target.model_copy(update={"name": "second"})
    return manifest.model_copy(update={"others": (target,), "horizon": FUTURE, "memory": (), "past_observed": False})


def two_target_encoder(feeds):
    total = feeds["P"].sum(axis=(1, 2))[:, None]
    return {"h_made": total * [1.0, 2.0], "c_made": total * [0.5, 0.25], "P0": np.hstack([total, -total]).astype("f4")}


def two_target_step(feeds):
    previous = feeds["Y"]
    assert previous.shape[1:] == (1, M)
    hidden = 0.5 * feeds["h_in"] + previous[:, 0] @ [[0.5, -1.0], [0.25, 0.75]]
    return {"h_out": hidden, "c_out": feeds["c_in"], "YHAT": (hidden + feeds["c_in"])[:, None].astype(np.float32)}


def two_target_windows(rows=5):
    rng = np.random.default_rng(1)
    return WindowBatch(
        past=rng.normal(size=(rows, 6, 2)).astype(np.float32),
        past_observed=None,
        future_known=None,
        target=rng.normal(size=(rows, FUTURE * M)),
        observed=rng.random((rows, FUTURE * M)) < 0.5,
        decoder_input=None,
        has_target=np.ones(rows, bool),
        reasons=np.zeros(rows, np.uint8),
    )


def two_targets_by_hand(batch, inputs=None):
    """The same forecast row by row, with the targets as an axis of their own."""
    found = []
    for index in range(len(batch)):
        total = float(batch.past[index].sum())
        hidden, cell, previous = total * np.array([1.0, 2.0]), total * np.array([0.5, 0.25]), [total, -total]
        for h in range(FUTURE):
            previous = previous if inputs is None else inputs[index].reshape(FUTURE, M)[h]
            hidden = 0.5 * hidden + np.asarray(previous) @ [[0.5, -1.0], [0.25, 0.75]]
            previous = hidden + cell
            found += list(previous)
    return np.array(found).reshape(len(batch), FUTURE * M)


@pytest.mark.parametrize("teacher", [False, True])
def test_two_targets_are_fed_back_together_step_by_step(manifest, teacher):
    batch = two_target_windows()
    found = decode(two_target_encoder, two_target_step, two_targets(manifest), batch, teacher=teacher)
    inputs = teacher_inputs(two_target_encoder({"P": batch.past})["P0"], batch) if teacher else None
    np.testing.assert_allclose(found, two_targets_by_hand(batch, inputs), rtol=1e-4, atol=1e-5)


def test_the_teachers_input_of_each_target_is_its_own_last_value_that_counts():
    batch, starts = two_target_windows(rows=9), np.arange(18, dtype=np.float32).reshape(9, M)
    target, observed = (cells.reshape(9, FUTURE, M) for cells in (batch.target, batch.observed))
    fed = teacher_inputs(starts, batch).reshape(9, FUTURE, M)
    for row in range(9):
        for index in range(M):
            carried = [starts[row, index]]
            for h in range(FUTURE - 1):
                carried.append(np.float32(target[row, h, index]) if observed[row, h, index] else carried[-1])
            assert fed[row, :, index].tolist() == carried
    own = np.arange(9 * FUTURE * M, dtype=np.float32).reshape(9, -1)
    np.testing.assert_array_equal(
        teacher_inputs(starts, replace(batch, decoder_input=own)), np.hstack([starts, own[:, M:]])
    )


@pytest.mark.parametrize("teacher", [False, True])
def test_the_fused_graph_is_told_of_every_target_at_every_step(teacher):
    fed = []

    def fused(feeds):
        fed.append(feeds["T"])
        return {"YHAT": feeds["T"]}

    batch = two_target_windows()
    decode_fused(fused, FUSED, FUTURE, batch, teacher=teacher, targets=M)
    assert fed[0].shape == (5, FUTURE * M)
    assert (np.isinf(fed[0][:, :M]) if teacher else np.isnan(fed[0])).all()
