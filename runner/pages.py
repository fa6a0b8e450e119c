"""Count what the pages of a small Parquet file say they hold, before they are decoded.

Six hundred bytes can hold two thousand million items that are all the same. The footer may lie about that; what the
decoder goes by is the header of each page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

WRITER = "parquet-cpp-arrow"
"""Export writes with pyarrow; of files of other writers, the decoder reads more than the footer says."""
BYTE, INTEGERS, DOUBLE, BINARY, LISTS, MAP, STRUCT = 3, {4, 5, 6}, 7, 8, {9, 10}, 11, 12
"""Types of Thrift's compact protocol; 1 and 2 are true and false."""
UNCOMPRESSED_SIZE, COMPRESSED_SIZE, DATA_PAGE, DATA_PAGE_2, VALUES = 2, 3, 5, 8, 1
"""Field numbers of a page's header, and of a data page's own part of it."""
DEEPEST = 8
LONGEST_HEADER = 1 << 10
MOST_PAGES = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """What the pages of a file hold: bytes when they are decompressed, and items of all columns."""

    size: int
    items: int


def held_by(content: bytes, metadata: Any) -> Held:
    """Add up the headers of all pages.

    Args:
        content: the Parquet file.
        metadata: its footer, as pyarrow reads it.

    Raises:
        ValueError, IndexError: the pages are not where the footer says, or another program wrote the file.
    """
    if not str(metadata.created_by).startswith(WRITER):
        raise ValueError(f"it was written by {metadata.created_by!r}, expected {WRITER}")
    pages = (header for start, end in _chunks(metadata) for header in _headers(content, start, end))
    headers = list(islice(pages, MOST_PAGES + 1))
    if len(headers) > MOST_PAGES:
        raise ValueError(f"more than {MOST_PAGES} pages")
    parts = [header.get(DATA_PAGE) or header.get(DATA_PAGE_2) or {} for header in headers]
    return Held(
        sum(_positive(header, UNCOMPRESSED_SIZE) for header in headers),
        sum(_positive(part, VALUES) for part in parts if part),
    )


def _chunks(metadata: Any) -> Iterator[tuple[int, int]]:
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset
            yield start, start + chunk.total_compressed_size


def _headers(content: bytes, start: int, end: int) -> Iterator[dict[int, Any]]:
    at = start
    if not 0 <= start < end <= len(content):
        raise ValueError(f"pages from byte {start} to {end} of {len(content)}")
    while at < end:
        reader = _Compact(content[at : at + LONGEST_HEADER])
        header = reader.struct(0)
        at += reader.at + _positive(header, COMPRESSED_SIZE)
        yield header
    if at != end:
        raise ValueError(f"a page goes on to byte {at}, expected {end}")


def _positive(fields: dict[int, Any], number: int) -> int:
    found = fields.get(number)
    if not isinstance(found, int) or found < 0:
        raise ValueError(f"field {number} of a page's header is {found}")
    return found


@dataclass(slots=True)
class _Compact:
    """Reads Thrift's compact protocol; keeps integers and structs by field number, and steps over all else."""

    content: bytes
    at: int = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > DEEPEST:
            raise ValueError("a header of too many levels")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            fields[number] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in INTEGERS:
            return self._integer()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in LISTS:
            return self._list(depth)
        if kind not in {1, 2, BYTE, DOUBLE, BINARY}:
            raise ValueError(f"a field of type {kind}")
        length = self._varint() if kind == BINARY else {BYTE: 1, DOUBLE: 8}.get(kind, 0)
        self.at += length
        return None

    def _list(self, depth: int) -> None:
        head = self._byte()
        for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
            if head & 15 in {1, 2}:
                self._byte()
            else:
                self._value(head & 15, depth)

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        result, shift = 0, 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than ten bytes")

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]
