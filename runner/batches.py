"""Cut the good rows of consecutive blocks into batches of one size, and have threads decode them.

A batch may span blocks and files, so ten thousand small files keep the threads as busy as a large one. Rows do not
influence each other, so no number depends on how they were put together.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field

import numpy as np

from runner.batch import F32, Index, WindowBatch, join
from runner.decode import Loop

CHECK_SECONDS = 0.2
"""How long a request to stop may go unnoticed while a batch is decoded."""


@dataclass(slots=True)
class _Batch:
    """Rows that are decoded together: collected first, then handed to a thread.

    Attributes:
        pieces: batches without rejects, in order.
        rows: how many they are together.
        future: predictions [rows, cells] and the seconds that they took; None while rows are collected.
    """

    pieces: list[WindowBatch] = field(default_factory=list)
    rows: int = 0
    future: Future[tuple[F32, float]] | None = None


@dataclass(slots=True)
class BatchQueue:
    """Batches in the making; to be used from one thread.

    Attributes:
        loop: decodes a batch.
        executor: whose threads do it.
        batch_size: windows in one batch; the last one is filled up to it with copies, so that graphs see one shape.
        cells: numbers of a window's forecast, H * M.
        teacher: feed the teacher's input instead of the last prediction.
        check: called now and then by who waits for a forecast; may raise.
    """

    loop: Loop
    executor: Executor
    batch_size: int
    cells: int
    teacher: bool
    check: Callable[[], None] = lambda: None
    current: _Batch = field(default_factory=_Batch)

    def add(self, windows: WindowBatch) -> "Forecast":
        """Queue the good rows of a block; whenever a batch is full, a thread begins with it."""
        good, inputs = windows.good_rows(), windows.for_graphs(teacher=self.teacher)
        pieces: list[_Piece] = []
        while len(good):
            if self.current.pieces and self.current.pieces[0].columns() != inputs.columns():
                self.flush()
            batch = self.current
            rows, good = np.split(good, [self.batch_size - batch.rows])
            pieces.append(_Piece(rows, batch, batch.rows))
            batch.pieces.append(inputs.take(_as_slice(rows)))
            batch.rows += len(rows)
            if batch.rows == self.batch_size:
                self.flush()
        return Forecast((len(windows), self.cells), pieces, self)

    def flush(self) -> None:
        """Hand over what has been collected, full or not."""
        batch, self.current = self.current, _Batch()
        if batch.rows:
            batch.future = self.executor.submit(self._decode, batch)

    def _decode(self, batch: _Batch) -> tuple[F32, float]:
        started = time.perf_counter()
        windows = join(batch.pieces)
        if batch.rows < self.batch_size:
            windows = windows.take(np.resize(np.arange(batch.rows), self.batch_size))
        found = self.loop(windows, self.teacher)[: batch.rows]
        batch.pieces.clear()
        return found, time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where some rows of a block are: their positions in the block, and from where on in which batch."""

    rows: Index
    batch: _Batch
    offset: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """A block's forecast in the making.

    Attributes:
        shape: rows of the block, and the numbers of a window's forecast.
        pieces: where its good rows went.
        queue: what to flush where a batch still waits for more rows.
    """

    shape: tuple[int, int]
    pieces: list[_Piece]
    queue: BatchQueue

    def result(self) -> tuple[F32, float]:
        """Wait for it.

        Returns:
            Predictions in raw units [B, H * M], 0 in the rows of rejects; and the seconds that threads spent on the
            batches which begin in this block.
        """
        prediction, seconds = np.zeros(self.shape, np.float32), 0.0
        for piece in self.pieces:
            if piece.batch.future is None:
                self.queue.flush()
            assert piece.batch.future is not None, "flush hands over every batch that has rows"  # noqa: S101
            while not piece.batch.future.done():
                wait([piece.batch.future], timeout=CHECK_SECONDS)
                self.queue.check()
            found, spent = piece.batch.future.result()
            prediction[piece.rows] = found[piece.offset : piece.offset + len(piece.rows)]
            seconds += 0.0 if piece.offset else spent
        return prediction, seconds


def _as_slice(rows: Index) -> Index | slice:
    """Return the rows as a slice where they follow one another: taking it copies nothing."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows
