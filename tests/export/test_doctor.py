"""A team's model and columns of predictions, made by loops that are wrong in one way each; the command must name it."""

import json

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from keras import layers

from export.cli import cli
from runner.errors import FreerunError

CONTEXT, HORIZON, WINDOWS, UNITS = 8, 5, 72, 6
LEVEL, DEVIATION = 50.0, 4.0
BATCH = 24


class Team:
    """A model that scales by itself, as teams build it, and everything that can be done wrong around it."""

    def __init__(self):
        keras.utils.set_random_seed(11)
        self.scale_in = layers.Rescaling(1 / DEVIATION, -LEVEL / DEVIATION)
        self.encoder = layers.LSTM(UNITS, return_state=True, kernel_initializer=keras.initializers.RandomNormal(0, 0.8))
        self.decoder = layers.LSTM(UNITS, return_sequences=True, return_state=True)
        self.dropout = layers.Dropout(0.4)
        self.dense = layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(0, 1.5))
        self.scale_out = layers.Rescaling(DEVIATION, LEVEL)
        past, given = keras.Input((CONTEXT, 1)), keras.Input((HORIZON, 1))
        _, *states = self.encoder(layers.Rescaling(1 / DEVIATION, -LEVEL / DEVIATION)(past))
        x, *_ = self.decoder(self.scale_in(given), initial_state=states)
        self.model = keras.Model([past, given], self.scale_out(self.dense(self.dropout(x))))
        rng = np.random.default_rng(2)
        noise = rng.normal(size=(WINDOWS, CONTEXT + HORIZON)).astype(np.float32)
        series = LEVEL + DEVIATION * np.cumsum(noise, axis=1) / 3
        self.past, self.target = series[:, :CONTEXT, None], series[:, CONTEXT:]
        self.mask = rng.random((WINDOWS, HORIZON)) < 0.2

    def states(self, past=None):
        scaled = ((self.past if past is None else past) - LEVEL) / DEVIATION
        return self.encoder(scaled)[1:]

    def step(self, raw, states, training=False):
        x, *after = self.decoder((raw[:, :, None] - LEVEL) / DEVIATION, initial_state=list(states))
        y = self.dense(self.dropout(x, training=training)) * DEVIATION + LEVEL
        return np.asarray(y)[:, :, 0], [np.asarray(state) for state in after]

    def loop(self, states=None, start=-1.0, carry=lambda after, _: after, feed=lambda ys: ys[-1], training=False):
        first = now = self.states() if states is None else states
        raw, ys = np.full((WINDOWS, 1), start, np.float32), []
        for _ in range(HORIZON):
            y, after = self.step(raw, now, training)
            ys.append(y)
            now, raw = carry(after, first), feed(ys)
        return np.concatenate(ys, axis=1)

    def predict(self, decoder_input):
        return self.model.predict_on_batch([self.past, decoder_input[:, :, None].astype(np.float32)])[:, :, 0]

    def after_the_batch_before(self):
        """Return the states of an encoder that is stateful: each batch begins where the one before ended."""
        states, found = [np.zeros((BATCH, UNITS), np.float32)] * 2, []
        for first in range(0, WINDOWS, BATCH):
            scaled = (self.past[first : first + BATCH] - LEVEL) / DEVIATION
            states = [np.asarray(state) for state in self.encoder(scaled, initial_state=states)[1:]]
            found.append(states)
        return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]


def shifted(values, start=-1.0):
    return np.concatenate([np.full((WINDOWS, 1), start), values[:, :-1]], axis=1)


def swap(states, _=None):
    return [states[1], states[0]]


