"""Look at a graph's bytes before they are parsed: parsing may take a hundred times their size in memory."""

from dataclasses import dataclass

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
"""Field numbers of ONNX's messages."""
VARINT, BYTES, FIXED = 0, 2, {1: 8, 5: 4}
"""Protobuf's ways to write a field; of the fixed ones, how long they are."""


MOST_FIELDS = 250_000
"""Fields that are stepped over, one for each node and some for each constant: a second of stepping."""


def describing_bytes(content: bytes) -> int:
    """Return how many bytes of a graph are not the plain numbers of its constants.

    Only these grow when they are parsed: two bytes make a node of two hundred.

    Raises:
        ValueError, IndexError: it is not protobuf, or of more fields than any graph of ours.
    """
    reader = _Reader(content)
    graphs = reader.find(MODEL_GRAPH, 0, len(content))
    constants = [place for graph in graphs for place in reader.find(GRAPH_INITIALIZER, *graph)]
    numbers = [place for constant in constants for place in reader.find(TENSOR_RAW_DATA, *constant)]
    return len(content) - sum(end - start for start, end in numbers)


@dataclass(slots=True)
class _Reader:
    """Steps over the fields of messages, and not over more of them than it may."""

    content: bytes
    left: int = MOST_FIELDS

    def find(self, wanted: int, start: int, end: int) -> list[tuple[int, int]]:
        """Return where each field of this number begins and ends, within the message from `start` to `end`."""
        found, at = [], start
        while at < end:
            key, at = self._varint(at)
            length, at = self._length(key & 7, at)
            if key >> 3 == wanted and key & 7 == BYTES:
                found.append((at, at + length))
            at += length
            self.left -= 1
            if at > end or not self.left:
                raise ValueError("a field does not fit" if self.left else f"more than {MOST_FIELDS} fields")
        return found

    def _length(self, kind: int, at: int) -> tuple[int, int]:
        """Return how long a field's content is, and where it begins."""
        if kind == VARINT:
            return 0, self._varint(at)[1]
        if kind == BYTES:
            return self._varint(at)
        if kind not in FIXED:
            raise ValueError(f"a field of kind {kind}")
        return FIXED[kind], at

    def _varint(self, at: int) -> tuple[int, int]:
        """Return the number that begins here, and where the next field does."""
        result = 0
        for shift in range(0, 70, 7):
            byte = self.content[at]
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, at
        raise ValueError("a number of more than ten bytes")
