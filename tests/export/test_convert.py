"""A team's trained model becomes a bundle by one command, and forecasts what it forecast; or is refused by name."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from keras import layers

import teams
from export.cli import cli
from export.scaler import Features, Scaler, Target, in_raw_units, read_scaler
from export.windows import open_windows
from runner.bundle import open_bundle
from runner.cli import cli as freerun
from runner.decode import decode
from runner.device import Device
from runner.errors import InputError, UsageError
from runner.resident import ResidentLoop
from runner.schema import Sizes
from runner.session import open_session
from runner.stop import Stop
from teams import (
    CONTEXT,
    FEATURES,
    HORIZON,
    MODELS,
    SEVERAL,
    build_several,
    draw,
    draw_several,
    seq2seq,
    several,
    write,
)

LEVEL, DEVIATION = 50.0, 4.0
PAGE = Path(__file__).parents[2] / "docs" / "convert.md"
TWO = {"location": [1, 1], "scale": [2, 1]}


@pytest.fixture(scope="module")
def windows():
    return draw()


@pytest.fixture(scope="module")
def valid(windows, tmp_path_factory):
    return write(tmp_path_factory.mktemp("valid") / "valid.parquet", windows)


@pytest.fixture
def convert(within, tmp_path):
    """Return what saves a model and converts it: how the command ended, and where the bundle is."""

    def run(training, valid, *words, trust=True):
        training.save(tmp_path / "model.keras")
        out = tmp_path / "bundle"
        flags = ["--trust-model"] if trust else []
        done = within(cli, "convert", tmp_path / "model.keras", "--valid", valid, "--out", out, *flags, *words)
        assert (done.code == 0) == out.is_dir(), done.err
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        return done, out

    return run


@pytest.fixture
def scored(within, tmp_path):
    """Return what scores windows with a bundle in a mode: the loss, and the predictions [N, H]."""

    def run(bundle, data, mode):
        done = within(freerun, "score", bundle, data, "--out", tmp_path / mode, "--mode", mode, "--json")
        assert done.code == 0, done.err
        table = pq.read_table(next((tmp_path / mode).glob("*.parquet")))
        return done.json()["total"]["masked_mse"], np.array(table["prediction"].to_pylist(), np.float32)

    return run


def certificate(bundle):
    return json.loads((bundle / "certificate.json").read_text())


def trained_as_in_a_tutorial(windows, folder):
    """Run the code of docs/convert.md as it stands: the training model, and its own unrolled inference model."""
    known = {"past": windows.past, "target": windows.target, "decoder_input": windows.teacher}
    known |= {"mask": windows.mask.astype(np.float32)}
    keras.utils.set_random_seed(5)
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block.replace("model.keras", f"{folder / 'own.keras'}"), known)  # noqa: S102  (our own page)
    return known["model"], known["inference"]


def test_the_network_of_the_tutorials_is_trained_converted_and_scored_to_keras_own_losses(
    windows, valid, convert, scored, within, tmp_path
):
    model, inference = trained_as_in_a_tutorial(windows, tmp_path)
    done, bundle = convert(model, valid, "--set", "name=tutorial", "--set", "feature_names=load,temperature")
    assert done.code == 0, done.err
    forced, _ = scored(bundle, valid, "teacher-forced")
    free, predictions = scored(bundle, valid, "free-running")
    unrolled = inference.predict(windows.past, verbose=0)
    assert forced == pytest.approx(windows.loss(model.predict([windows.past, windows.teacher], verbose=0)), rel=1e-6)
    assert free == pytest.approx(windows.loss(unrolled), rel=1e-6)
    np.testing.assert_allclose(predictions, unrolled, atol=1e-6)
    assert forced != pytest.approx(free, rel=1e-3)
    told = certificate(bundle)["source"]
    assert (told["kind"], len(told["sha256"]), told["scaler"]) == ("convert", 64, None)
    assert len(certificate(bundle)["windows_digest"]) == 64
    assert re.search(r"fed back to Keras +changed by ", done.out)
    assert within(freerun, "verify", bundle).code == 0
    found = within(freerun, "inspect", bundle, "--json").json()
    assert (found["name"], found["features"]["past"], found["scaling"]) == ("tutorial", ["load", "temperature"], "none")
    data = write(tmp_path / "predicted.parquet", windows, own=predictions)
    checked = within(cli, "doctor", tmp_path / "model.keras", data, "--predictions", "own", "--trust-model")
    assert checked.code == 0, checked.out


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_model_does_in_onnx_what_it_does_in_keras(name, valid, windows, convert, scored, within, tmp_path):
    keras.utils.set_random_seed(3)
    done, bundle = convert(MODELS[name](), valid)
    assert done.code == 0, done.err
    parity = certificate(bundle)["parity"]
    assert [entry["batch_size"] for entry in parity] == [1, 2, 7, 64]
    for entry in parity:
        modes = [entry[mode] for mode in entry if mode.endswith(("teacher_forced", "free_running"))]
        assert [len(steps) for steps in modes] == [HORIZON] * 4
        assert max(map(max, modes)) < 1e-5
    for graph in ("encoder", "decoder_step"):
        content = onnx.load_model_from_string((bundle / f"{graph}.onnx").read_bytes()).graph
        kinds = {node.op_type for node in content.node}
        assert not kinds & {"Loop", "Scan", "If"}
        assert kinds & {"LSTM", "GRU", "RNN"}
    _, predictions = scored(bundle, valid, "free-running")
    data = write(tmp_path / "predicted.parquet", windows, own=predictions)
    checked = within(cli, "doctor", tmp_path / "model.keras", data, "--predictions", "own", "--trust-model")
    assert checked.code == 0, checked.out


def test_the_page_has_a_row_for_each_kind_with_its_figures():
    table = PAGE.read_text().split("<!-- matrix -->")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [*MODELS, *SEVERAL]
    assert all(0 < float(figure) < 1e-5 for row in rows for figure in row[2:])


def test_int8_and_the_last_target_as_start_may_be_asked_for(valid, convert, windows, scored):
    done, bundle = convert(seq2seq(), valid, "--set", "precision=fp32,int8", "--set", "start=last")
    assert done.code == 0, done.err
    assert (bundle / "int8" / "fused.onnx").exists()
    assert "int8" in done.out
    training = keras.saving.load_model(bundle.parent / "model.keras")
    _, found = scored(bundle, valid, "free-running")
    fed = np.concatenate([windows.past[:, -1:, 0], found[:, :-1]], axis=1)[:, :, None]
    np.testing.assert_allclose(training.predict([windows.past, fed], verbose=0)[:, :, 0], found, atol=1e-6)


def scale(values, location=LEVEL, deviation=DEVIATION):
    return ((values - location) / deviation).astype(np.float32)


def test_a_scaler_outside_the_model_goes_into_the_graphs(convert, scored, tmp_path):
    small = draw(2)
    past = small.past * [DEVIATION, 7.0] + [LEVEL, -3.0]
    raw = teams.Windows(past.astype(np.float32), (small.target * DEVIATION + LEVEL).astype(np.float32), small.mask)
    scaled = teams.Windows(scale(raw.past, [LEVEL, -3.0], [DEVIATION, 7.0]), scale(raw.target), raw.mask)
    model, inference = trained_as_in_a_tutorial(scaled, tmp_path)
    scaler = {
        "past": {"location": [LEVEL, -3], "scale": [DEVIATION, 7]},
        "target": {"location": LEVEL, "scale": DEVIATION},
    }
    (tmp_path / "scaler.json").write_text(json.dumps(scaler))
    data = write(tmp_path / "raw.parquet", raw)
    done, bundle = convert(model, data, "--scaler", tmp_path / "scaler.json")
    assert done.code == 0, done.err
    (free, predictions), (forced, _) = scored(bundle, data, "free-running"), scored(bundle, data, "teacher-forced")
    unrolled = inference.predict(scaled.past, verbose=0) * DEVIATION + LEVEL
    at_once = model.predict([scaled.past, scaled.teacher], verbose=0) * DEVIATION + LEVEL
    assert free == pytest.approx(raw.loss(unrolled), rel=1e-6)
    assert forced == pytest.approx(raw.loss(at_once), rel=1e-6)
    np.testing.assert_allclose(predictions, unrolled, rtol=1e-6)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["start"]["value"], manifest["scaling"]) == (LEVEL - DEVIATION, "standard")
    assert certificate(bundle)["source"]["scaler"]["target"] == scaler["target"]


def test_flags_and_covariates_are_scaled_as_they_were_before_the_model():
    sizes = Sizes(3, 2, 2, 1)
    shapes = {"past": (3, 2), "past_observed": (3,), "decoder_input": (2, 1), "future_known": (2, 1)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    seen = layers.Flatten()(inputs["past"])
    whole = keras.ops.concatenate([seen, inputs["decoder_input"][:, :, 0], inputs["future_known"][:, :, 0]], axis=1)
    model = keras.Model(
        list(inputs.values()), keras.ops.sum(whole, axis=1, keepdims=True)[:, :, None] * np.ones((1, 2, 1))
    )
    scaler = Scaler(
        past=Features(location=(1.0, 2.0), scale=(2.0, 4.0)),
        future_known=Features(location=(5.0,), scale=(0.5,)),
        target=Target(location=10.0, scale=3.0),
    )
    rng = np.random.default_rng(0)
    past, known, previous = (rng.normal(size=(4, *shape)).astype(np.float32) for shape in ((3, 2), (2, 1), (2, 1)))
    flags = np.array([[1, 0, 1]] * 4, np.float32)
    found = in_raw_units(model, scaler, sizes).predict([past, flags, previous, known], verbose=0)
    sums = ((past - [1, 2]) / [2, 4] * flags[:, :, None]).sum((1, 2)) + ((known - 5) / 0.5).sum((1, 2))
    expected = (sums + ((previous - 10) / 3).sum((1, 2))) * 3 + 10
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["Invalid JSON"]),
        ('{"past": {"location": [1], "scale": [0, 1]}, "target": {}}', ["past.scale.0", "target.location"]),
        ('{"past": {"location": [1], "scale": [2, 1, 1]}, "target": {"location": 0, "scale": 1}}',
         ["past.location: got 1 numbers, expected 2", "past.scale: got 3 numbers, expected 2"]),
        ('{"past": {"location": ["1", 2], "scale": [2, NaN]}, "target": {"location": 0, "scale": 1}, "x": 1}',
         ["past.location.0", "past.scale.1", "x"]),
        ('{"past": {"location": [1, 1], "scale": [2, 1]}, "future_known": {"location": [1], "scale": [1]}}',
         ["target: Field required"]),
        (json.dumps({"past": TWO, "future_known": TWO, "target": {"location": 0, "scale": 1}}),
         ["future_known: too much"]),
    ],
)  # fmt: skip
def test_every_misfit_of_a_scaler_is_told(tmp_path, content, words):
    (tmp_path / "scaler.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_scaler(tmp_path / "scaler.json", Sizes(CONTEXT, HORIZON, FEATURES, 0), -1.0, 0)
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_last_target_can_only_start_where_it_was_scaled_in_one_way(tmp_path):
    path, sizes = tmp_path / "scaler.json", Sizes(CONTEXT, HORIZON, FEATURES, 0)
    path.write_text('{"past": {"location": [1, 0], "scale": [2, 1]}, "target": {"location": 0, "scale": 1}}')
    with pytest.raises(UsageError, match="scaled differently"):
        read_scaler(path, sizes, "last", 0)
    assert read_scaler(path, sizes, "last", 1).raw_start("last") == "last"
    with pytest.raises(InputError, match="cannot read"):
        read_scaler(tmp_path / "none.json", sizes, -1.0, 0)


def looks_ahead():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(4, return_state=True)(past)
    turned = layers.Lambda(lambda x: x[:, ::-1], output_shape=(HORIZON, 1), name="turned")(given)
    return keras.Model(
        [past, given], layers.Dense(1)(layers.LSTM(4, return_sequences=True)(turned, initial_state=states))
    )


def whole_horizon():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(4, return_state=True)(past)
    x = layers.LSTM(4, name="reader")(given, initial_state=states)
    return keras.Model([past, given], layers.Reshape((HORIZON, 1))(layers.Dense(HORIZON)(x)))


def both_ways():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(4, return_state=True)(past)
    decoder = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both_ways")
    return keras.Model([past, given], layers.Dense(1)(decoder(given, initial_state=[*states, *states])))


def several_outputs():
    model = seq2seq()
    more = layers.Dense(1, name="second_target")(model.layers[-2].output)
    return keras.Model(model.inputs, [model.output, more])


def three_inputs():
    model, third = seq2seq(), keras.Input((HORIZON, 1), name="weather")
    return keras.Model([*model.inputs, third], layers.Add()([model.output, third]))


def masked():
    past, given = keras.Input((CONTEXT, FEATURES)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(4, return_state=True)(layers.Masking(name="gaps")(past))
    return keras.Model(
        [past, given], layers.Dense(1)(layers.LSTM(4, return_sequences=True)(given, initial_state=states))
    )


@keras.saving.register_keras_serializable("teams")
class Subclassed(keras.Model):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.encoder, self.decoder = layers.LSTM(4, return_state=True), layers.LSTM(4, return_sequences=True)
        self.dense = layers.Dense(1)

    def call(self, inputs):
        past, given = inputs
        return self.dense(self.decoder(given, initial_state=self.encoder(past)[1:]))


def subclassed():
    model = Subclassed()
    model([np.zeros((1, CONTEXT, FEATURES), np.float32), np.zeros((1, HORIZON, 1), np.float32)])
    return model


def sequential():
    return keras.Sequential([keras.Input((CONTEXT, FEATURES)), layers.LSTM(4), layers.Dense(HORIZON)])


def inference_model():
    past = keras.Input((CONTEXT, FEATURES))
    _, *states = layers.LSTM(4, return_state=True)(past)
    decoder, dense, given = layers.LSTM(4, return_state=True), layers.Dense(1), past[:, -1:, :1]
    steps = []
    for _ in range(HORIZON):
        hidden, *states = decoder(given, initial_state=states)
        steps.append(dense(hidden))
        given = steps[-1][:, None]
    return keras.Model(past, keras.ops.concatenate(steps, axis=1))


def self_attention(y):
    return layers.Dense(1)(layers.Attention(name="to_itself")([y, y]))


REFUSED = {
    "a Lambda before the decoder that looks ahead": (looks_ahead, r"layer turned \(Lambda\)"),
    "a decoder that reads the whole horizon": (whole_horizon, r"layer reader \(LSTM\).*return_sequences=False"),
    "a convolution over the horizon": (
        lambda: seq2seq(head=layers.Conv1D(1, 3, padding="causal", name="mix")),
        r"layer mix \(Conv1D\).*from step 2 on",
    ),
    "a bidirectional decoder": (both_ways, r"layer both_ways \(Bidirectional\).*backwards"),
    "attention of the decoder to itself": (lambda: seq2seq(head=self_attention), r"layer to_itself \(Attention\)"),
    "normalisation along the horizon": (
        lambda: seq2seq(head=lambda y: layers.Dense(1)(layers.LayerNormalization(axis=1, name="along")(y))),
        r"layer along \(LayerNormalization\)",
    ),
    "several outputs": (several_outputs, r"several outputs.*second_target \(Dense\)"),
    "quantiles": (lambda: seq2seq(head=layers.Dense(3, name="three")), r"no forecast.*three \(Dense\)"),
    "a Sequential model": (sequential, "inputs are not known"),
    "a subclassed model": (subclassed, "no Functional Keras model.*Subclassed"),
    "a third input of an unknown name": (three_inputs, "inputs are not known.*weather"),
    "a recurrence that ONNX has no operator for": (
        lambda: seq2seq(kind=layers.LSTM, recurrent_activation="hard_sigmoid"),
        r"layer lstm\w* \(LSTM\): its activations are tanh and hard_sigmoid",
    ),
    "an activation that is not written": (
        lambda: seq2seq(head=lambda y: layers.Dense(1)(layers.Dense(4, activation="gelu", name="curved")(y))),
        r"layer curved \(Dense\): no bundle .* gelu",
    ),
    "masked steps": (masked, r"layer gaps \(Masking\).*past_observed"),
    "an inference model": (inference_model, "inputs are not known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name_with_what_to_do(name, valid, convert):
    build, said = REFUSED[name]
    done, _ = convert(build(), valid)
    assert done.code == 16, done.err
    assert re.search(f"(?s){said}", done.err), done.err
    assert re.search("remedy|expected", done.err)
    assert "Traceback" not in done.err


def test_a_model_that_nobody_trusts_is_not_opened(valid, convert):
    done, _ = convert(seq2seq(), valid, trust=False)
    assert (done.code, "a .keras file is a program" in done.err, "--trust-model" in done.err) == (2, True, True)


def test_other_data_other_names_and_a_bundle_that_is_there_are_refused(valid, convert, within, tmp_path):
    short = write(tmp_path / "short.parquet", teams.Windows(draw().past[:, 1:], draw().target, draw().mask))
    done, _ = convert(seq2seq(), short)
    assert done.code == 11, done.err
    done, _ = convert(seq2seq(), valid, "--set", "units=4")
    assert (done.code, "units" in done.err) == (2, True)
    done, _ = convert(seq2seq(), valid, "--set", "target_feature=9")
    assert (done.code, "target_feature" in done.err) == (2, True)
    shutil.copy(tmp_path / "model.keras", tmp_path / "model.h5")
    there = within(cli, "convert", tmp_path / "model.h5", "--valid", valid, "--out", tmp_path / "b", "--trust-model")
    assert (there.code, ".keras" in there.err) == (11, True)
    taken = within(cli, "convert", tmp_path / "model.keras", "--valid", valid, "--out", tmp_path, "--trust-model")
    assert (taken.code, "exists" in taken.err) == (2, True)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("start", ["-1", "last"])
def test_several_targets_are_scored_to_keras_own_losses_each_in_its_own_units(
    name, start, convert, scored, within, tmp_path
):
    keras.utils.set_random_seed(3)
    (model, windows), (count, _) = build_several(name), SEVERAL[name]
    valid = write(tmp_path / "valid.parquet", windows)
    features = ",".join(map(str, range(count)))
    done, bundle = convert(model, valid, "--set", f"target_feature={features}", "--set", f"start={start}")
    assert done.code == 0, done.err
    fed, first = windows.teacher.copy(), windows.past[:, -1] if start == "last" else np.float32(-1)
    fed[:, 0] = first
    for h in range(1, HORIZON):
        fed[:, h] = np.where(windows.mask[:, h - 1], fed[:, h - 1], windows.target[:, h - 1])
    forced, _ = scored(bundle, valid, "teacher-forced")
    assert forced == pytest.approx(windows.loss(model.predict([windows.past, fed], verbose=0)), rel=1e-6)
    free = np.zeros_like(fed)
    free[:, 0] = first
    for h in range(1, HORIZON):
        free[:, h] = model.predict([windows.past, free], verbose=0)[:, h - 1]
    expected = model.predict([windows.past, free], verbose=0)
    loss, predictions = scored(bundle, valid, "free-running")
    assert loss == pytest.approx(windows.loss(expected), rel=1e-6)
    np.testing.assert_allclose(predictions, expected.reshape(len(predictions), -1), atol=2e-5)
    told = json.loads((tmp_path / "free-running" / "_report.json").read_text())["total"]
    errors = np.where(windows.mask, 0, expected.astype(np.float64) - windows.target) ** 2
    assert list(told["per_target"]) == [f"f{index}" for index in range(count)]
    for index, entry in enumerate(told["per_target"].values()):
        assert entry["masked_mse"] == pytest.approx(errors[:, :, index].mean(), rel=1e-5)
        last = np.where(windows.mask, 0, windows.past[:, None, -1].astype(float) - windows.target)[:, :, index] ** 2
        assert entry["naive"]["last"]["masked_mse"] == pytest.approx(last.mean(), rel=1e-9)
    for graph in bundle.glob("*.onnx"):
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in onnx.load(graph).graph.node}
    assert certificate(bundle)["largest_difference"] < 1e-5
    assert len(certificate(bundle)["losses"]["per_step"]["free_running"]) == HORIZON
    for words in (["verify", bundle], ["verify-output", tmp_path / "free-running"]):
        assert within(freerun, *words).code == 0
    words_of_doctor = ["--predictions", "own", "--trust-model", "--start", start, "--target-feature", features]
    for own in (predictions, predictions.reshape(windows.target.shape)):
        table = pq.read_table(valid).append_column("own", [own.tolist()])
        pq.write_table(table, tmp_path / "own.parquet")
        found = within(cli, "doctor", tmp_path / "model.keras", tmp_path / "own.parquet", *words_of_doctor)
        assert found.code == 0, found.out
    late = np.roll(predictions.reshape(windows.target.shape), 1, axis=1)
    pq.write_table(pq.read_table(valid).append_column("own", [late.tolist()]), tmp_path / "own.parquet")
    found = within(cli, "doctor", tmp_path / "model.keras", tmp_path / "own.parquet", *words_of_doctor)
    assert found.code == 16
    assert "no fault was simulated" in found.out
    refused = within(freerun, "explain-gap", bundle, valid)
    assert refused.code == 2
    assert "single target" in refused.err


def test_each_of_several_targets_is_scaled_and_started_by_its_own_numbers(convert, scored, tmp_path):
    windows = draw_several(2, 30.0)
    valid = write(tmp_path / "valid.parquet", windows)
    by = {"location": [1.0, 50.0], "scale": [2.0, 30.0]}
    scaler = tmp_path / "scaler.json"
    scaler.write_text(json.dumps({"past": by, "target": by}))
    model, location, scale = several(2), np.array(by["location"]), np.array(by["scale"])
    done, bundle = convert(model, valid, "--scaler", scaler, "--set", "target_feature=f0,f1")
    assert done.code == 0, done.err
    assert json.loads((bundle / "manifest.json").read_text())["start"]["value"] == [-1.0, 20.0]
    past, fed = (windows.past - location) / scale, np.full(windows.target.shape, -1.0, np.float32)
    for h in range(1, HORIZON):
        fed[:, h] = model.predict([past, fed], verbose=0)[:, h - 1]
    expected = model.predict([past, fed], verbose=0) * scale + location
    loss, _ = scored(bundle, valid, "free-running")
    assert loss == pytest.approx(windows.loss(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "target_feature does not fit the targets"),
        (["--set", "target_feature=0,0"], "2 different past features"),
        (["--set", "target_feature=0,1", "--set", "start=[1.0]"], "start does not fit"),
    ],
)
def test_what_is_said_of_several_targets_must_be_said_of_each(words, message, convert, tmp_path):
    valid = write(tmp_path / "valid.parquet", draw_several(2))
    done, _ = convert(several(2), valid, *words)
    assert done.code == 2
    assert message in done.err


def test_a_training_refuses_several_targets(within, tmp_path):
    valid = write(tmp_path / "valid.parquet", draw_several(2))
    done = within(cli, "train", valid, "--valid", valid, "--out", tmp_path / "bundle")
    assert done.code == 2
    assert "a training forecasts a single target" in done.err


@pytest.mark.parametrize("teacher", [False, True])
def test_on_a_device_several_targets_are_decoded_as_by_the_plain_loop(teacher, convert, tmp_path):
    windows = draw_several(2)
    valid = write(tmp_path / "valid.parquet", windows)
    words = ["--set", "target_feature=0,1", "--set", "start=last", "--set", "precision=fp32,int8"]
    done, path = convert(several(2), valid, *words)
    assert done.code == 0, done.err
    bundle, cpu = open_bundle(path), Device("cpu")
    assert bundle.manifest.held() == ("fp32", "int8")
    batch = next(open_windows(str(valid)).blocks())
    graphs = bundle.graphs("fp32")
    encoder, step = (
        open_session(graphs[name], name, cpu, threads=1, stop=Stop()) for name in ("encoder", "decoder_step")
    )
    expected = decode(encoder, step, bundle.manifest, batch, teacher=teacher)
    loop = ResidentLoop(bundle.manifest, encoder, step, None, len(batch))
    assert expected.shape == (len(batch), 2 * HORIZON)
    for _ in range(2):
        np.testing.assert_array_equal(loop(batch, teacher), expected)
