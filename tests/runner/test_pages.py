"""What the pages of a Parquet file hold is counted without decoding them."""

import contextlib
import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.pages import held_by


def written(table, **settings):
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


def metadata(content):
    return pq.ParquetFile(pa.BufferReader(content)).metadata


@pytest.fixture
def table(tiny):
    return tiny.make_table(200)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data_page_version": "2.0"},
        {"compression": "zstd", "write_page_checksum": True},
        {"compression": "none"},
        {"use_dictionary": False},
        {"data_page_size": 64, "write_batch_size": 16},
        {"row_group_size": 30},
        {"write_page_index": True},
        {"write_statistics": False},
        {"version": "1.0"},
    ],
    ids=str,
)
def test_all_items_and_bytes_of_a_good_file_are_counted(table, settings):
    content = written(table, **settings)
    groups = [metadata(content).row_group(at) for at in range(metadata(content).num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    found = held_by(content)
    assert found.items == sum(chunk.num_values for chunk in chunks)
    assert 0 < found.size <= sum(chunk.total_uncompressed_size for chunk in chunks)


@pytest.mark.parametrize("settings", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}], ids=str)
def test_a_footer_that_tells_less_than_the_pages_hold_is_not_believed(settings):
    content = written(pa.table({"past": [[0.0] * 70_000]}), **settings)
    footer = int.from_bytes(content[-8:-4], "little")
    told, lie = varint(70_000), bytes([6 << 1 | 0x80, 0x80, 0])
    assert content[-8 - footer :].count(told) >= 1
    lying = content[: -8 - footer] + content[-8 - footer :].replace(told, lie)
    assert metadata(lying).row_group(0).column(0).num_values == 6
    assert held_by(lying).items == 70_000


def varint(number):
    number, parts = number << 1, []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_pages_that_go_on_beyond_what_the_footer_says_are_refused():
    content = written(
        pa.table({"past": [[0.0] * 70_000]}), use_dictionary=False, compression="none", data_page_size=1 << 30
    )
    size = metadata(content).row_group(0).column(0).total_compressed_size
    footer = int.from_bytes(content[-8:-4], "little")
    lying = content[: -8 - footer] + content[-8 - footer :].replace(varint(size), varint(size - 1))
    assert lying != content
    with pytest.raises(ValueError, match="a page goes on to byte"):
        held_by(lying)


def test_another_programs_file_is_refused(table):
    content = written(table).replace(b"parquet-cpp-arrow", b"parquet-mr-writer")
    with pytest.raises(ValueError, match="parquet-mr"):
        held_by(content)


def test_more_pages_than_golden_windows_can_have_are_refused(table, monkeypatch):
    monkeypatch.setattr("runner.pages.MOST_PAGES", 10)
    with pytest.raises(ValueError, match="more than 10 pages"):
        held_by(written(table))


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_counted_or_refused_but_never_raises_anything_else(tiny, seed):
    draw, good = random.Random(seed), written(tiny.make_table(20))
    for turn in range(300):
        spoilt = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(len(spoilt))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        if turn % 3 == 0:
            del spoilt[draw.randrange(len(spoilt)) :]
        try:
            found = held_by(bytes(spoilt))
        except (ValueError, IndexError):
            continue
        except Exception as error:  # noqa: BLE001  (that is the fault looked for)
            pytest.fail(f"seed {seed}, turn {turn}: {error!r}")
        assert min(found.size, found.items) >= 0


@pytest.mark.parametrize(
    "endless",
    [
        b"\x1c" * 4000,
        b"\x19\xf2\xff\xff\xff\xff\x0f" * 600,
        b"\x18\xff\xff\xff\xff\x0f" + bytes(3990),
        b"\x15" + b"\x80" * 4000,
        b"\x19" * 4000,
    ],
    ids=["structs in structs", "long lists", "a long text", "a long number", "lists in lists"],
)
def test_headers_and_footers_without_end_are_refused_at_once(endless):
    content = written(pa.table({"x": np.zeros(10)}))
    for spoilt in (
        content[:4] + endless + content[4:],
        content[:4] + endless + len(endless).to_bytes(4, "little") + b"PAR1",
    ):
        with pytest.raises((ValueError, IndexError)):
            held_by(spoilt)


@pytest.mark.parametrize("place", [0x12, 0x2F, 0x30, 0xAC])
def test_a_footer_that_ends_the_process_in_pyarrows_own_view_of_a_chunk_is_read_here(place):
    """Seen in 26.0.1, with 18 of the 3,936 flipped bits of this footer: an exception is thrown where nobody catches."""
    content = bytearray(written(pa.table({"past": [[0.0, 1.0]] * 3})))
    content[len(content) - 8 - int.from_bytes(content[-8:-4], "little") + place] ^= 0x10
    with contextlib.suppress(ValueError, IndexError):
        assert held_by(bytes(content)).items == 6
