"""Write one part: the copied columns, the forecasts, the reasons, and a footer that tells who made it of what."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from runner.batch import F32, GOOD, REASONS, Bool
from runner.disk import NewFile
from runner.parts import BLANK, FOOTER_END, Part, digest_offset, footer_of, footer_size
from runner.storage import OutputFolder

BLOCKS_PER_ROW_GROUP = 8
ROW_GROUP_BYTES = 16 << 20
"""A row group ends earlier where its blocks take more than this in memory."""
REASON = pa.field("reject_reason", pa.string())
BUNDLE = pa.field("bundle_id", pa.dictionary(pa.int32(), pa.string()))
SOURCE = pa.field("source", pa.dictionary(pa.int32(), pa.string()))
MODEL = "model"
"""The source of a forecast that no fallback made."""


class Form(Protocol):
    """What the rows of a part look like."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns."""

    @property
    def rows_a_window(self) -> int:
        """Return how many rows tell of one window."""

    def rows(
        self, keys: pa.RecordBatch, prediction: F32, reasons: npt.NDArray[np.uint8], filled: Bool
    ) -> pa.RecordBatch:
        """Make the rows of a block.

        Args:
            keys: what they are made of beside the forecasts [B].
            prediction: forecasts in raw units [B, H * M]; null where a reason stands, unless they were filled.
            reasons: codes into REASONS [B].
            filled: True = a fallback made the forecast [B].
        """


@dataclass(frozen=True, slots=True)
class WindowForm:
    """A row is a window: the input's columns, its forecast as a list, its reason, and who made it.

    Attributes:
        copied: the fields that the part takes over from the input.
        bundle_id: who made the forecasts.
        fallback: what fills rejects, told in a column `source`; None = nothing does, and there is no such column.
    """

    copied: pa.Schema
    bundle_id: str
    fallback: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Return the copied columns, then our own."""
        own = [pa.field("prediction", pa.list_(pa.float32())), *([SOURCE] if self.fallback else []), REASON, BUNDLE]
        return pa.schema([*self.copied, *own])

    @property
    def rows_a_window(self) -> int:
        """Return one."""
        return 1

    def rows(
        self, keys: pa.RecordBatch, prediction: F32, reasons: npt.NDArray[np.uint8], filled: Bool
    ) -> pa.RecordBatch:
        """Make one row a window."""
        copied = [keys.column(name) for name in self.copied.names]
        source = [sources(self.fallback, reasons, filled)] if self.fallback else []
        own = [
            _lists(prediction, (reasons == GOOD) | filled),
            *source,
            words(reasons),
            repeated(self.bundle_id, len(reasons)),
        ]
        return pa.RecordBatch.from_arrays([*copied, *own], schema=self.schema)


@dataclass(slots=True)
class PartWriter:
    """Collects blocks and writes them as row groups of a fixed size, so that the bytes depend on the rows alone."""

    form: Form
    parquet: Any
    pending: list[pa.RecordBatch] = field(default_factory=list)

    def add(
        self, keys: pa.RecordBatch, prediction: F32, reasons: npt.NDArray[np.uint8], filled: Bool | None = None
    ) -> None:
        """Append the rows of a block in order; the arguments are those of `Form.rows`."""
        none = np.zeros(len(reasons), bool)
        self.pending.append(self.form.rows(keys, prediction, reasons, none if filled is None else filled))
        if len(self.pending) == BLOCKS_PER_ROW_GROUP or sum(batch.nbytes for batch in self.pending) > ROW_GROUP_BYTES:
            self._flush()

    def finish(self, part: Part) -> None:
        """Write what is left, and the footer."""
        self._flush()
        self.parquet.add_key_value_metadata(footer_of(part))

    def _flush(self) -> None:
        if self.pending:
            table = pa.Table.from_batches(self.pending, self.form.schema).unify_dictionaries().combine_chunks()
            self.parquet.write_table(table, row_group_size=max(table.num_rows, 1))
            self.pending.clear()


@contextlib.contextmanager
def open_part(out: OutputFolder, path: str, form: Form) -> Iterator[PartWriter]:
    """Open a part that becomes visible, whole and synced, when the block is left without an error.

    Args:
        out: where it goes.
        path: the part's path inside `out`.
        form: what its rows look like.

    Raises:
        OutputError: it cannot be written; nothing is visible then.
    """
    schema = form.schema
    text = [entry.name for entry in schema if pt.is_string(entry.type) or pt.is_dictionary(entry.type)]
    settings = {"compression": "zstd", "use_dictionary": text, "write_page_checksum": True}
    with out.replacing(path, _seal) as file, pq.ParquetWriter(file, schema, **settings) as parquet:
        yield PartWriter(form, parquet)


def _seal(file: NewFile) -> None:
    """Put the digest of the whole file into the place that the footer keeps for it."""
    footer = file.tail(footer_size(file.tail(FOOTER_END)))
    offset = digest_offset(footer)
    assert offset is not None and footer[offset:].startswith(BLANK), "the footer keeps a place for it"  # noqa: PT018, S101
    file.patch(file.sha256.hexdigest().encode(), file.size - len(footer) + offset)


def copied_schema(schema: pa.Schema, names: tuple[str, ...]) -> pa.Schema:
    """Return the fields to copy; file-level notes of other tools (such as a pandas index) do not apply any more."""
    return pa.schema([schema.field(name) for name in names])


def words(reasons: npt.NDArray[np.uint8]) -> pa.Array:
    """Return the reasons as they are written, null where there is none."""
    return pa.array([None, *REASONS[1:]], pa.string()).take(pa.array(reasons))


def repeated(text: str, rows: int) -> pa.Array:
    """Return one word, as often as there are rows."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def sources(fallback: str | None, reasons: npt.NDArray[np.uint8], filled: Bool) -> pa.Array:
    """Return who made each forecast: the model, a fallback, or null where there is none."""
    names = pa.array([MODEL, fallback or ""])
    return pa.DictionaryArray.from_arrays(pa.array(filled.astype(np.int32), mask=(reasons != GOOD) & ~filled), names)


def _lists(prediction: F32, there: Bool) -> pa.Array:
    rows, horizon = prediction.shape
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.where(there, horizon, 0), out=offsets[1:])
    values = pa.array(np.ascontiguousarray(prediction[there]).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~there))
