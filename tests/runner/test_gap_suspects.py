"""Wrong loops, written down one by one around a small network, must be named by what was done in them."""

import dataclasses

import numpy as np
import pytest

from runner.batch import WindowBatch
from runner.gap.case import Alternative, tolerance
from runner.gap.machine import Encoded, Machine
from runner.gap.suspects import Undone, examine, undone

WINDOWS, CONTEXT, HORIZON, UNITS = 40, 6, 5, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Lstm:
    def __init__(self, width, rng):
        self.kernel = rng.normal(size=(width + UNITS, 4 * UNITS)) * 0.9

    def __call__(self, x, h, c):
        i, f, g, o = np.split(np.concatenate([x, h], axis=1) @ self.kernel, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c


class Net:
    """Two layers over one past feature; a covariate in the decoder; forecasts around 20, with a deviation near 1."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.encoder = [Lstm(1, rng), Lstm(UNITS, rng)]
        self.decoder = [Lstm(2, rng), Lstm(UNITS, rng)]
        self.dense = rng.normal(size=(UNITS, 1)) * 3
        self.past = (20 + rng.normal(size=(WINDOWS, CONTEXT, 1))).astype(np.float32)
        self.future = rng.normal(size=(WINDOWS, HORIZON, 1)).astype(np.float32)
        self.target = 20 + rng.normal(size=(WINDOWS, HORIZON))
        self.observed = rng.random((WINDOWS, HORIZON)) < 0.9

    def encode(self, past):
        states = []
        sequence = list(np.moveaxis(past - 20, 1, 0))
        for layer in self.encoder:
            h = c = np.zeros((len(past), UNITS))
            for t, x in enumerate(sequence):
                h, c = layer(x, h, c)
                sequence[t] = h
            states += [h, c]
        return states

    def step(self, previous, known, states):
        x, after = np.concatenate([previous - 20, known], axis=1), []
        for layer, h, c in zip(self.decoder, states[::2], states[1::2], strict=True):
            x, cell = layer(x, h, c)
            after += [x, cell]
        return x @ self.dense + 20, after

    def batch(self):
        return WindowBatch(
            past=self.past,
            past_observed=None,
            future_known=self.future,
            target=np.where(self.observed, self.target, 0.0),
            observed=self.observed,
            decoder_input=None,
            has_target=np.ones(WINDOWS, bool),
            reasons=np.zeros(WINDOWS, np.uint8),
        )

    def machine(self, start=-1.0, step=None):
        names = ("hidden", "cell", "hidden_1", "cell_1")

        def floats(states):
            return {name: state.astype(np.float32) for name, state in zip(names, states, strict=True)}

        def encode(batch):
            return Encoded(np.full((len(batch), 1), start, np.float32), floats(self.encode(batch.past)), {})

        def once(previous, future, state, _memory):
            y, after = (step or self.step)(previous, future[:, 0], [state[name] for name in names])
            return y.astype(np.float32), floats(after)

        return Machine(encode, once, (names[:2], names[2:]), HORIZON)

    def loop(
        self,
        start=-1.0,
        inputs=None,
        begin=lambda s: s,
        carry=lambda after, _: after,
        feed=lambda ys: ys[-1],
        future=None,
    ):
        """Run a loop as somebody writes it who makes the mistake that the arguments are."""
        future = self.future if future is None else future
        first = states = begin(self.encode(self.past))
        previous, ys = np.zeros((WINDOWS, 1)) + start, []
        for h in range(HORIZON):
            y, after = self.step(previous if inputs is None else inputs[:, h : h + 1], future[:, h], states)
            ys.append(y)
            states, previous = carry(after, first), feed(ys)
        return np.concatenate(ys, axis=1).astype(np.float32)


def swap(states, _=None):
    h, c, h1, c1 = states
    return [c, h, c1, h1]


def zeros(states, _=None):
    return [np.zeros_like(state) for state in states]


def shifted(values, start=-1.0):
    return np.concatenate([np.full((WINDOWS, 1), start), values[:, :-1]], axis=1)


def carried(net):
    """Return the teacher's inputs, the last target that counts standing in for one that does not."""
    values = np.full((WINDOWS, HORIZON), -1.0)
    for row in range(WINDOWS):
        for h in range(1, HORIZON):
            values[row, h] = net.target[row, h - 1] if net.observed[row, h - 1] else values[row, h - 1]
    return values


WRONG = {
    "swapped once": ("states_swapped", lambda net: net.loop(begin=swap)),
    "layers exchanged": ("states_swapped", lambda net: net.loop(begin=lambda s: [*s[2:], *s[:2]])),
    "hidden states first": ("states_swapped", lambda net: net.loop(begin=lambda s: [s[0], s[2], s[1], s[3]])),
    "swapped on the way back": ("states_swapped_each_step", lambda net: net.loop(carry=swap)),
    "swapped everywhere": ("states_swapped_each_step", lambda net: net.loop(begin=swap, carry=swap)),
    "cell reset": (
        "cell_reset",
        lambda net: net.loop(carry=lambda after, _: [after[0], 0 * after[1], after[2], 0 * after[3]]),
    ),
    "cell of the encoder": (
        "cell_reset",
        lambda net: net.loop(carry=lambda after, first: [after[0], first[1], after[2], first[3]]),
    ),
    "hidden reset": (
        "state_not_carried",
        lambda net: net.loop(carry=lambda after, _: [0 * after[0], after[1], 0 * after[2], after[3]]),
    ),
    "encoder's state again": ("state_not_carried", lambda net: net.loop(carry=lambda _, first: first)),
    "zeros again": ("state_not_carried", lambda net: net.loop(carry=zeros)),
    "zeros from the start": ("state_not_carried", lambda net: net.loop(begin=zeros, carry=zeros)),
    "no state of the encoder": ("state_not_carried", lambda net: net.loop(begin=zeros)),
    "start 0": ("start_value", lambda net: net.loop(start=0.0)),
    "start 2.345": ("start_value", lambda net: net.loop(start=2.345)),
    "start 19.5": ("start_value", lambda net: net.loop(start=19.5)),
    "start last": ("start_value", lambda net: net.loop(start=net.past[:, -1])),
    "start mean": ("start_value", lambda net: net.loop(start=net.past.mean(axis=1))),
    "never fed back": ("not_fed_back", lambda net: net.loop(inputs=np.full((WINDOWS, HORIZON), -1.0))),
    "zeros fed": ("not_fed_back", lambda net: net.loop(inputs=np.zeros((WINDOWS, HORIZON)))),
    "teacher-forced": ("teacher_forced", lambda net: net.loop(inputs=carried(net))),
    "teacher-forced, 0 where excluded": (
        "teacher_forced",
        lambda net: net.loop(inputs=shifted(np.where(net.observed, net.target, 0.0))),
    ),
    "two steps late": (
        "inputs_shifted",
        lambda net: net.loop(feed=lambda ys: ys[-2] if len(ys) > 1 else ys[-1] * 0 - 1),
    ),
    "covariates late": ("inputs_shifted", lambda net: net.loop(future=net.future[:, [0, 0, 1, 2, 3]])),
    "covariates early": ("inputs_shifted", lambda net: net.loop(future=net.future[:, [1, 2, 3, 4, 4]])),
    "column late": ("inputs_shifted", lambda net: shifted(net.loop(), 7.0)),
    "column early": ("inputs_shifted", lambda net: np.roll(net.loop(), -1, axis=1)),
    "not unscaled": ("scaling_dropped", lambda net: (net.loop() - 20) / 4),
    "not unscaled, by window": (
        "scaling_dropped",
        lambda net: (net.loop() - net.past[:, -1]) / net.past.std(axis=1),
    ),
}


@pytest.fixture(scope="module")
def net():
    return Net()


def judged(net, given, **settings):
    chosen = {"teacher": None, "scale": 1.0, **settings}
    return examine(net.machine(), net.batch(), given.astype(np.float32), **chosen)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loop_is_named(net, name):
    key, make = WRONG[name]
    found = judged(net, make(net))
    assert (found[0].key, found[0].matches) == (key, True)
    assert [suspect.key for suspect in found if suspect.matches] == [key]


def test_of_a_right_loop_nothing_is_said(net):
    assert not any(suspect.matches for suspect in judged(net, net.loop()))


def test_noise_is_none_of_the_faults(net):
    found = judged(net, net.loop() + np.random.default_rng(0).normal(size=(WINDOWS, HORIZON)) * 0.01)
    assert not any(suspect.matches for suspect in found)
    assert [suspect.difference for suspect in found] == sorted(suspect.difference for suspect in found)


@pytest.mark.parametrize("constant", [0.0, 20.0])
def test_a_constant_column_is_no_forecast_in_other_units(net, constant):
    assert not any(suspect.matches for suspect in judged(net, np.full((WINDOWS, HORIZON), constant)))


def test_the_last_value_repeated_is_no_forecast_in_other_units(net):
    assert not any(suspect.matches for suspect in judged(net, np.repeat(net.past[:, -1], HORIZON, axis=1)))


def test_the_start_value_that_was_used_is_told(net):
    assert "was 2.345, not -1" in judged(net, net.loop(start=2.345))[0].said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda right: right + 0.5, "but +0.5 was added to each"),
        (lambda right: right * 4, "each is 4 times the right one; unscale"),
        (lambda right: right * 4 - 80, "each is 4 times the right one, less 80; unscale"),
    ],
)
def test_other_units_are_told_as_what_was_done_to_the_forecasts(net, given, said):
    found = judged(net, given(net.loop().astype(np.float64)))[0]
    assert (found.key, found.matches) == ("scaling_dropped", True)
    assert said in found.said


