"""Our own models and a team's, taken apart: the parts must forecast what the whole does."""

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from contexts import without_targets
from keras import layers

from export.anatomy import dissect
from export.graphs import convert
from export.keras_machine import machine_of_keras
from export.model_file import LARGEST_CONFIG, open_model, refuse_untrusted
from export.source import trainable
from export.training import free_running
from runner.errors import CertificationError, InputError, UsageError
from runner.gap.machine import unroll
from runner.schema import Sizes

CONTEXT, HORIZON, FEATURES = 7, 5, 2


def windows(count, future=0, context=CONTEXT, horizon=HORIZON):
    rng = np.random.default_rng(1)
    past = rng.normal(size=(count, context, FEATURES)).astype(np.float32)
    known = rng.normal(size=(count, horizon, future)).astype(np.float32) if future else None
    return without_targets(past, future_known=known)


def saved(model, folder, *, trust=False):
    model.save(folder / "model.keras")
    return open_model(folder / "model.keras", trust=trust)


@pytest.mark.parametrize(
    "settings",
    [
        {"scaling": "none"},
        {"scaling": "standard", "units": [4, 3], "start": "last"},
        {"scaling": "window", "start": 0.5},
        {"scaling": "window", "base": "linear"},
    ],
)
def test_our_own_model_comes_apart_as_it_was_built(build_models, valid_windows, tmp_path, settings):
    config, built = build_models(**settings)
    batch = trainable(next(valid_windows.blocks()))
    models = dissect(saved(built.training, tmp_path), config.start, 0)
    carried = [state for state in models.states if not state.startswith("ahead")]  # a base, and what is made of it
    assert carried == [state for state in built.states if state != "base"]
    assert (len(carried) < len(models.states)) == (config.base != "none")
    assert len(models.memory) == len(built.memory)
    context = [batch.past, batch.past_observed]
    expected, found = built.encoder.predict_on_batch(context), models.encoder.predict_on_batch(context)
    for one, other in zip(expected[: 1 + len(carried)], found, strict=False):
        np.testing.assert_allclose(other, one, atol=1e-6)
    np.testing.assert_allclose(free_running(models, batch), free_running(built, batch), atol=1e-6)
    machine = machine_of_keras(models)
    forecast = unroll(machine, machine.encode(batch), batch.future_known)
    np.testing.assert_allclose(forecast, free_running(built, batch), atol=1e-6)


def test_the_parts_share_the_weights_of_the_whole(build_models, valid_windows):
    config, built = build_models(units=[4, 3])
    models = dissect(built.training, config.start, 0)
    batch = trainable(next(valid_windows.blocks()))
    before = free_running(models, batch)
    built.training.set_weights([0.5 * weight for weight in built.training.get_weights()])
    np.testing.assert_allclose(free_running(models, batch), free_running(built, batch), atol=1e-6)
    assert np.abs(free_running(models, batch) - before).max() > 1e-3


def seq2seq(
    kind=layers.LSTM,
    *,
    depth=1,
    width=1,
    horizon=HORIZON,
    bidirectional=False,
    attention=False,
    repeated=False,
    returned=False,
    head=None,
):
    """Build what a team may have: two inputs, layers named by Keras, nothing that knows of us."""
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((horizon, width))
    layer = kind(4, return_state=True, return_sequences=True)
    sequence, *states = (layers.Bidirectional(layer) if bidirectional else layer)(past)
    if bidirectional:
        half = len(states) // 2
        states = [layers.Dense(4)(layers.Concatenate()([states[i], states[i + half]])) for i in range(half)]
    x = given
    if repeated:
        x = layers.Concatenate()([x, layers.RepeatVector(horizon)(states[0])])
    for _ in range(depth):
        x = kind(4, return_sequences=True, return_state=returned)(x, initial_state=states)
        x = x[0] if returned else x
    if attention:
        x = layers.Concatenate()([x, layers.Attention()([x, sequence])])
    x = layers.Dropout(0.3)(layers.LayerNormalization()(x))
    x = layers.Dense(6, activation="relu")(x)
    return keras.Model([past, given], layers.Dense(1)(x) if head is None else head(x))


