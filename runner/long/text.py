"""The text in files of time steps: names of series, and words of categories. Memory must not hang on how long it is."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from runner.errors import InputError, explain
from runner.reader import PIECE_BYTES, claimed_bytes

LONGEST_TEXT = 256
"""Bytes. A name stands in the output once for each step that is forecast."""
OVERHEAD, SPARE = 32, 1 << 20
"""What a text may take in a file beside its own bytes, and a row group beside its texts."""


def is_text(kind: pa.DataType) -> bool:
    """Tell whether these are strings, whatever the width of their offsets."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def encoded(piece: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows with their text as dictionaries, so that what is held of a series has its name only once.

    Raises:
        InputError: a text is too long.
    """
    refuse_long(piece)
    if not any(map(is_text, piece.schema.types)):
        return piece
    columns = [column.dictionary_encode() if is_text(column.type) else column for column in piece.columns]
    return pa.RecordBatch.from_arrays(columns, names=piece.schema.names)


def refuse_long(piece: pa.RecordBatch) -> None:
    """Refuse rows in which a text is too long.

    Raises:
        InputError: one is; the column is named.
    """
    for name, column in zip(piece.schema.names, piece.columns, strict=True):
        words = column.dictionary if pt.is_dictionary(column.type) else column
        longest = (pc.max(pc.binary_length(words)).as_py() or 0) if is_text(words.type) else 0
        if longest > LONGEST_TEXT:
            raise InputError(_too_long(name, f"{longest:,} bytes"))


def few_words(metadata: pq.FileMetaData, columns: list[str]) -> list[str]:
    """Return the columns of text that are best read as dictionaries: those that take little space in each row group.

    A dictionary holds all that a row group has had so far, however few rows are read at once.
    """
    return [
        name for name in columns if all(claimed_bytes(group, [name]) <= PIECE_BYTES // 2 for group in _groups(metadata))
    ]


def refuse_claims(metadata: pq.FileMetaData, columns: list[str]) -> None:
    """Refuse a file whose texts, by what its footer says, cannot but be too long: before a gigabyte of them is read.

    Raises:
        InputError: they are; the column is named.
    """
    for group in _groups(metadata):
        for name in columns:
            size = claimed_bytes(group, [name])
            if size > group.num_rows * (LONGEST_TEXT + OVERHEAD) + SPARE:
                raise InputError(_too_long(name, f"{size:,} bytes of text in {group.num_rows:,} rows"))


def _groups(metadata: pq.FileMetaData) -> list[pq.RowGroupMetaData]:
    return [metadata.row_group(index) for index in range(metadata.num_row_groups)]


def _too_long(name: str, got: str) -> str:
    expected = f"at most {LONGEST_TEXT} bytes a text"
    return explain(f"column '{name}' has a text that is too long", got=got, expected=expected)
