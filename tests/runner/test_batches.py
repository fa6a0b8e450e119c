"""Good rows of any blocks are decoded in batches of one size, and every forecast comes back to its own row."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.batch import WindowBatch, reason_code
from runner.batches import BatchQueue

C, H = 3, 2
BAD = reason_code("past_not_finite")


class Loop:
    """A loop that forecasts a row by its own number, and writes down every batch that it is given."""

    def __init__(self):
        self.batches, self.lock = [], threading.Lock()

    def __call__(self, batch, teacher):
        with self.lock:
            self.batches.append((batch, teacher))
        return self.forecast(batch.past[:, 0, 0])

    @staticmethod
    def forecast(numbers):
        return np.stack([numbers, numbers + 0.5], axis=1).astype(np.float32)

    def sizes(self):
        return [len(batch) for batch, _ in self.batches]


def block(numbers, bad=(), **changes):
    """Return windows that carry these numbers; a reject's numbers are not finite, so that no loop may see them."""
    rows = len(numbers)
    reasons = np.zeros(rows, np.uint8)
    reasons[list(bad)] = BAD
    past = np.repeat(np.asarray(numbers, np.float32), C).reshape(rows, C, 1)
    past[list(bad)] = np.nan
    made = WindowBatch(
        past=past,
        past_observed=np.ones((rows, C), np.float32),
        future_known=past[:, :H],
        target=past[:, :H, 0].astype(float),
        observed=np.ones((rows, H), bool),
        decoder_input=None,
        has_target=np.ones(rows, bool),
        reasons=reasons,
    )
    return replace(made, **changes)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def queue_of(loop, pool, batch_size=4, *, teacher=False):
    return BatchQueue(loop, pool, batch_size, H, teacher)


blocks_of_rows = st.lists(st.lists(st.booleans(), max_size=9), max_size=8)
"""Blocks, each a list of rows: True = a good one."""


@settings(max_examples=150, deadline=None)
@given(blocks_of_rows, st.integers(1, 11), st.integers(1, 3), st.booleans(), st.randoms(use_true_random=False))
def test_every_forecast_comes_back_to_its_row_whatever_the_blocks(rows, batch_size, workers, teacher, draw):
    loop, asked, start = Loop(), [], 1
    with ThreadPoolExecutor(workers) as pool:
        queue = queue_of(loop, pool, batch_size, teacher=teacher)
        for good in rows:
            numbers = np.arange(start, start + len(good))
            start += len(good)
            bad = [index for index, fine in enumerate(good) if not fine]
            asked.append((queue.add(block(numbers, bad)), Loop.forecast(numbers), bad))
        draw.shuffle(asked)
        for forecast, expected, bad in asked:
            expected[bad] = 0
            found, seconds = forecast.result()
            assert (found.dtype, found.tobytes()) == (np.float32, expected.tobytes())
            assert seconds >= 0
    good = sum(map(sum, rows))
    assert set(loop.sizes()) <= {batch_size}
    assert {flag for _, flag in loop.batches} <= {teacher}
    assert all(np.isfinite(batch.past).all() and not batch.reasons.any() for batch, _ in loop.batches)
    seen = sorted(set(np.concatenate([batch.past[:, 0, 0] for batch, _ in loop.batches]).tolist()) if good else [])
    assert len(seen) == good