def nested():
    """Build encoder and decoder as models of their own, and a head as a Sequential one."""
    past = keras.Input((CONTEXT, FEATURES))
    encoder = keras.Model(past, layers.LSTM(4, return_state=True)(past)[1:])
    given, h, c = keras.Input((HORIZON, 1)), keras.Input((4,)), keras.Input((4,))
    x = layers.LSTM(4, return_sequences=True)(given, initial_state=[h, c])
    head = keras.Sequential([keras.Input((HORIZON, 4)), layers.Dense(3, activation="tanh"), layers.Dense(1)])
    decoder = keras.Model([given, h, c], head(x))
    outer, teacher = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    return keras.Model([outer, teacher], decoder([teacher, *encoder(outer)]))


def without_initial_state():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    summary = layers.RepeatVector(HORIZON)(layers.GRU(3)(past))
    x = layers.LSTM(4, return_sequences=True)(layers.Concatenate()([given, summary]))
    return keras.Model([past, given], layers.Dense(1)(x))


def of_the_encoder_by_step():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    sequence, *states = layers.LSTM(4, return_state=True, return_sequences=True)(past)
    x = layers.LSTM(4, return_sequences=True)(given, initial_state=states)
    return keras.Model([past, given], layers.Dense(1)(layers.Concatenate(name="beside")([x, sequence[:, :HORIZON]])))


TEAMS = {
    "without return_state": (seq2seq, ("hidden", "cell")),
    "with return_state": (lambda: seq2seq(returned=True), ("hidden", "cell")),
    "stacked": (lambda: seq2seq(depth=2), ("hidden", "cell", "hidden_1", "cell_1")),
    "GRU": (lambda: seq2seq(layers.GRU), ("hidden",)),
    "bidirectional encoder, bridge": (lambda: seq2seq(bidirectional=True), ("hidden", "cell")),
    "attention": (lambda: seq2seq(attention=True), ("hidden", "cell")),
    "context repeated for each step": (lambda: seq2seq(repeated=True), ("hidden", "cell")),
    "covariates behind the previous value": (lambda: seq2seq(width=3), ("hidden", "cell")),
    "reshaped": (
        lambda: seq2seq(head=lambda x: layers.Reshape((HORIZON,))(layers.Dense(1)(layers.Reshape((HORIZON, 6))(x)))),
        ("hidden", "cell"),
    ),
    "squeezed": (lambda: seq2seq(head=lambda x: layers.Dense(1)(x)[:, :, 0]), ("hidden", "cell")),
    "a Lambda that was told its shape": (
        lambda: seq2seq(head=lambda x: layers.Dense(1)(layers.Lambda(lambda y: 2 * y, output_shape=(HORIZON, 6))(x))),
        ("hidden", "cell"),
    ),
    "time-distributed": (lambda: seq2seq(head=layers.TimeDistributed(layers.Dense(1))), ("hidden", "cell")),
    "models inside a model": (nested, ("hidden", "cell")),
    "no initial state": (without_initial_state, ("hidden", "cell")),
    "the encoder's steps beside the decoder's": (of_the_encoder_by_step, ("hidden", "cell", "ahead")),
}


@pytest.mark.parametrize("name", TEAMS)
def test_a_teams_model_comes_apart(name, tmp_path):
    build, states = TEAMS[name]
    keras.utils.set_random_seed(3)
    training = saved(build(), tmp_path, trust="Lambda" in name)
    models = dissect(training, -1.0, 0)
    assert models.states == states
    batch = windows(6, training.inputs[1].shape[2] - 1)
    machine = machine_of_keras(models)
    encoded = machine.encode(batch)
    forecast = unroll(machine, encoded, batch.future_known)
    assert (encoded.previous == -1).all()
    fed = np.concatenate([encoded.previous, forecast[:, :-1]], axis=1)[:, :, None]
    given = fed if batch.future_known is None else np.concatenate([fed, batch.future_known], axis=2)
    again = training.predict_on_batch([batch.past, given]).reshape(forecast.shape)
    np.testing.assert_allclose(again, forecast, atol=1e-6)
    quick = machine_of_keras(replace(models, step=models.cell_step))
    np.testing.assert_allclose(unroll(quick, encoded, batch.future_known), forecast, atol=1e-6)


