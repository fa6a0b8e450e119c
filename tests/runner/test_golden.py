"""Golden windows come with the bundle, so they are not believed to be small."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.bundle import open_bundle
from runner.errors import BundleError
from runner.golden import MOST_ITEMS, MOST_WINDOWS, read_golden


@pytest.fixture(scope="module")
def opened(tiny_bundle):
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def table(opened):
    return pq.read_table(pa.BufferReader(opened.content(opened.manifest.golden)))


def written(table, **settings):
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


@pytest.fixture
def refusal(opened, monkeypatch):
    """Return what reads golden windows that have to be refused, and before they are unpacked."""

    def run(content, *, unpacked=False):
        if not unpacked:
            monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("the file was unpacked"))
        with pytest.raises(BundleError) as caught:
            read_golden(content, "golden.parquet", opened.manifest)
        return str(caught.value)

    return run


def test_good_windows_are_read_with_their_forecasts(opened, table):
    golden = read_golden(opened.content(opened.manifest.golden), "golden.parquet", opened.manifest)
    assert golden.certified.tolist() == np.float32(table["prediction"].to_pylist()).tolist()
    assert golden.windows.past.shape == (3, 6, 2)


@pytest.mark.parametrize("settings", [{}, {"data_page_version": "2.0"}], ids=str)
def test_a_file_of_some_bytes_that_unpacks_to_gigabytes_is_refused_unread(refusal, table, settings):
    """The items are all the same: a page of a few bytes says so."""
    many = pa.ListArray.from_arrays(
        pa.array([0, MOST_ITEMS + 1], pa.int32()), pa.array(np.zeros(MOST_ITEMS + 1, np.uint8))
    )
    content = written(table.slice(0, 1).append_column("more", many), compression="zstd", **settings)
    assert len(content) < 100_000
    assert re.search("1 windows of 335544[0-9]{2} numbers", refusal(content))


def test_a_page_of_one_long_text_is_refused_unread(refusal, table):
    text = pa.array(["x" * (4 * MOST_ITEMS + 4)])
    content = written(table.slice(0, 1).append_column("more", text), compression="zstd")
    assert len(content) < 100_000
    assert "the golden windows cannot be read from golden.parquet" in refusal(content)


def test_more_windows_than_export_ever_writes_are_refused_unread(refusal, table):
    content = written(pa.concat_tables([table] * (MOST_WINDOWS // 3 + 1)))
    assert f"expected at most {MOST_WINDOWS}" in refusal(content)


def test_a_footer_of_megabytes_is_refused_unread(refusal, table, monkeypatch):
    content = written(table.replace_schema_metadata({"x": "x" * 1_000_000}))
    monkeypatch.setattr(pq, "ParquetFile", lambda *_: pytest.fail("the footer was read"))
    assert "a footer of" in refusal(content, unpacked=True)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"x" * 100, b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_refused(refusal, content):
    assert "the golden windows cannot be read from golden.parquet" in refusal(content, unpacked=True)


def test_windows_that_are_no_good_are_refused_with_their_number(refusal, table):
    past = table["past"].to_pylist()
    past[1][0][0] = None
    content = written(table.set_column(0, "past", pa.array(past)))
    message = refusal(content, unpacked=True)
    assert "got: 2 good windows" in message
    assert "expected: 3 and [3, 4]" in message