WRONG = {
    "swapped": ("states_swapped", 1, lambda team: team.loop(swap(team.states()))),
    "swapped_each_step": ("states_swapped_each_step", 2, lambda team: team.loop(carry=swap)),
    "cell_reset": ("cell_reset", 2, lambda team: team.loop(carry=lambda after, _: [after[0], 0 * after[1]])),
    "not_carried": ("state_not_carried", 2, lambda team: team.loop(carry=lambda _, first: first)),
    "no_encoder": ("state_not_carried", 1, lambda team: team.loop([np.zeros((WINDOWS, UNITS), np.float32)] * 2)),
    "start_zero": ("start_value", 1, lambda team: team.loop(start=0.0)),
    "start_last": ("start_value", 1, lambda team: team.loop(start=team.past[:, -1])),
    "fed_late": (
        "inputs_shifted",
        2,
        lambda team: team.loop(feed=lambda ys: ys[-2] if len(ys) > 1 else 0 * ys[-1] - 1),
    ),
    "column_late": ("inputs_shifted", 1, lambda team: np.roll(team.loop(), 1, axis=1)),
    "teacher_forced": ("teacher_forced", 2, lambda team: team.predict(shifted(filled(team)))),
    "not_fed_back": ("not_fed_back", 2, lambda team: team.predict(np.full((WINDOWS, HORIZON), -1.0))),
    "not_unscaled": ("scaling_dropped", 1, lambda team: (team.loop() - LEVEL) / DEVIATION),
    "feedback_scaled_twice": (
        "scaling_dropped",
        2,
        lambda team: team.loop(feed=lambda ys: (ys[-1] - LEVEL) / DEVIATION),
    ),
    "context_scaled_twice": (
        "scaling_dropped",
        1,
        lambda team: team.loop(team.states((team.past - LEVEL) / DEVIATION)),
    ),
    "dropout": ("dropout", 1, lambda team: team.loop(training=True)),
    "stateful": ("stateful", 1, lambda team: team.loop(team.after_the_batch_before())),
}


def filled(team):
    """Return the targets with the last one that counts in place of one that does not; -1 before the first."""
    values = np.where(team.mask, np.nan, team.target)
    for h in range(HORIZON):
        before = values[:, h - 1] if h else -1.0
        values[:, h] = np.where(np.isnan(values[:, h]), before, values[:, h])
    return values


@pytest.fixture(scope="module")
def team():
    return Team()


@pytest.fixture(scope="module")
def files(team, tmp_path_factory):
    """Return the model's file, and one of windows with a column for each wrong loop, and for the right one."""
    folder = tmp_path_factory.mktemp("doctor")
    team.model.save(folder / "model.keras")
    right = team.loop()
    gaps = right.copy()
    gaps[3:10, 2] = np.nan
    noise = np.random.default_rng(4).normal(size=right.shape)
    columns = {
        "right": right,
        "gaps": gaps,
        "close": right + 1e-3,
        "noise": right + noise,
        "drift": right * (1 + 0.01 * np.arange(HORIZON)),
    }
    columns |= {name: make(team) for name, (_, _, make) in WRONG.items()}
    write(folder / "windows.parquet", team, columns)
    return folder / "model.keras", folder / "windows.parquet"


def write(path, team, columns, **more):
    floats, flags = pa.list_(pa.float32()), pa.list_(pa.uint8())
    table = {
        "past": pa.array(team.past[:, :, 0].tolist(), floats),
        "target": pa.array(team.target.tolist(), floats),
        "mask": pa.array(team.mask.astype(np.uint8).tolist(), flags),
        **{name: pa.array(np.asarray(values, np.float32).tolist(), floats) for name, values in columns.items()},
        **more,
    }
    pq.write_table(pa.table(table), path)


def doctor(*args):
    """Run the command in this process; return exit code, stdout and stderr."""
    done = CliRunner().invoke(cli, ["doctor", *map(str, args)], standalone_mode=False)
    if isinstance(done.exception, FreerunError):
        return int(done.exception.exit_code), done.stdout, str(done.exception)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value or 0), done.stdout, done.stderr


def examined(files, column, *args):
    code, out, _ = doctor(*files, "--predictions", column, "--trust-model", "--json", *args)
    return code, json.loads(out)


def loss(team, prediction):
    return float(((np.where(team.mask, 0.0, prediction - team.target)) ** 2).mean())


@pytest.mark.parametrize("name", WRONG)
def test_the_mistake_is_named(files, team, name):
    key, step, make = WRONG[name]
    code, found = examined(files, name)
    assert (code, found["fault"], found["first_failing_step"]) == (16, key, step), found["suspects"][:2]
    assert [s["key"] for s in found["suspects"] if s["matches"]] == [key]
    assert len(found["residual_by_step"]) == HORIZON
    assert found["loss_right"] == pytest.approx(loss(team, team.loop()), rel=1e-4)
    if name != "dropout":
        assert found["loss_given"] == pytest.approx(loss(team, make(team)), rel=1e-4)


