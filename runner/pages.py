"""Count what the pages of a small Parquet file say they hold, before they are decoded.

Six hundred bytes can hold two thousand million items that are all the same. The footer may lie about that; what the
decoder goes by is the header of each page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

WRITER = b"parquet-cpp-arrow"
"""Export writes with pyarrow; of files of other writers, the decoder reads more than the footer says."""
BYTE, INTEGERS, DOUBLE, BINARY, LISTS, STRUCT = 3, {4, 5, 6}, 7, 8, {9, 10}, 12
"""Types of Thrift's compact protocol; 1 and 2 are true and false."""
ROW_GROUPS, CREATED_BY, COLUMNS, COLUMN = 4, 6, 1, 3
"""Field numbers of a footer, of a row group and of a column chunk."""
CHUNK_SIZE, DATA_OFFSET, DICTIONARY_OFFSET = 7, 9, 11
"""Of what a footer says about a column chunk."""
UNCOMPRESSED_SIZE, COMPRESSED_SIZE, DATA_PAGE, DATA_PAGE_2, VALUES = 2, 3, 5, 8, 1
"""Of a page's header, and of a data page's own part of it."""
DEEPEST = 16
LONGEST_FOOTER, LONGEST_HEADER = 1 << 18, 1 << 10
MOST_PAGES = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """What the pages of a file hold: bytes when they are decompressed, and items of all columns."""

    size: int
    items: int


def held_by(content: bytes) -> Held:
    """Add up the headers of all pages.

    The footer is read here too: pyarrow's view of a damaged column chunk ends the process (26.0.1).

    Raises:
        ValueError, IndexError: the pages are not where the footer says, or another program wrote the file.
    """
    length = int.from_bytes(content[-8:-4], "little")
    if not 0 < length <= min(LONGEST_FOOTER, len(content) - 8):
        raise ValueError(f"a footer of {length} bytes in a file of {len(content)}")
    footer = _Compact(content[-8 - length : -8]).struct(0)
    if not bytes(_kind(footer.get(CREATED_BY), bytes)).startswith(WRITER):
        raise ValueError(f"it was written by {footer.get(CREATED_BY)!r}, expected {WRITER!r}")
    pages = (header for start, end in _chunks(footer) for header in _headers(content, start, end))
    headers = list(islice(pages, MOST_PAGES + 1))
    if len(headers) > MOST_PAGES:
        raise ValueError(f"more than {MOST_PAGES} pages")
    parts = [header.get(DATA_PAGE) or header.get(DATA_PAGE_2) for header in headers]
    return Held(
        sum(_positive(header, UNCOMPRESSED_SIZE) for header in headers),
        sum(_positive(_kind(part, dict), VALUES) for part in parts if part),
    )


def _chunks(footer: dict[int, Any]) -> Iterator[tuple[int, int]]:
    for group in _kind(footer.get(ROW_GROUPS, []), list):
        for column in _kind(_kind(group, dict).get(COLUMNS), list):
            chunk = _kind(_kind(column, dict).get(COLUMN), dict)
            start, dictionary = _positive(chunk, DATA_OFFSET), chunk.get(DICTIONARY_OFFSET)
            if isinstance(dictionary, int) and 0 < dictionary < start:
                start = dictionary
            yield start, start + _positive(chunk, CHUNK_SIZE)


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


def _kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} where {kind.__name__} belongs")  # noqa: TRY004  (of a file, not a call)
    return value


def _positive(fields: dict[int, Any], number: int) -> int:
    found = fields.get(number)
    if not isinstance(found, int) or found < 0:
        raise ValueError(f"field {number} of a page's header is {found}")
    return found


@dataclass(slots=True)
class _Compact:
    """Reads Thrift's compact protocol: structs as dicts by field number, and lists."""

    content: bytes
    at: int = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > DEEPEST:
            raise ValueError("too many levels")
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
            return self._list(depth + 1)
        if kind not in {1, 2, BYTE, DOUBLE, BINARY}:
            raise ValueError(f"a field of type {kind}")
        length = self._varint() if kind == BINARY else {BYTE: 1, DOUBLE: 8}.get(kind, 0)
        self.at += length
        return self.content[self.at - length : self.at]

    def _list(self, depth: int) -> list[Any]:
        if depth > DEEPEST:
            raise ValueError("too many levels")
        head = self._byte()
        kind, length = head & 15, self._varint() if head >> 4 == 15 else head >> 4
        return [self._byte() if kind in {1, 2} else self._value(kind, depth) for _ in range(length)]

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
