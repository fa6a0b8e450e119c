"""The footer that makes each part its own ledger: what is written is read back, and nothing else is believed."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.parts import (
    BLANK,
    FOOTER_KEY,
    LEDGER_DIGEST_KEY,
    PART_DIGEST_KEY,
    Maker,
    Part,
    Unit,
    decode_footer,
    digest_offset,
    footer_of,
    footer_size,
)
from runner.totals import ErrorSums, Score

SUMS = ErrorSums((1.0, 2.0), (3.0, 4.0), (5.0, -6.0))
PART = Part(
    unit=Unit("date=1/a.parquet", (0, 3), 100, 12345, "ab" * 32),
    bundle_id="cd" * 32,
    options="ef" * 32,
    mode="free-running",
    device="cpu",
    version="0.1.0",
    maker=Maker("y", 2.5, 2, 24, "fp32", 0.5, 0.625),
    columns={"target": "load"},
    scored=97,
    rejects={"past_missing": 1, "past_shape": 2},
    score=Score(97, (90, 80), SUMS, SUMS, SUMS),
    casts=("past",),
)


def decode(text):
    """Read a ledger whose digest is right."""
    return decode_footer({FOOTER_KEY: text, LEDGER_DIGEST_KEY: hashlib.sha256(text).hexdigest().encode()})


def edited(path, edit):
    raw = json.loads(PART.encode())
    *parents, last = path.split(".")
    inner = raw
    for key in parents:
        inner = inner[key]
    edit(inner, last)
    return json.dumps(raw).encode()


def changed(path, value):
    return edited(path, lambda inner, key: inner.__setitem__(key, value))


def without(path):
    return edited(path, lambda inner, key: inner.__delitem__(key))


finite = st.floats(allow_nan=False, allow_infinity=False)
columns = st.tuples(finite, finite)
sums = st.builds(ErrorSums, columns, columns, columns)
counts = st.integers(0, 2**63)
scores = st.builds(Score, counts, st.tuples(counts, counts), sums, sums, st.none() | sums)
groups = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))
texts = st.text(max_size=10)
units = st.builds(Unit, texts, st.none() | groups, counts, counts, texts)
losses = st.none() | finite
makers = st.builds(Maker, texts, finite, counts, st.none() | counts, st.sampled_from(["fp32", "int8"]), losses, losses)
parts = st.builds(
    Part,
    unit=units,
    bundle_id=texts,
    options=texts,
    mode=texts,
    device=texts,
    version=texts,
    maker=makers,
    columns=st.dictionaries(texts, texts, max_size=3),
    scored=counts,
    rejects=st.dictionaries(texts, counts, max_size=3),
    score=st.none() | scores,
    casts=st.lists(texts, max_size=3).map(tuple),
)


def bits(part):
    if part.score is None:
        return None
    kinds = [part.score.model, part.score.last, *([part.score.seasonal] if part.score.seasonal else [])]
    return [value.hex() for kind in kinds for column in (kind.squared, kind.absolute, kind.signed) for value in column]


@settings(max_examples=100, deadline=None)
@given(parts)
def test_a_footer_reads_back_to_the_same_part_bit_for_bit(part):
    found = decode_footer(footer_of(part))
    assert found == part
    assert bits(found) == bits(part)
    assert found.encode() == part.encode()


def test_a_footer_does_not_depend_on_the_order_in_which_rejects_were_counted():
    turned = dict(reversed(PART.rejects.items()))
    assert replace(PART, rejects=turned).encode() == PART.encode()


@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_a_footer_never_carries_what_json_cannot(junk):
    score = Score(1, (1, 1), ErrorSums((junk, 0.0), (0.0, 0.0), (0.0, 0.0)), SUMS, None)
    with pytest.raises(ValueError, match="JSON"):
        replace(PART, score=score).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'"freerun"',
        b"not json",
        b"\xff\xfe",
        PART.encode()[:-1],
        PART.encode() + b"x",
        changed("format", 1 + 1),
        changed("format", str(1)),
        changed("surprise", 1),
        changed("unit.surprise", 1),
        changed("score.model.surprise", [1.0]),
        changed("unit", None),
        changed("unit", []),
        changed("score", 5),
        changed("score", {}),
        changed("casts", None),
        changed("score.model", None),
        changed("score.observed", 3),
        *(without(name) for name in ("format", "unit", "bundle_id", "rejects", "score", "scored", "casts")),
        without("unit.sha256"),
        without("score.windows"),
        without("score.last.signed"),
    ],
    ids=lambda text: f"{len(text)} bytes {text[:12].hex()}",
)
def test_a_footer_that_is_none_of_ours_is_no_part(text):
    assert decode(text) is None


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000], ids=["lists", "objects"])
def test_a_footer_nested_beyond_reason_is_no_part(text):
    assert decode(text) is None


@pytest.mark.parametrize("groups", [[1], "1", [0, 1, 2], 5, {"0": 1}], ids=str)
def test_a_footer_whose_row_groups_are_no_pair_is_no_part(groups):
    assert decode(changed("unit.row_groups", groups)) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bundle_id", 7),
        ("scored", "97"),
        ("rejects", [1]),
        ("rejects.past_missing", "1"),
        ("casts", "past"),
        ("unit.path", None),
        ("unit.rows", None),
        ("unit.row_groups", ["a", "b"]),
        ("score.windows", "97"),
        ("score.observed", [90]),
        ("score.observed", [90, None]),
        ("score.model.squared", "12"),
        ("score.model.squared", [1.0]),
        ("score.seasonal.signed", [1.0, None]),
    ],
    ids=repr,
)
def test_a_footer_whose_fields_cannot_be_added_up_is_no_part(path, value):
    assert decode(changed(path, value)) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_garbage_is_no_part(text):
    assert decode(text) is None


@pytest.mark.parametrize(
    ("path", "groups", "expected"),
    [
        ("a.parquet", None, "a.parquet"),
        ("date=2026-11-23/a.parquet", None, "date=2026-11-23/a.parquet"),
        ("a.parquet", (0, 15), "a.rg00000-00015.parquet"),
        ("date=1/a.b.parquet", (7, 7), "date=1/a.b.rg00007-00007.parquet"),
        ("x.parquet/a.parquet.parquet", (0, 0), "x.parquet/a.parquet.rg00000-00000.parquet"),
        ("a.parquet", (123456, 1234567), "a.rg123456-1234567.parquet"),
    ],
)
def test_a_part_lies_where_its_input_lies_and_names_its_row_groups(path, groups, expected):
    assert Unit(path, groups, 1, 1, "").part_path == expected


def test_a_ledger_with_any_bit_flipped_is_no_part_though_it_may_still_be_json():
    text = PART.encode()
    for position in range(len(text)):
        spoiled = bytearray(text)
        spoiled[position] ^= 1
        assert decode_footer({**footer_of(PART), FOOTER_KEY: bytes(spoiled)}) is None


@pytest.mark.parametrize("key", [FOOTER_KEY, LEDGER_DIGEST_KEY])
def test_a_footer_without_its_ledger_or_its_digest_is_no_part(key):
    footer = footer_of(PART)
    del footer[key]
    assert decode_footer(footer) is None


def test_the_place_of_the_digest_is_the_last_that_looks_like_it():
    place = PART_DIGEST_KEY + b"\x18\x40" + BLANK
    assert digest_offset(b"abc" + place + b"defg" + place + b"hi") == len(b"abc" + place + b"defg" + place) - len(BLANK)


@pytest.mark.parametrize("footer", [b"", PART_DIGEST_KEY, PART_DIGEST_KEY + b"\x18\x40" + BLANK[1:], BLANK])
def test_a_footer_without_room_for_the_digest_has_no_place_for_it(footer):
    assert digest_offset(footer) is None


def test_the_place_of_the_digest_holds_a_sha256_and_is_blank_at_first():
    assert footer_of(PART)[PART_DIGEST_KEY] == BLANK == b"0" * len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("length", [0, 1, 300, 70_000])
def test_a_footer_is_as_long_as_the_four_bytes_before_the_magic_word_say_and_eight_more(length):
    assert footer_size(length.to_bytes(4, "little") + b"PAR1") == length + 8
