"""F7: arrays that read but are invalid are damage, told by file and row group, before numpy or a graph sees them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runner.feed
from campaigns.parquet_files import GROUP, as_lists, make_bases
from campaigns.scoring import NAME, opened
from runner.config import Job
from runner.run import run_job
from runner.stop import Stop

ROWS = 6
GROUPS = 3


@pytest.fixture(scope="module")
def bundle(tiny, tmp_path_factory):
    return tiny.make_bundle(tmp_path_factory.mktemp("f07") / "bundle")


@pytest.fixture(scope="module")
def scorer(bundle, tmp_path_factory):
    with opened(bundle, tmp_path_factory.mktemp("f07") / "scorer") as found:
        yield found


def built(kind, offsets, *rest, good, children=None):
    """Build an array over offsets that are good, and then make them what they must not be: pyarrow looks at some."""
    live = np.array(good, np.int64 if pa.types.is_large_string(kind) else np.int32)
    array = pa.Array.from_buffers(kind, ROWS, [None, pa.py_buffer(live), *map(pa.py_buffer, rest)], children=children)
    live[:] = offsets
    return array


def lists(offsets):
    """Return six lists of four floats, were it not for these offsets."""
    values = pa.array(np.arange(24, dtype=np.float32))
    return built(pa.list_(pa.float32()), offsets, good=range(0, 28, 4), children=[values])


def nested(offsets):
    """Return six lists of six pairs, were it not for these outer offsets."""
    pairs = pa.ListArray.from_arrays(pa.array(np.arange(0, 74, 2, dtype=np.int32)), pa.array(np.zeros(72, np.float32)))
    return built(pa.list_(pa.list_(pa.float32())), offsets, good=range(0, 42, 6), children=[pairs])


def text(offsets, content, kind=None):
    return built(kind or pa.string(), offsets, content, good=range(7))


def words(indices):
    """Return six words from a dictionary of two, were it not for these indices."""
    live = np.zeros(ROWS, np.int32)
    codes = pa.Array.from_buffers(pa.int32(), ROWS, [None, pa.py_buffer(live)])
    array = pa.DictionaryArray.from_arrays(codes, pa.array(["a", "b"]))
    live[:] = indices
    return array


BROKEN = {
    "lists that begin before their items": ("target", lists([-4, 4, 8, 12, 16, 20, 24])),
    "lists that end behind their items": ("target", lists([0, 4, 8, 12, 16, 20, 2**30])),
    "a list that begins behind its end": ("target", lists([0, 4, 40, 12, 16, 20, 24])),
    "a list of the right length somewhere else": ("target", lists([2**30, 2**30 + 4, 8, 12, 16, 20, 24])),
    "lists of lists behind their items": ("past", nested([0, 6, 12, 18, 24, 30, 2**28])),
    "lists of lists before their items": ("past", nested([-6, 0, 6, 12, 18, 24, 30])),
    "text that is no UTF-8": ("note", text(range(7), b"ab\xffdef")),
    "half a letter": ("note", text(range(7), b"abcde\xc3")),
    "text behind its bytes": ("note", text([0, 1, 2, 3, 4, 5, 2**30], b"abcdef")),
    "text before its bytes": ("note", text([-9, 1, 2, 3, 4, 5, 6], b"abcdef")),
    "long text behind its bytes": ("note", text([0, 1, 2, 3, 4, 5, 2**40], b"abcdef", pa.large_string())),
    "a word that is not in the dictionary": ("note", words([0, 1, 0, 1, 0, 2])),
    "a word before the dictionary": ("note", words([0, 1, 0, 1, 0, -1])),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_f07_an_invalid_array_is_damage_in_its_row_group_and_no_array_of_it_is_looked_at(
    tiny, bundle, tmp_path, monkeypatch, kind
):
    name, broken = BROKEN[kind]
    table = as_lists(tiny.make_table(GROUPS * ROWS))
    table = table.set_column(table.schema.get_field_index(name), name, typed(table[name], broken.type))
    source = tmp_path / NAME
    pq.write_table(table, source, row_group_size=ROWS)
    reading, validate, seen = pq.ParquetFile.iter_batches, runner.feed.validate, []

    def faked(self, *arguments, row_groups, **options):
        for batch in reading(self, *arguments, row_groups=row_groups, **options):
            yield with_column(batch, name, broken) if row_groups == [1] else batch

    def watched(batch, *arguments, **options):
        assert all(map(is_valid, batch.columns)), "from here on a process would crash"
        seen.append(batch.num_rows)
        return validate(batch, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", faked)
    monkeypatch.setattr("runner.feed.validate", watched)
    report = run_job(Job(bundle, str(source), tmp_path / "out", rows_per_part=ROWS), Stop(), lambda *_: None)
    assert report.exit_code == 11
    assert f"{NAME} is damaged in row group 1" in report.error
    assert "row group 0" not in report.error
    assert seen == [ROWS, ROWS]
    assert len(list((tmp_path / "out").glob("*.parquet"))) == GROUPS - 1


def typed(column, kind):
    if pa.types.is_dictionary(kind):
        return column.combine_chunks().cast(kind.value_type).dictionary_encode()
    return pa.array(column.to_pylist(), kind)


def with_column(batch, name, column):
    assert not is_valid(column), "the test must break it"
    columns = [column if entry.name == name else batch.column(entry.name) for entry in batch.schema]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def is_valid(array):
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def test_f07_each_flipped_bit_in_text_without_checksums_is_refused_or_is_other_text(scorer, tmp_path):
    base = next(base for base in make_bases(tmp_path) if base.name == "words, plain")
    letters = base.content.index(b"row 7")
    seen = {11: 0, 0: 0}
    for bit in range(5 * 8):
        damaged = bytearray(base.content)
        damaged[letters + bit // 8] ^= 1 << bit % 8
        report = scorer.score(bytes(damaged))
        seen[report.exit_code] += 1
        if report.exit_code == 0:
            note = pq.ParquetFile(scorer.out / NAME).read()["note"][7].as_py()
            assert note.encode() == damaged[letters : letters + 5]
        else:
            assert f"{NAME} is damaged in row group {7 // GROUP}" in report.error
            assert bit % 8 == 7, "a flipped high bit is no ASCII, and alone no UTF-8"
    assert seen == {11: 5, 0: 35}
