"""Write one part: the copied columns, the forecasts, the reasons, and a footer that tells who made it of what."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from runner.batch import F32, GOOD, REASONS
from runner.disk import NewFile
from runner.parts import BLANK, FOOTER_END, Part, digest_offset, footer_of, footer_size
from runner.storage import OutputFolder

BLOCKS_PER_ROW_GROUP = 8
ROW_GROUP_BYTES = 16 << 20
"""A row group ends earlier where its blocks take more than this in memory."""
OWN_FIELDS = (
    pa.field("prediction", pa.list_(pa.float32())),
    pa.field("reject_reason", pa.string()),
    pa.field("bundle_id", pa.dictionary(pa.int32(), pa.string())),
)


@dataclass(slots=True)
class PartWriter:
    """Collects blocks and writes them as row groups of a fixed size, so that the bytes depend on the rows alone."""

    schema: pa.Schema
    bundle_id: str
    parquet: Any
    pending: list[pa.RecordBatch] = field(default_factory=list)

    def add(self, block: pa.RecordBatch, prediction: F32, reasons: npt.NDArray[np.uint8]) -> None:
        """Append the rows of a block in order.

        Args:
            block: the input's rows; the columns of the part's schema are copied from it.
            prediction: forecasts in raw units [B, H]; rows with a reason are written as null.
            reasons: codes into REASONS [B].
        """
        copied = [block.column(name) for name in self.schema.names[: -len(OWN_FIELDS)]]
        own = [_predictions(prediction, reasons), _reasons(reasons), _repeated(self.bundle_id, len(reasons))]
        self.pending.append(pa.RecordBatch.from_arrays([*copied, *own], schema=self.schema))
        if len(self.pending) == BLOCKS_PER_ROW_GROUP or sum(batch.nbytes for batch in self.pending) > ROW_GROUP_BYTES:
            self._flush()

    def finish(self, part: Part) -> None:
        """Write what is left, and the footer."""
        self._flush()
        self.parquet.add_key_value_metadata(footer_of(part))

    def _flush(self) -> None:
        if self.pending:
            table = pa.Table.from_batches(self.pending, self.schema).unify_dictionaries().combine_chunks()
            self.parquet.write_table(table, row_group_size=max(table.num_rows, 1))
            self.pending.clear()


@contextlib.contextmanager
def open_part(out: OutputFolder, path: str, copied: pa.Schema, bundle_id: str) -> Iterator[PartWriter]:
    """Open a part that becomes visible, whole and synced, when the block is left without an error.

    Args:
        out: where it goes.
        path: the part's path inside `out`.
        copied: the fields that the part takes over from the input.
        bundle_id: who made the forecasts.

    Raises:
        OutputError: it cannot be written; nothing is visible then.
    """
    schema = pa.schema([*copied, *OWN_FIELDS])
    words = [entry.name for entry in schema if pt.is_string(entry.type) or pt.is_dictionary(entry.type)]
    settings = {"compression": "zstd", "use_dictionary": words, "write_page_checksum": True}
    with out.replacing(path, _seal) as file, pq.ParquetWriter(file, schema, **settings) as parquet:
        yield PartWriter(schema, bundle_id, parquet)


def _seal(file: NewFile) -> None:
    """Put the digest of the whole file into the place that the footer keeps for it."""
    footer = file.tail(footer_size(file.tail(FOOTER_END)))
    offset = digest_offset(footer)
    assert offset is not None and footer[offset:].startswith(BLANK), "the footer keeps a place for it"  # noqa: PT018, S101
    file.patch(file.sha256.hexdigest().encode(), file.size - len(footer) + offset)


def copied_schema(schema: pa.Schema, names: tuple[str, ...]) -> pa.Schema:
    """Return the fields to copy; file-level notes of other tools (such as a pandas index) do not apply any more."""
    return pa.schema([schema.field(name) for name in names])


def _predictions(prediction: F32, reasons: npt.NDArray[np.uint8]) -> pa.Array:
    rows, horizon = prediction.shape
    good = reasons == GOOD
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.where(good, horizon, 0), out=offsets[1:])
    values = pa.array(np.ascontiguousarray(prediction[good]).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~good))


def _reasons(reasons: npt.NDArray[np.uint8]) -> pa.Array:
    words = pa.array([None, *REASONS[1:]], pa.string())
    return words.take(pa.array(reasons))


def _repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
