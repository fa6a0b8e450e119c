"""What a training wants of its data, whatever a row of it is."""

from collections.abc import Iterator
from typing import Protocol

from runner.batch import WindowBatch
from runner.schema import Sizes


class TrainingWindows(Protocol):
    """Windows that can be read again and again.

    Attributes:
        place: where the data is, for messages.
        sizes: what all windows have.
        flagged: the data says which context steps are there (`past_observed`).
        signature: changes with the data.
        stride: steps from one window to the next, where that is known; else 1, the least that it can be.
    """

    @property
    def place(self) -> str: ...
    @property
    def sizes(self) -> Sizes: ...
    @property
    def flagged(self) -> bool: ...
    @property
    def signature(self) -> str: ...
    @property
    def stride(self) -> int: ...

    def blocks(self) -> Iterator[WindowBatch]:
        """Yield all windows in the order of the data, rejects and those without a target included."""

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[WindowBatch]:
        """Yield what is trainable once each, in full batches, in an order that depends on seed and epoch alone."""


def trainable(block: WindowBatch) -> WindowBatch:
    """Return the rows that have nothing wrong with them, and a target."""
    rows = block.good_rows()
    return block.take(rows[block.has_target[rows]])


def portions(batch: WindowBatch, size: int) -> Iterator[WindowBatch]:
    """Yield a batch in order, at most so many rows at once."""
    for start in range(0, len(batch), size):
        yield batch.take(slice(start, start + size))