@pytest.mark.filterwarnings("error:overflow encountered in (cast|subtract):RuntimeWarning")
def test_forecasts_at_the_end_of_float32_are_none_of_the_faults(net):
    huge = np.random.default_rng(0).uniform(-3e38, 3e38, (WINDOWS, HORIZON))
    found = judged(net, huge)
    assert not any(suspect.matches for suspect in found)
    assert min(suspect.difference for suspect in found) > 1e37


TEACHER_FORCED = {
    "swapped once": ("states_swapped", {"begin": swap}),
    "encoder's state again": ("state_not_carried", {"carry": lambda _, first: first}),
    "covariates late": ("inputs_shifted", {"future": "late"}),
}


@pytest.mark.parametrize("name", TEACHER_FORCED)
def test_a_wrong_loop_is_named_teacher_forced_too(net, name):
    key, settings = TEACHER_FORCED[name]
    late = net.future[:, [0, 0, 1, 2, 3]]
    given = net.loop(inputs=carried(net), **{k: late if v == "late" else v for k, v in settings.items()})
    found = judged(net, given, teacher=carried(net).astype(np.float32))
    assert (found[0].key, found[0].matches) == (key, True)


def test_teacher_forcing_by_the_target_of_the_step_itself_and_of_two_before(net):
    teacher = carried(net).astype(np.float32)
    last = np.where(net.observed, net.target, 0.0)[:, -1:]
    current = net.loop(inputs=np.concatenate([teacher[:, 1:], last], axis=1))
    before = net.loop(inputs=shifted(teacher))
    for given, word in ((current, "very step"), (before, "one step too late")):
        found = judged(net, given, teacher=teacher)[0]
        assert (found.key, found.matches) == ("inputs_shifted", True)
        assert word in found.said


