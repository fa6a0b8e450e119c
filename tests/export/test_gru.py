"""A GRU is written as the ONNX operator, and a SimpleRNN too: the graphs do what Keras does, and hold no loop."""

import keras
import numpy as np
import onnx
import pytest
from contexts import without_targets
from keras import layers

from export.anatomy import dissect
from export.bundle_writer import draft_manifest, provisional
from export.certify import BATCH_SIZES
from export.config import TrainConfig
from export.forms import make_form
from export.graphs import convert, signatures
from export.keras_machine import machine_of_keras
from runner.audit import audit_graph, fused_signature
from runner.decode import decode, decode_fused
from runner.errors import CertificationError
from runner.gap.machine import unroll
from runner.schema import Sizes

CONTEXT, HORIZON, FEATURES, UNITS = 7, 5, 2, 4


def windows(count):
    rng = np.random.default_rng(1)
    return without_targets(rng.normal(size=(count, CONTEXT, FEATURES)).astype(np.float32))


def recurrent(kind, units=UNITS, **settings):
    return kind(units, return_sequences=True, return_state=True, **settings)


def plain(kind=layers.GRU, *, depth=1, bridged=False, **settings):
    """Build a model whose decoder is of so many layers, with states of their own; weights drawn, biases included."""
    keras.utils.set_random_seed(3)
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    x, states = past, []
    for _ in range(depth):
        layer = recurrent(kind, **settings)
        x, *state = (layers.Bidirectional(layer) if bridged else layer)(x)
        states.append([layers.Dense(UNITS, activation="tanh")(layers.Concatenate()(state))] if bridged else state)
    x = given
    for index in range(depth):
        x, *_ = recurrent(kind, **settings)(x, initial_state=states[index])
    return drawn(keras.Model([past, given], layers.Dense(1)(x)))


def drawn(model):
    rng = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def backwards():
    """Build an encoder that reads backwards alone, then one that reads that; both without states of their own."""
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    x = layers.GRU(3, return_sequences=True, go_backwards=True)(past)
    state = layers.GRU(UNITS, go_backwards=True, use_bias=False)(x)
    x = layers.GRU(UNITS, return_sequences=True)(given, initial_state=state)
    return drawn(keras.Model([past, given], layers.Dense(1)(x)))


def nested():
    """Build an encoder that is a model of its own, with an LSTM below a GRU; the decoder begins with zeros."""
    past = keras.Input((CONTEXT, FEATURES))
    encoder = keras.Model(past, layers.GRU(3)(layers.LSTM(3, return_sequences=True)(past)))
    outer, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    x = layers.Concatenate()([given, layers.RepeatVector(HORIZON)(encoder(outer))])
    return drawn(keras.Model([outer, given], layers.Dense(1)(layers.GRU(UNITS, return_sequences=True)(x))))


MODELS = {
    "reset after": (plain, "GRU", 1, 1),
    "reset before": (lambda: plain(reset_after=False), "GRU", 1, 1),
    "no bias": (lambda: plain(use_bias=False), "GRU", 1, 1),
    "stacked": (lambda: plain(depth=3), "GRU", 3, 3),
    "stacked, reset before": (lambda: plain(depth=2, reset_after=False), "GRU", 2, 2),
    "bidirectional, bridged": (lambda: plain(bridged=True), "GRU", 2, 1),
    "bidirectional, stacked": (lambda: plain(depth=2, bridged=True, reset_after=False), "GRU", 4, 2),
    "backwards": (backwards, "GRU", 2, 1),
    "dropout": (lambda: plain(dropout=0.3, recurrent_dropout=0.3), "GRU", 1, 1),
    "unrolled": (lambda: plain(unroll=True), "GRU", 1, 1),
    "models inside a model": (nested, "GRU", 1, 1),
    "SimpleRNN": (lambda: plain(layers.SimpleRNN, depth=2), "RNN", 2, 2),
    "SimpleRNN, bidirectional": (lambda: plain(layers.SimpleRNN, bridged=True), "RNN", 2, 1),
}


@pytest.fixture(scope="module", params=MODELS)
def converted(request):
    build, operator, *counts = MODELS[request.param]
    models = dissect(build(), "last", 0)
    return models, convert(models), operator, counts


def operators(content):
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def test_each_layer_is_one_operator_and_the_audit_takes_both_graphs(converted):
    models, pair, operator, counts = converted
    for content, signature, count in zip((pair.encoder, pair.decoder_step), signatures(models), counts, strict=True):
        facts = audit_graph(content, "graph", signature)
        assert facts.operators[operator] == count
        assert "Loop" not in facts.operators


