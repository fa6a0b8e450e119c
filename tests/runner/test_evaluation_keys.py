"""Keys become numbers whatever Arrow type they have, and equal keys equal ones."""

from datetime import date, datetime

import pyarrow as pa
import pytest

from runner.errors import InputError
from runner.evaluation.keys import ABSENT, Numbers, plain


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["b", "a", None, "b"]),
        pa.array(["b", "a", None, "b"], pa.large_string()),
        pa.array(["b", "a", None, "b"]).dictionary_encode(),
        pa.array([7, -1, None, 7], pa.int8()),
        pa.array([date(2016, 7, 2), date(2016, 7, 1), None, date(2016, 7, 2)]),
        pa.chunked_array([["b", "a"], [None, "b"]]),
    ],
    ids=str,
)
def test_values_are_numbered_in_the_order_of_their_first_appearance(column):
    numbers = Numbers("key")
    assert numbers.of(column, new=True).tolist() == [0, 1, ABSENT, 0]
    assert numbers.of(column, new=False).tolist() == [0, 1, ABSENT, 0]
    assert len(numbers) == 2


def test_what_is_not_known_has_no_number_unless_it_is_new():
    numbers = Numbers("key")
    numbers.of(pa.array(["a"]), new=True)
    assert numbers.of(pa.array(["b", "a"]), new=False).tolist() == [ABSENT, 0]
    assert numbers.of(pa.array(["b", "a"]), new=True).tolist() == [1, 0]
    assert numbers.value(1) == "b"


def test_a_date_is_its_midnight():
    moments = plain(pa.array([datetime(2016, 7, 1)], pa.timestamp("s")), "ds")  # noqa: DTZ001  (it has no zone)
    assert plain(pa.array([date(2016, 7, 1)]), "ds").equals(moments)


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (pa.array([1.5]), "cannot be a key"),
        (pa.array([[1]]), "cannot be a key"),
        (pa.array([2**63], pa.uint64()), "no int64"),
        (pa.array([1], pa.timestamp("ns")), "microseconds"),
    ],
)
def test_what_cannot_be_a_key_is_refused(column, named):
    with pytest.raises(InputError, match=named):
        Numbers("key").of(column, new=True)


def test_keys_of_two_types_are_refused():
    numbers = Numbers("unique_id")
    numbers.of(pa.array(["1"]), new=True)
    with pytest.raises(InputError, match="unique_id has two types"):
        numbers.of(pa.array([1]), new=False)