def test_right_predictions_pass(files):
    code, found = examined(files, "right")
    assert code == 0
    assert (found["fault"], found["first_failing_step"], found["suspects"]) == (None, None, [])
    assert max(found["residual_by_step"]) <= found["allowed"]
    assert (found["windows"], found["failing_windows"], found["left_out"]) == (WINDOWS, 0, 0)
    assert found["loss_given"] == pytest.approx(found["loss_right"], rel=1e-6)
    assert found["schema_version"] == 1


def test_sentences_come_before_the_table(files):
    code, out, _ = doctor(*files, "--predictions", "not_carried", "--trust-model")
    assert code == 16
    lines = out.splitlines()
    assert lines[0].startswith("The predictions are NOT the model's")
    assert any(line.startswith("What was done: Each step began with the encoder's state again") for line in lines)
    assert max(map(len, lines)) <= 100
    assert "first that fails" in next(line for line in lines if line.strip().startswith("2 "))
    code, out, _ = doctor(*files, "--predictions", "right", "--trust-model")
    assert code == 0
    assert out.startswith("The predictions are the model's")


@pytest.mark.parametrize("column", ["noise", "drift"])
def test_what_no_simulated_mistake_makes_is_said_to_be_unknown(files, column):
    code, out, _ = doctor(*files, "--predictions", column, "--trust-model")
    assert code == 16
    assert "None of the mistakes that were simulated makes these numbers" in out


def test_differences_of_another_precision_are_told_apart(files):
    code, found = examined(files, "close")
    assert code == 16
    assert any("another precision" in note for note in found["notes"])


def test_rows_without_predictions_are_left_out_and_counted(files):
    code, found = examined(files, "gaps")
    assert (code, found["windows"], found["left_out"]) == (0, WINDOWS - 7, 7)
    assert any("7 rows without predictions" in note for note in found["notes"])


def test_the_start_may_be_the_last_value_or_stand_in_the_data(files, team, tmp_path):
    last = team.loop(start=team.past[:, -1])
    code, found = examined(files, "start_last", "--start", "last")
    assert (code, found["fault"]) == (0, None)
    write(tmp_path / "own.parquet", team, {"mine": last, "decoder_input": shifted(team.target, team.past[:, -1])})
    code, _ = examined((files[0], tmp_path / "own.parquet"), "mine")
    assert code == 0


def test_a_column_that_is_called_prediction_is_read_too(files, team, tmp_path):
    write(tmp_path / "in.parquet", team, {"prediction": team.loop()})
    code, _ = examined((files[0], tmp_path / "in.parquet"), "prediction")
    assert code == 0


def test_a_model_that_gives_no_numbers_leaves_the_json_readable(files, tmp_path):
    model = keras.models.load_model(files[0])
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save(tmp_path / "nan.keras")
    code, out, _ = doctor(tmp_path / "nan.keras", files[1], "--predictions", "right", "--trust-model", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["first_failing_step"]) == (16, 1)
    assert set(found["residual_by_step"]) == {None}
    assert any("not finite" in note for note in found["notes"])


def test_a_mask_that_excludes_most_steps_is_asked_about(files, team, tmp_path):
    observed = pa.array((~team.mask).astype(np.uint8).tolist(), pa.list_(pa.uint8()))
    write(tmp_path / "in.parquet", team, {"mine": team.loop()}, mask=observed)
    code, found = examined((files[0], tmp_path / "in.parquet"), "mine")
    assert code == 0
    assert any("80% of the steps" in note or "mask is the wrong way round" in note for note in found["notes"])


def test_a_model_that_cannot_be_taken_apart_is_audited_all_the_same(team, tmp_path):
    past, given = keras.Input((CONTEXT, 1)), keras.Input((HORIZON, 1))
    _, *states = layers.LSTM(3, return_state=True)(past)
    x = layers.LSTM(3, return_sequences=True)(given, initial_state=states)
    causal = layers.Conv1D(1, 2, padding="causal", name="mix")(x)
    keras.Model([past, given], causal).save(tmp_path / "mix.keras")
    model = keras.models.load_model(tmp_path / "mix.keras")
    fed = np.full((WINDOWS, HORIZON, 1), -1.0, np.float32)
    for h in range(1, HORIZON):
        fed[:, h] = model.predict_on_batch([team.past, fed])[:, h - 1]
    right = model.predict_on_batch([team.past, fed])[:, :, 0]
    write(tmp_path / "in.parquet", team, {"right": right, "wrong": np.roll(right, 1, axis=1)})
    code, found = examined((tmp_path / "mix.keras", tmp_path / "in.parquet"), "right")
    assert code == 0
    assert found["loss_right"] == pytest.approx(loss(team, right), rel=1e-5)
    code, found = examined((tmp_path / "mix.keras", tmp_path / "in.parquet"), "wrong")
    assert (code, found["fault"], found["suspects"]) == (16, None, [])
    assert any("mix" in note and "no fault could be simulated" in note for note in found["notes"])


