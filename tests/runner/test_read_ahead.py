"""What is read ahead comes in its order, never too far ahead, and ends in its own thread however it is left."""

import itertools
import threading

import pytest

from runner.engines.local import read_ahead


class Source:
    """Items that tell how many were made, by which threads, and by which one they were ended."""

    def __init__(self, count=None, error=None):
        self.count, self.error, self.made, self.threads, self.ended_in = count, error, 0, set(), None
        self.condition = threading.Condition()

    def items(self):
        self.threads.add(threading.current_thread())
        try:
            for number in itertools.count() if self.count is None else range(self.count):
                with self.condition:
                    self.made += 1
                    self.condition.notify_all()
                yield number
            if self.error:
                raise self.error
        finally:
            self.ended_in = threading.current_thread()

    def wait_for(self, made):
        with self.condition:
            return self.condition.wait_for(lambda: self.made >= made, timeout=10)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_everything_comes_in_its_order_and_is_made_by_one_other_thread(count, ahead):
    source = Source(count)
    assert list(read_ahead(source.items(), ahead)) == list(range(count))
    assert source.threads.isdisjoint({threading.main_thread()})
    assert source.ended_in in source.threads


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_next_ones_are_made_unasked_and_never_more_than_so_many(ahead):
    source = Source()
    items = read_ahead(source.items(), ahead)
    for taken in range(1, 20):
        next(items)
        assert source.made <= taken + ahead
    assert source.wait_for(19 + ahead - 1)
    items.close()
    assert source.made <= 19 + ahead


def test_nothing_is_made_before_it_is_asked_for():
    source = Source()
    items = read_ahead(source.items(), 3)
    assert source.made == 0
    items.close()
    assert source.made == 0


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_error_is_raised_in_its_turn_and_only_once(count, ahead):
    items = read_ahead(Source(count, ValueError("in its turn")).items(), ahead)
    assert [next(items) for _ in range(count)] == list(range(count))
    with pytest.raises(ValueError, match="in its turn"):
        next(items)
    assert list(items) == []


@pytest.mark.parametrize("taken", [1, 2, 7])
def test_leaving_early_ends_the_items_in_their_own_thread_before_it_returns(taken):
    source = Source()
    items = read_ahead(source.items(), 3)
    for _ in range(taken):
        next(items)
    items.close()
    assert source.ended_in in source.threads
    assert source.ended_in is not threading.main_thread()
    assert not source.ended_in.is_alive()


def test_an_error_of_the_taker_ends_the_items_too():
    source = Source()

    def take():
        for number in read_ahead(source.items(), 3):
            if number == 4:
                raise KeyError(number)

    with pytest.raises(KeyError):
        take()
    assert source.wait_for(5)


def test_what_the_end_of_the_items_raises_is_not_lost():
    def items():
        try:
            yield from range(10)
        finally:
            raise OSError("the file cannot be closed")

    taken = read_ahead(items(), 2)
    next(taken)
    with pytest.raises(OSError, match="cannot be closed"):
        taken.close()


def test_a_stop_iteration_inside_the_items_is_an_error_and_no_quiet_end():
    def items():
        yield 1
        next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(read_ahead(items(), 2))