@pytest.mark.parametrize("rows", BATCH_SIZES)
def test_both_graphs_give_what_keras_gives(tiny, converted, rows):
    models, pair, *_ = converted
    rng = np.random.default_rng(4)
    for model, roles, content in (
        (models.encoder, models.encoder_roles, pair.encoder),
        (models.step, models.step_roles, pair.decoder_step),
    ):
        feeds = {entry.name: rng.uniform(-1, 1, (rows, *entry.shape[1:])).astype("f") for entry in model.inputs}
        found = tiny.run_graph(content)(feeds)
        for name, expected in zip(roles, model.predict_on_batch(list(feeds.values())), strict=True):
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def forms(converted, statistics):
    """Return the model's manifest, and its graphs in both precisions."""
    models, pair, *_ = converted
    sizes = Sizes(CONTEXT, HORIZON, FEATURES, 0)
    draft = draft_manifest(TrainConfig(start="last"), sizes, statistics, 0, models, pair, scaling="none")
    manifest = provisional(draft)
    return manifest, {precision: make_form(pair, manifest, precision) for precision in ("fp32", "int8")}


@pytest.mark.parametrize("rows", BATCH_SIZES)
def test_the_whole_loop_forecasts_what_keras_forecasts_in_two_graphs_and_in_one(tiny, converted, forms, rows):
    models, (manifest, made), batch = converted[0], forms, windows(rows)
    machine = machine_of_keras(models)
    expected = unroll(machine, machine.encode(batch), None)
    form = made["fp32"]
    encoder, step, fused = (tiny.run_graph(graph) for graph in (form.encoder, form.decoder_step, form.fused))
    loop = decode(encoder, step, manifest, batch, teacher=False)
    np.testing.assert_allclose(loop, expected, rtol=0, atol=1e-6)
    whole = decode_fused(fused, manifest.fused_tensors(), HORIZON, batch, teacher=False)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_fused_graph_is_written_out_and_passes_the_audit(forms, precision):
    manifest, made = forms
    content = made[precision].fused
    audit_graph(content, "fused", fused_signature(manifest, manifest.fused_tensors()))
    assert not {"GRU", "RNN", "LSTM", "Loop"} & set(operators(content))


def test_int8_forecasts_nearly_the_same_and_no_row_depends_on_its_batch(tiny, forms, run_exactly):
    manifest, made = forms
    exact, fused = (tiny.run_graph(made[precision].fused) for precision in ("fp32", "int8"))
    names, batch = manifest.fused_tensors(), windows(64)
    expected, whole = (decode_fused(graph, names, HORIZON, batch, teacher=False) for graph in (exact, fused))
    found = decode_fused(run_exactly(made["int8"].fused), names, HORIZON, batch, teacher=False)
    assert 0 < np.abs(found - expected).max() < 0.05
    for size in BATCH_SIZES:
        for first in (0, 64 - size):
            part = decode_fused(fused, names, HORIZON, batch.take(slice(first, first + size)), teacher=False)
            assert part.tobytes() == whole[first : first + size].tobytes()


def test_the_layers_are_as_before_and_the_same_weights_give_the_same_graphs():
    models = dissect(plain(bridged=True), "last", 0)
    once, again = convert(models), convert(models)
    assert once == again
    assert not [layer for layer in models.encoder._flatten_layers() if "inner_loop" in vars(layer)]


def masked():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, state = layers.GRU(UNITS, return_state=True, name="reader")(layers.Masking()(past))
    x = layers.GRU(UNITS, return_sequences=True)(given, initial_state=state)
    return keras.Model([past, given], layers.Dense(1)(x))


REFUSED = {
    "activation": (lambda: plain(activation="relu"), "layer .*GRU.*ONNX operator GRU.*activation = relu.*tanh"),
    "gates": (lambda: plain(recurrent_activation="hard_sigmoid"), "recurrent_activation = hard_sigmoid.*sigmoid"),
    "SimpleRNN": (lambda: plain(layers.SimpleRNN, activation="relu"), "ONNX operator RNN.*activation = relu"),
    "a mask": (masked, "layer reader .*a mask.*past_observed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_operator_does_not_do_is_refused_by_name(name):
    build, said = REFUSED[name]
    models = dissect(build(), "last", 0)
    with pytest.raises(CertificationError, match=f"(?s){said}"):
        convert(models)
    models.encoder.predict_on_batch(windows(2).past)
