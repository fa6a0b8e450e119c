"""Where the fields of a Thrift struct (compact protocol) lie: enough to aim at a Parquet footer or page header."""

from dataclasses import dataclass

BOOLEANS, BYTE, INTEGERS, DOUBLE, BINARY, LISTS, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        path: the ids from the outermost struct inwards; items of a list have their index in it.
        start, end: the bytes of the value.
        value: of an integer, or the length of a binary; None for anything else.
        binary: it is a string or bytes, and `start` is where its length stands.
    """

    path: tuple[int, ...]
    start: int
    end: int
    value: int | None
    binary: bool = False


def walk(data: bytes, start: int) -> tuple[list[Field], int]:
    """Return the leaves of the struct that begins at `start`, in order, and where it ends."""
    fields: list[Field] = []
    end = _struct(data, start, (), fields)
    return fields, end


def varint(value: int, width: int = 0) -> bytes:
    """Encode an unsigned number; pad it to `width` bytes, which every reader accepts."""
    digits: list[int] = []
    while value >= 0x80 or len(digits) + 1 < width:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)


def _struct(data: bytes, at: int, path: tuple[int, ...], fields: list[Field]) -> int:
    number = 0
    while kind := data[at]:
        delta, kind, at = kind >> 4, kind & 15, at + 1
        if delta:
            number += delta
        else:
            raw, at = _varint(data, at)
            number = raw >> 1 ^ -(raw & 1)
        at = _value(data, at, kind, (*path, number), fields, boxed=False)
    return at + 1


def _value(data: bytes, at: int, kind: int, path: tuple[int, ...], fields: list[Field], *, boxed: bool) -> int:
    if kind == STRUCT:
        return _struct(data, at, path, fields)
    if kind in LISTS:
        size, kind, end = data[at] >> 4, data[at] & 15, at + 1
        if size == 15:
            size, end = _varint(data, end)
        for index in range(size):
            end = _value(data, end, kind, (*path, index), fields, boxed=True)
        return end
    value: int | None = None
    if kind in BOOLEANS:
        end = at + boxed
    elif kind == BYTE:
        end = at + 1
    elif kind == DOUBLE:
        end = at + 8
    else:
        raw, end = _varint(data, at)
        value = raw if kind == BINARY else raw >> 1 ^ -(raw & 1)
        end += value if kind == BINARY else 0
    fields.append(Field(path, at, end, value, kind == BINARY))
    return end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