def test_other_alternatives_are_compared_too(net):
    given = net.loop() + 0.5 * net.future[:, :, 0]
    other = Alternative("mine", "It was me.", np.where(np.arange(HORIZON) == 2, np.nan, given).astype(np.float32))
    found = judged(net, given, extra=[other])
    assert (found[0].key, found[0].said, found[0].matches) == ("mine", "It was me.", True)


def test_what_claims_nothing_never_matches(net):
    nothing = Alternative("mine", "It was me.", np.full((WINDOWS, HORIZON), np.nan, np.float32))
    found = judged(net, net.loop(begin=swap), extra=[nothing])
    assert [s.difference for s in found if s.key == "mine"] == [np.inf]


def test_forecasts_of_a_high_level_may_differ_by_a_few_steps_of_float32():
    assert tolerance(1.0, 1.0) == 1e-5
    assert tolerance(101_325.0, 200.0) == pytest.approx(4 * 0.0078125 / 200)


def loss_of(net, prediction, observed=None):
    observed = net.observed if observed is None else observed
    return float((np.where(observed, prediction - net.target, 0.0) ** 2).mean())


def taken_back(found, key):
    return [entry.masked_mse for entry in found if entry.key == key]


@pytest.mark.parametrize("teacher", [True, False])
def test_undoing_what_undoes_itself_gives_the_right_loss(net, teacher):
    right = loss_of(net, net.loop(inputs=carried(net)) if teacher else net.loop())
    once = net.machine()
    once = dataclasses.replace(once, encode=lambda batch: swapped_names(net.machine().encode(batch)))
    found = undone(once, net.batch(), teacher=teacher)
    assert any(loss == pytest.approx(right, rel=1e-5) for loss in taken_back(found, "states_swapped"))

    def returning_swapped(previous, known, states):
        y, after = net.step(previous, known, states)
        return y, swap(after)

    found = undone(net.machine(step=returning_swapped), net.batch(), teacher=teacher)
    assert any(loss == pytest.approx(right, rel=1e-5) for loss in taken_back(found, "states_swapped_each_step"))
    start = np.full((WINDOWS, 1), -1.0, np.float32)
    found = undone(net.machine(start=0.0), net.batch(), teacher=teacher, start=start)
    assert taken_back(found, "start_value") == [pytest.approx(right, rel=1e-5)]


def swapped_names(encoded):
    h, c, h1, c1 = encoded.state.values()
    return dataclasses.replace(encoded, state=dict(zip(encoded.state, [c, h, c1, h1], strict=True)))


def test_a_mask_read_the_other_way_round_is_scored_on_its_own_cells(net):
    turned = dataclasses.replace(net.batch(), target=net.target, observed=~net.observed)
    found = undone(net.machine(), net.batch(), teacher=False, turned=turned)
    assert taken_back(found, "mask_inverted") == [pytest.approx(loss_of(net, net.loop(), ~net.observed), rel=1e-5)]
    assert all(isinstance(entry, Undone) for entry in found)


def test_a_right_start_value_is_not_undone(net):
    found = undone(net.machine(), net.batch(), teacher=True, start=np.full((WINDOWS, 1), -1.0, np.float32))
    assert not taken_back(found, "start_value")
