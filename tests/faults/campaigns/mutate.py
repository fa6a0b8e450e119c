"""Damage to a Parquet file, drawn at random: anywhere, and aimed at what a reader trusts."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from campaigns.parquet_files import Base
from campaigns.thrift import Field, varint, zigzag

EDGES = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))


@dataclass(frozen=True, slots=True)
class Mutation:
    """A damaged file.

    Attributes:
        how: in words.
        content: the file now.
        groups: the row groups whose pages are damaged, where nothing but pages is; None where anything else is.
        data_only: the damage lies in data that have checksums.
    """

    how: str
    content: bytes
    groups: frozenset[int] | None
    data_only: bool


def mutate(base: Base, draw: random.Random) -> Mutation:
    """Damage a file in one way; never leaves it as it was."""
    content = base.content
    while content == base.content:
        name, damage = draw.choice(WAYS)
        content = damage(base, draw)
    groups, data_only = _reach(base, content)
    return Mutation(f"{base.name}: {name}", content, groups, data_only)


def _flip(base: Base, draw: random.Random) -> bytes:
    return _flipped(base, draw, 0, len(base.content))


def _bytes(base: Base, draw: random.Random) -> bytes:
    content = bytearray(base.content)
    for _ in range(draw.randint(2, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def _burst(base: Base, draw: random.Random) -> bytes:
    return _over(base, draw, draw.randbytes(draw.randint(2, 64)))


def _zeroes(base: Base, draw: random.Random) -> bytes:
    return _over(base, draw, bytes(draw.choice([1, 4, 16, 64, 512])))


def _truncated(base: Base, draw: random.Random) -> bytes:
    return base.content[: draw.randrange(len(base.content))]


def _inserted(base: Base, draw: random.Random) -> bytes:
    at = draw.randrange(len(base.content))
    return base.content[:at] + draw.randbytes(draw.randint(1, 16)) + base.content[at:]


def _cut_out(base: Base, draw: random.Random) -> bytes:
    at = draw.randrange(len(base.content))
    return base.content[:at] + base.content[at + draw.randint(1, 64) :]


def _footer_flip(base: Base, draw: random.Random) -> bytes:
    return _flipped(base, draw, base.footer, len(base.content) - 8)


def _footer_number(base: Base, draw: random.Random) -> bytes:
    field = draw.choice([field for field in base.fields if field.value is not None and not field.binary])
    return _with_footer(base, field.start, field.end, varint(zigzag(_another(field, draw)) % 2**64))


def _footer_text(base: Base, draw: random.Random) -> bytes:
    """Change the length of a text, or what it says; the footer stays one that parses half of the time."""
    field = draw.choice([field for field in base.fields if field.binary and field.value])
    text = base.content[field.end - (field.value or 0) : field.end]
    if draw.random() < 0.5:
        return _with_footer(base, field.start, field.end - len(text), varint(_another(field, draw) % 2**32))
    changed = bytearray(text)
    changed[draw.randrange(len(text))] = draw.choice([0, 32, 46, 195, 255, draw.randrange(256)])
    return _with_footer(base, field.end - len(text), field.end, bytes(changed))


def _footer_length(base: Base, draw: random.Random) -> bytes:
    length = draw.choice([0, 1, 4, 2**31 - 1, 2**32 - 1, draw.randrange(2 * len(base.content)), draw.randrange(2**32)])
    return base.content[:-8] + length.to_bytes(4, "little") + base.content[-4:]


def _header_flip(base: Base, draw: random.Random) -> bytes:
    page = draw.choice(base.pages)
    return _flipped(base, draw, page.start, page.data)


def _header_number(base: Base, draw: random.Random) -> bytes:
    """Change a number of a page header in place, so that everything else stays where it was."""
    page = draw.choice(base.pages)
    field = draw.choice([field for field in page.header if field.value is not None and not field.binary])
    width = field.end - field.start
    value = varint(zigzag(_another(field, draw)) % 2 ** (7 * width), width)
    return base.content[: field.start] + value + base.content[field.end :]


def _data_flip(base: Base, draw: random.Random) -> bytes:
    page = draw.choice([page for page in base.pages if page.data < page.end])
    return _flipped(base, draw, page.data, page.end)


def _data_length(base: Base, draw: random.Random) -> bytes:
    """Write a length where levels, text and compressed blocks have theirs."""
    page = draw.choice([page for page in base.pages if page.end - page.data >= 4])
    at = page.data + draw.randrange(min(page.end - page.data - 3, 64))
    value = (draw.choice(EDGES) % 2**32).to_bytes(4, "little")
    return base.content[:at] + value + base.content[at + 4 :]


def _data_zeroes(base: Base, draw: random.Random) -> bytes:
    page = draw.choice(base.pages)
    return base.content[: page.data] + bytes(page.end - page.data) + base.content[page.end :]


WAYS: tuple[tuple[str, Callable[[Base, random.Random], bytes]], ...] = (
    ("a flipped bit", _flip),
    ("some other bytes", _bytes),
    ("a burst", _burst),
    ("a range of zeroes", _zeroes),
    ("truncated", _truncated),
    ("bytes inserted", _inserted),
    ("bytes cut out", _cut_out),
    ("a flipped bit in the footer", _footer_flip),
    ("another number in the footer", _footer_number),
    ("another text in the footer", _footer_text),
    ("another footer length", _footer_length),
    ("a flipped bit in a page header", _header_flip),
    ("another number in a page header", _header_number),
    ("a flipped bit in a page", _data_flip),
    ("another length in a page", _data_length),
    ("a page of zeroes", _data_zeroes),
)


def _flipped(base: Base, draw: random.Random, start: int, end: int) -> bytes:
    content = bytearray(base.content)
    content[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
    return bytes(content)


def _over(base: Base, draw: random.Random, patch: bytes) -> bytes:
    at = draw.randrange(len(base.content) - len(patch))
    return base.content[:at] + patch + base.content[at + len(patch) :]


def _with_footer(base: Base, start: int, end: int, patch: bytes) -> bytes:
    """Replace a piece of the footer, and have the file's end say the footer's new length."""
    footer = base.content[base.footer : start] + patch + base.content[end:-8]
    return base.content[: base.footer] + footer + len(footer).to_bytes(4, "little") + base.content[-4:]


def _another(field: Field, draw: random.Random) -> int:
    value = field.value or 0
    near = (value + 1, value - 1, value * 2, value // 2, -value, value ^ 1 << draw.randrange(32))
    return draw.choice(EDGES) if draw.random() < 0.4 else draw.choice(near)


def _reach(base: Base, content: bytes) -> tuple[frozenset[int] | None, bool]:
    """Find the row groups that the damage lies in, and whether a checksum covers all of it."""
    if len(content) != len(base.content):
        return None, False
    changed = [at for at, (old, new) in enumerate(zip(base.content, content, strict=True)) if old != new]
    groups, data_only = set(), True
    for at in changed:
        page = next((page for page in base.pages if page.start <= at < page.end), None)
        if page is None:
            return None, False
        groups.add(page.group)
        data_only &= page.checked and at >= page.data
    return frozenset(groups), data_only