@settings(max_examples=60, deadline=None)
@given(blocks_of_rows, st.integers(1, 11))
def test_no_batch_but_the_last_is_padded_while_blocks_keep_coming(rows, batch_size):
    loop = Loop()
    with ThreadPoolExecutor(1) as pool:
        queue = queue_of(loop, pool, batch_size)
        forecasts = [
            queue.add(block(np.arange(len(good)), [i for i, fine in enumerate(good) if not fine])) for good in rows
        ]
        for forecast in forecasts:
            forecast.result()
    assert len(loop.batches) == -(-sum(map(sum, rows)) // batch_size)


def test_a_batch_takes_rows_of_several_blocks_in_their_order(loop, pool):
    queue = queue_of(loop, pool)
    forecasts = [queue.add(block(numbers)) for numbers in ([1], [2, 3], [4, 5, 6])]
    assert [forecast.result()[0][:, 0].tolist() for forecast in forecasts] == [[1], [2, 3], [4, 5, 6]]
    assert [batch.past[:, 0, 0].tolist() for batch, _ in loop.batches] == [[1, 2, 3, 4], [5, 6, 5, 6]]


def test_a_full_batch_is_begun_before_anybody_asks_for_it(pool):
    begun = threading.Event()

    def loop(batch, _teacher):
        begun.set()
        return Loop.forecast(batch.past[:, 0, 0])

    queue_of(loop, pool).add(block([1, 2, 3, 4]))
    assert begun.wait(10)


def test_all_columns_of_a_row_stay_together(loop, pool):
    queue = queue_of(loop, pool, teacher=True)
    for numbers, bad in (([1, 2, 3], [1]), ([4, 5, 6, 7], [0, 3])):
        queue.add(block(numbers, bad, decoder_input=np.outer(numbers, [1, 1]).astype(np.float32)))
    queue.flush()
    pool.shutdown()
    ((batch, _),) = loop.batches
    assert batch.past[:, 0, 0].tolist() == [1, 3, 5, 6]
    for name in ("future_known", "target", "decoder_input"):
        values = getattr(batch, name)
        assert (values.reshape(4, -1) == batch.past[:, :1, 0]).all(), name
    assert batch.past_observed.shape == (4, C)


def test_free_running_the_loop_never_sees_the_truth(loop, pool):
    queue_of(loop, pool).add(block([1, 2], decoder_input=np.ones((2, H), np.float32))).result()
    ((batch, teacher),) = loop.batches
    assert (batch.target, batch.observed, batch.decoder_input, teacher) == (None, None, None, False)


@pytest.mark.parametrize("name", ["past_observed", "future_known", "target"])
def test_blocks_with_other_columns_are_decoded_apart(loop, pool, name):
    queue = queue_of(loop, pool, teacher=True)
    gone = {"target": None, "observed": None, "decoder_input": np.ones((3, H), np.float32)}
    bare = block([3, 4, 5], **(gone if name == "target" else {name: None}))
    forecasts = [queue.add(part) for part in (block([1, 2]), bare, block([6]))]
    assert [forecast.result()[0][:, 0].tolist() for forecast in forecasts] == [[1, 2], [3, 4, 5], [6]]
    seen = sorted((set(batch.past[:, 0, 0].tolist()) for batch, _ in loop.batches), key=min)
    assert seen == [{1, 2}, {3, 4, 5}, {6}]
    assert loop.sizes() == [4] * 3


@pytest.mark.parametrize(("rows", "bad"), [(0, []), (5, range(5))], ids=["empty", "rejects only"])
def test_a_block_without_good_rows_never_reaches_a_thread_or_the_loop(loop, pool, rows, bad, monkeypatch):
    queue = queue_of(loop, pool)
    with monkeypatch.context() as patched:
        patched.setattr(pool, "submit", lambda *_: pytest.fail("a thread was asked"))
        found, seconds = queue.add(block(np.arange(rows), bad)).result()
        queue.flush()
    assert (found.tolist(), found.shape, seconds) == (np.zeros((rows, H)).tolist(), (rows, H), 0)
    assert loop.batches == []
    before = queue.add(block([7, 8]))
    queue.add(block(np.arange(rows), bad))
    assert before.result()[0][:, 0].tolist() == [7, 8]
    assert len(loop.batches) == 1


def test_an_error_of_the_loop_is_raised_by_the_blocks_it_hit_and_by_no_other(pool):
    def loop(batch, _teacher):
        if 3 in batch.past[:, 0, 0]:
            raise RuntimeError("the third row")
        return Loop.forecast(batch.past[:, 0, 0])

    queue = queue_of(loop, pool, 2)
    forecasts = [queue.add(block(numbers)) for numbers in ([1, 2], [3], [4], [5, 6])]
    assert forecasts[0].result()[0][:, 0].tolist() == [1, 2]
    for hit in forecasts[1:3]:
        with pytest.raises(RuntimeError, match="the third row"):
            hit.result()
    assert forecasts[3].result()[0][:, 0].tolist() == [5, 6]


def test_the_seconds_of_all_blocks_are_those_of_all_batches_none_twice(loop, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("runner.batches.time.perf_counter", lambda: next(clock))
    serial = ThreadPoolExecutor(1)
    queue = queue_of(loop, serial, 4)
    forecasts = [queue.add(block(np.arange(size))) for size in (1, 9, 3, 2, 6)]
    total = sum(forecast.result()[1] for forecast in forecasts)
    assert total == len(loop.batches) == 6
    serial.shutdown()


def test_a_result_may_be_asked_for_twice(loop, pool):
    forecast = queue_of(loop, pool).add(block([1, 2]))
    assert forecast.result()[0].tobytes() == forecast.result()[0].tobytes()
    assert len(loop.batches) == 1


def test_who_waits_for_a_forecast_can_be_called_off(loop, pool):
    go_on = threading.Event()

    def stuck(batch, teacher):
        go_on.wait(60)
        return loop(batch, teacher)

    def check():
        raise InterruptedError("called off")

    forecast = BatchQueue(stuck, pool, 2, H, teacher=False, check=check).add(block([1, 2]))
    with pytest.raises(InterruptedError, match="called off"):
        forecast.result()
    go_on.set()
