"""Keys of rows as numbers: series and times, whatever Arrow type they have."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from runner.batch import Index
from runner.errors import InputError, explain

Int64 = npt.NDArray[np.int64]
ABSENT = -1
"""The number of a value that is null, or was never numbered."""


@dataclass(slots=True)
class Numbers:
    """Numbers for values of one type, in the order in which they first appear.

    Attributes:
        what: how to call the values in a message.
        known: the values by their number; None before the first.
    """

    what: str
    known: pa.Array | None = field(default=None)

    def __len__(self) -> int:
        return 0 if self.known is None else len(self.known)

    def of(self, column: pa.Array, *, new: bool) -> Index:
        """Return the number of each value [N]; ABSENT for nulls and, unless `new`, for values not seen before.

        Raises:
            InputError: the values are of another type than those before.
        """
        values = plain(column, self.what)
        if self.known is None:
            self.known = values.slice(0, 0)
        if values.type != self.known.type:
            raise InputError(
                explain(
                    f"{self.what} has two types", got=values.type, expected=self.known.type, remedy="cast one of them"
                )
            )
        if new:
            unseen = values.filter(pc.and_(pc.invert(pc.is_in(values, self.known)), values.is_valid())).unique()
            self.known = pa.concat_arrays([self.known, unseen]) if len(unseen) else self.known
        found = pc.fill_null(pc.index_in(values, self.known, skip_nulls=True), ABSENT)
        return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.intp)

    def value(self, number: int) -> object:
        """Return the value that has a number."""
        return None if self.known is None else self.known[number].as_py()


def plain(column: pa.Array, what: str) -> pa.Array:
    """Return a column of keys as text, int64, or times of microseconds, so that equal keys are of equal type.

    Raises:
        InputError: the type is none that can be a key.
    """
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pt.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        return values.cast(pa.string())
    if pt.is_timestamp(kind) or pt.is_date(kind):
        return _instants(values, what)
    if pt.is_integer(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(explain(f"{what} holds what no int64 can", got=error)) from error
    raise InputError(explain(f"{what} cannot be a key", got=kind, expected="text, an integer, a date or a timestamp"))


def _instants(values: pa.Array, what: str) -> pa.Array:
    """Return times in microseconds: those with a zone in UTC, those without as they are."""
    zoned = pt.is_timestamp(values.type) and values.type.tz is not None
    try:
        return values.cast(pa.timestamp("us", "UTC" if zoned else None))
    except pa.ArrowInvalid as error:
        raise InputError(explain(f"{what} does not fit into microseconds", got=error)) from error


def as_int64(values: pa.Array) -> Int64:
    """Return what `plain` made of times or integers as numbers [N]; a null as the smallest there is."""
    numbers = values.cast(pa.int64()) if pt.is_timestamp(values.type) else values
    return np.asarray(pc.fill_null(numbers, np.iinfo(np.int64).min).to_numpy(zero_copy_only=False))


def day_of(values: pa.Array, zone: str | None) -> pa.Array:
    """Return the date, where the forecaster lives, of each origin [N]; integers stay as they are.

    Args:
        values: what `plain` made of the origins.
        zone: their time zone; None where they have none.
    """
    if not pt.is_timestamp(values.type):
        return values
    local = pc.local_timestamp(values.cast(pa.timestamp("us", zone))) if zone else values
    return local.cast(pa.date32(), safe=False)