class Demo:
    """The demo's windows, and the loop around our own models as export runs it."""

    def __init__(self, folder, models):
        self.table, self.models = pq.read_table(folder), models
        self.past = np.nan_to_num(self.table["past"].combine_chunks().to_numpy_ndarray())
        self.flags = np.array(self.table["past_observed"].to_pylist(), np.float32)
        self.known = self.table["future_known"].combine_chunks().to_numpy_ndarray()

    def loop(self, flags):
        previous, *rest = self.models.encoder.predict_on_batch([self.past, flags])
        states, memory = rest[: len(self.models.states)], rest[len(self.models.states) :]
        ys, y = [], previous[:, :, None]
        for h in range(self.known.shape[1]):
            y, *states = self.models.step.predict_on_batch([y, self.known[:, h : h + 1], *states, *memory])
            ys.append(y[:, 0, 0])
        return np.stack(ys, axis=1)

    def write(self, path, columns):
        table = self.table.rename_columns({"target": "truth"})
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values.tolist(), pa.list_(pa.float32())))
        pq.write_table(table, path)


@pytest.mark.parametrize("scaling", ["none", "standard", "window"])
def test_our_own_models_are_audited(build_models, tmp_path, demo, scaling):
    """Data with decoder_input, past_observed and future_known, whose target is called otherwise."""
    _, models = build_models(scaling=scaling)
    models.training.save(tmp_path / "model.keras")
    data = Demo(demo / "valid", models)
    right = data.loop(data.flags)
    columns = {"right": right, "late": np.roll(right, 1, axis=1), "unflagged": data.loop(np.ones_like(data.flags))}
    data.write(tmp_path / "in.parquet", columns)
    place, called = (tmp_path / "model.keras", tmp_path / "in.parquet"), ("--column", "target=truth")
    assert examined(place, "right", *called)[0] == 0
    code, found = examined(place, "late", *called)
    assert (code, found["fault"]) == (16, "inputs_shifted")
    code, found = examined(place, "unflagged", *called)
    assert code == 16
    assert 0 < found["failing_windows"] <= (data.flags == 0).any(axis=1).sum()  # gaps long ago change nothing
    assert any("only windows with missing steps" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["{model}", "{data}", "--predictions", "right"], 2, "--trust-model"),
        (["{model}", "{data}", "--predictions", "nothing", "--trust-model"], 11, "column 'nothing' is missing"),
        (["none.keras", "{data}", "--predictions", "right", "--trust-model"], 11, "no model at"),
        (["{model}", "none", "--predictions", "right", "--trust-model"], 11, "none"),
        (["{model}", "{data}", "--predictions", "right", "--trust-model", "--target-feature", "3"], 11, "past feature"),
    ],
)
def test_what_cannot_be_audited_is_refused(files, args, code, said):
    given = [arg.format(model=files[0], data=files[1]) for arg in args]
    found, out, err = doctor(*given)
    assert (found, out) == (code, "")
    assert said in err


def test_predictions_that_are_nowhere_are_refused(files, team, tmp_path):
    write(tmp_path / "in.parquet", team, {"mine": np.full((WINDOWS, HORIZON), np.nan)})
    code, _, err = doctor(files[0], tmp_path / "in.parquet", "--predictions", "mine", "--trust-model")
    assert code == 11
    assert "holds no predictions" in err


def test_a_start_that_is_no_number_is_a_usage_error(files):
    done = CliRunner().invoke(cli, ["doctor", *map(str, files), "--predictions", "right", "--start", "first"])
    assert done.exit_code == 2
    assert "expected a number, or last" in done.stderr