def test_a_machine_takes_more_windows_than_one_chunk(monkeypatch):
    monkeypatch.setattr("export.keras_machine.CHUNK", 4)
    machine, batch = machine_of_keras(dissect(seq2seq(), "last", 1)), windows(10)
    encoded = machine.encode(batch)
    np.testing.assert_array_equal(encoded.previous, batch.past[:, -1, 1:])
    whole = unroll(machine, encoded, None)
    few = batch.take(slice(0, 3))
    np.testing.assert_allclose(unroll(machine, machine.encode(few), None), whole[:3], atol=1e-6)


def test_a_dissected_team_model_becomes_two_graphs_with_lstm_operators():
    pair = convert(dissect(seq2seq(depth=2, attention=True), -1.0, 0))
    assert b"LSTM" in pair.encoder
    assert b"LSTM" in pair.decoder_step


def test_open_lengths_are_taken_from_the_sizes():
    training = seq2seq(horizon=None)
    with pytest.raises(CertificationError, match="axes open"):
        dissect(training, -1.0, 0)
    models = dissect(training, -1.0, 0, Sizes(CONTEXT, 9, FEATURES, 0))
    assert models.training.outputs[0].shape == (None, 9, 1)


def backwards():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    summary = layers.RepeatVector(HORIZON)(layers.LSTM(3)(past))
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both_ways")
    return keras.Model([past, given], layers.Dense(1)(both(layers.Concatenate()([given, summary]))))


def handed_on():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(4, return_state=True)(past)
    x, *after = layers.LSTM(4, return_sequences=True, return_state=True)(given, initial_state=states)
    x = layers.LSTM(4, return_sequences=True, name="second")(x, initial_state=after)
    return keras.Model([past, given], layers.Dense(1)(x))


REFUSED = {
    "a convolution over the horizon": (
        lambda: seq2seq(head=layers.Conv1D(1, 3, padding="causal", name="mix")),
        "mix.*from step 2 on",
    ),
    "attention of the decoder to itself": (
        lambda: seq2seq(head=lambda x: layers.Dense(1)(layers.Attention(name="self")([x, x]))),
        "self.*looks at others",
    ),
    "the horizon flattened": (
        lambda: seq2seq(
            head=lambda x: layers.Reshape((HORIZON, 1))(layers.Dense(HORIZON)(layers.Flatten(name="f")(x)))
        ),
        "layer f .*no axis for the steps",
    ),
    "a decoder that reads backwards": (backwards, "both_ways.*backwards"),
    "a state handed on at the end": (handed_on, "second.*depends on the decoder's input"),
    "no recurrent layer": (
        lambda: keras.Model(
            inputs := [keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))],
            layers.Dense(1)(layers.Concatenate()([inputs[1], layers.RepeatVector(HORIZON)(inputs[0][:, -1])])),
        ),
        "no recurrent layer",
    ),
    "quantiles": (lambda: seq2seq(head=layers.Dense(3)), r"no forecast by its decoder.*\[B, 5, 1\]"),
    "one input": (lambda: keras.Sequential([keras.Input((CONTEXT, 1)), layers.LSTM(HORIZON)]), "inputs are not known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_step_by_step_is_refused_by_name(name):
    build, said = REFUSED[name]
    with pytest.raises(CertificationError, match=f"(?s){said}"):
        dissect(build(), -1.0, 0)


def test_weights_that_are_no_numbers_are_not_called_a_look_at_other_steps():
    training = seq2seq()
    training.set_weights([np.full_like(weight, np.nan) for weight in training.get_weights()])
    with pytest.raises(CertificationError, match="not finite"):
        dissect(training, -1.0, 0)


def test_a_model_is_not_opened_where_nobody_said_that_it_is_trusted(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)is a program.*--trust-model"):
        refuse_untrusted(tmp_path / "model.keras", trust=False)
    refuse_untrusted(tmp_path / "model.keras", trust=True)


def test_a_lambda_is_code_and_needs_trust(tmp_path):
    training = seq2seq(head=layers.Lambda(lambda y: y[:, :, :1]))
    training.save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match=r"(?s)Lambda of keras.layers.*--trust-model"):
        open_model(tmp_path / "model.keras", trust=False)
    assert open_model(tmp_path / "model.keras", trust=True).inputs


