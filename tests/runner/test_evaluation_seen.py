"""What has been counted is remembered exactly, however it is cut into calls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.evaluation.seen import Seen

CELLS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 129)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.lists(CELLS, max_size=8))
def test_a_cell_is_new_once_and_every_window_is_counted_once(calls):
    seen, known = Seen(130), set()
    for cells in calls:
        expected = []
        for cell in cells:
            expected.append(cell in known)
            known.add(cell)
        window, step = (np.array([cell[axis] for cell in cells], np.int64) for axis in (0, 1))
        assert seen.add(window, step).tolist() == expected
    assert seen.windows == len({window for window, _ in known})


@pytest.mark.parametrize("horizon", [1, 24, 64, 65])
def test_memory_is_a_word_for_64_steps_of_a_window_and_runs_stay_few(horizon):
    seen = Seen(horizon)
    for night in range(64):
        window = np.repeat(np.arange(night * 10, night * 10 + 10), horizon)
        assert not seen.add(window, np.tile(np.arange(horizon), 10)).any()
    assert sum(len(run.words) for run in seen.runs) == 640 * -(-horizon // 64)
    assert len(seen.runs) <= 10
    assert seen.windows == 640