@pytest.mark.parametrize(
    "entry",
    [
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {}},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": "evil>Dense", "config": {}},
        {"module": None, "class_name": "__lambda__", "config": {}},
        {"module": "keras", "class_name": "__lambda__", "config": {}},
        {"module": "keras", "class_name": "layers.Lambda", "config": {}},
        {"module": "keras", "class_name": "layers.TFSMLayer", "config": {}},
        {"module": "keras", "class_name": "function", "config": "datasets.mnist.load_data"},
        {"module": "keras.models", "class_name": "load_model", "config": {}},
        {"module": "keras.layers", "class_name": "TextVectorization", "config": {"vocabulary": "/etc/passwd"}},
        {"module": "keras.layers", "class_name": ["Dense"], "config": {}},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": {}, "config": {}},
        {"module": ["keras"], "class_name": "Dense", "config": {}},
    ],
)
def test_whatever_is_not_plainly_keras_own_needs_trust(tmp_path, entry):
    path = tmp_path / "model.keras"
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [{"deep": [entry]}]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(UsageError, match=re.escape(f"{entry['class_name']} of {entry['module'] or 'no module'}")):
        open_model(path, trust=False)


def no_file(folder: Path) -> Path:
    return folder / "none.keras"


def old_format(folder: Path) -> Path:
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n")
    return folder / "model.h5"


def no_archive(folder: Path) -> Path:
    (folder / "model.keras").write_text("hello")
    return folder / "model.keras"


def no_config(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    return folder / "model.keras"


def no_model(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", "[]")
    return folder / "model.keras"


def unknown_class(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr(
            "config.json", '{"module": "ours", "class_name": "Net", "config": {}, "registered_name": "Net"}'
        )
    return folder / "model.keras"


def patched(folder: Path, places: dict[bytes, int], value: int) -> Path:
    """Pack a config, then change a byte of the archive's headers."""
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "module": "keras", "config": {}}))
    packed = bytearray(path.read_bytes())
    for header, offset in places.items():
        packed[packed.index(header) + offset] = value
    path.write_bytes(packed)
    return path


def encrypted(folder: Path) -> Path:
    return patched(folder, {b"PK\1\2": 8, b"PK\3\4": 6}, 1)


def packed_otherwise(folder: Path) -> Path:
    return patched(folder, {b"PK\1\2": 10, b"PK\3\4": 8}, 97)


def damaged(folder: Path) -> Path:
    return patched(folder, {b"PK\3\4": 30 + len("config.json")}, 0xFF)


def too_deep(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", '{"a":' + "[" * 900 + "]" * 900 + "}")
    return folder / "model.keras"


def endless(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (LARGEST_CONFIG + 1))
    return folder / "model.keras"


NO_MODELS = [
    no_file, old_format, no_archive, no_config, no_model, unknown_class,
    encrypted, packed_otherwise, damaged, too_deep, endless,
]  # fmt: skip


@pytest.mark.parametrize("make", NO_MODELS)
def test_what_is_no_keras_file_is_refused_with_what_to_do(tmp_path, make):
    with pytest.raises(InputError, match=r"(?s)model.*remedy"):
        open_model(make(tmp_path), trust=True)
