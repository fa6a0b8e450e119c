"""A part holds the copied columns, the forecasts and the reasons, and its bytes depend on the rows alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.batch import REASONS, reason_code
from runner.dataset import open_dataset
from runner.parts import FOOTER_KEY, LEDGER_DIGEST_KEY, PART_DIGEST_KEY, Maker, Part, Unit, decode_footer
from runner.reader import BlockSize, read_blocks
from runner.schema import Layout
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.writer import BLOCKS_PER_ROW_GROUP, WindowForm, copied_schema, open_part

ROWS, H, BLOCK = 90, 4, 7
BUNDLE_ID = "ab" * 32
MAKER = Maker("y", 1.0, H, None, "fp32", 0.5, 0.625)
UNIT = Unit("a.parquet", None, ROWS, 1, "cd" * 32)
PART = Part(UNIT, BUNDLE_ID, "ef" * 32, "free-running", "cpu", "0", MAKER, {}, ROWS, {}, None)


def make_table(rows=ROWS):
    rng = np.random.default_rng(5)
    tensor = pa.fixed_shape_tensor(pa.float32(), (2, 2))
    squares = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * rows).astype(np.float32)), 4)
    targets = [None if index % 11 == 5 else rng.normal(size=H).tolist() for index in range(rows)]
    return pa.table(
        {
            "id": np.arange(rows),
            "word": pa.array([f"w{index % 3}" for index in range(rows)]).dictionary_encode(),
            "note": [None if index % 7 == 3 else f"row {index}" for index in range(rows)],
            "target": pa.array(targets, pa.list_(pa.float64())),
            "square": pa.ExtensionArray.from_storage(tensor, squares),
        }
    )


def forecasts(rows=ROWS):
    prediction = np.random.default_rng(6).normal(size=(rows, H)).astype(np.float32)
    reasons = np.where(np.arange(rows) % 5 == 2, np.arange(rows) % len(REASONS), 0).astype(np.uint8)
    return prediction, reasons


def slices(table):
    (whole,) = table.combine_chunks().to_batches()
    return [whole.slice(start, BLOCK) for start in range(0, len(table), BLOCK)]


def write(folder, blocks, schema, prediction=None, reasons=None, part=PART):
    """Write blocks as a part; return its path."""
    drawn = forecasts(max(sum(len(block) for block in blocks), 1))
    prediction, reasons = drawn[0] if prediction is None else prediction, drawn[1] if reasons is None else reasons
    done = 0
    with open_part(OutputFolder(folder), part.unit.part_path, WindowForm(schema, BUNDLE_ID)) as writer:
        for block in blocks:
            rows = slice(done, done + len(block))
            writer.add(block, prediction[rows], reasons[rows])
            done += len(block)
        writer.finish(part)
    return folder / part.unit.part_path


@pytest.fixture
def written(tmp_path):
    table = make_table()
    return write(tmp_path / "out", slices(table), table.schema)


def test_rows_come_out_in_their_order_with_the_copied_columns_unchanged(written):
    table, found = make_table(), pq.ParquetFile(written).read()
    assert found.column_names == [*table.column_names, "prediction", "reject_reason", "bundle_id"]
    copied = found.select(table.column_names)
    assert copied.schema.types == table.schema.types
    assert copied.equals(table)


def test_a_good_row_has_its_forecast_and_a_reject_has_its_reason_never_both(written):
    prediction, reasons = forecasts()
    found = pq.ParquetFile(written).read()
    assert (reasons != 0).sum() > 5
    for row, (made, reason) in enumerate(
        zip(found["prediction"].to_pylist(), found["reject_reason"].to_pylist(), strict=True)
    ):
        assert made == (prediction[row].tolist() if reasons[row] == 0 else None)
        assert reason == (REASONS[reasons[row]] or None)


def test_a_part_of_nothing_but_rejects_keeps_its_rows(tmp_path):
    table = make_table(5)
    reasons = np.full(5, reason_code("past_shape"), np.uint8)
    found = pq.ParquetFile(write(tmp_path, slices(table), table.schema, reasons=reasons)).read()
    assert found["prediction"].to_pylist() == [None] * 5
    assert found["reject_reason"].to_pylist() == ["past_shape"] * 5


def test_our_columns_have_the_types_of_the_contract(written):
    schema = pq.read_schema(written)
    assert schema.field("prediction").type == pa.list_(pa.float32())
    assert schema.field("reject_reason").type == pa.string()
    assert schema.field("bundle_id").type == pa.dictionary(pa.int32(), pa.string())
    assert set(pq.ParquetFile(written).read()["bundle_id"].to_pylist()) == {BUNDLE_ID}
    group = pq.read_metadata(written).row_group(0)
    column = group.column(group.num_columns - 1)
    assert column.path_in_schema == "bundle_id"
    assert column.has_dictionary_page


def test_the_bytes_do_not_depend_on_how_the_blocks_lie_in_memory(written, tmp_path):
    table = make_table()
    fresh = [block.take(pa.array(range(len(block)))) for block in slices(table)]
    assert write(tmp_path / "fresh", fresh, table.schema).read_bytes() == written.read_bytes()


def test_a_row_group_of_several_pages_has_the_same_bytes_in_one_block_and_in_eight(tmp_path):
    rows, width = 700, 40
    numbers = pa.array(np.random.default_rng(8).normal(size=BLOCKS_PER_ROW_GROUP * rows * width))
    whole = pa.record_batch({"target": pa.FixedSizeListArray.from_arrays(numbers, width)})
    blocks = [whole.slice(start, rows) for start in range(0, len(whole), rows)]
    assert len(blocks) == BLOCKS_PER_ROW_GROUP
    at_once, in_eight = write(tmp_path / "one", [whole], whole.schema), write(tmp_path / "eight", blocks, whole.schema)
    assert in_eight.read_bytes() == at_once.read_bytes()
    assert pq.read_metadata(at_once).row_group(0).column(0).total_uncompressed_size > 1 << 20


def test_blocks_whose_dictionaries_differ_keep_their_words(tmp_path):
    words = [["a", "b"], ["c", None], ["b", "a"]]
    blocks = [pa.record_batch({"word": pa.array(pair).dictionary_encode()}) for pair in words]
    found = pq.ParquetFile(write(tmp_path, blocks, blocks[0].schema)).read()
    assert found["word"].to_pylist() == ["a", "b", "c", None, "b", "a"]
    assert found.schema.field("word").type == blocks[0].schema.field("word").type


@pytest.mark.parametrize("group", [1, 10, 33, 1000])
def test_the_bytes_do_not_depend_on_the_row_groups_of_the_input(tmp_path, group):
    table, made = make_table().drop_columns(["word"]), []
    for size in (group, ROWS):
        source = tmp_path / str(size) / "a.parquet"
        source.parent.mkdir(exist_ok=True)
        pq.write_table(table, source, row_group_size=size)
        layout = Layout({}, tuple(table.column_names), ())
        with open_dataset(str(source)).open(source.name) as file:
            blocks = list(read_blocks(file, PART.unit, layout, BlockSize(BLOCK, 1 << 30), Stop()))
        made.append(write(tmp_path / f"out {size}", blocks, table.schema).read_bytes())
    assert made[0] == made[1]


def test_writing_the_same_again_gives_the_same_bytes(written, tmp_path):
    table = make_table()
    assert write(tmp_path / "again", slices(table), table.schema).read_bytes() == written.read_bytes()


def test_row_groups_have_a_fixed_number_of_blocks(written):
    metadata = pq.read_metadata(written)
    full = BLOCKS_PER_ROW_GROUP * BLOCK
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [full, ROWS - full]


def test_every_page_is_compressed_with_zstd_and_has_a_checksum(written):
    metadata = pq.read_metadata(written)
    group = metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    whole = written.read_bytes()
    for column in columns:
        end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
        damaged = bytearray(whole)
        damaged[end - 1] ^= 1
        written.write_bytes(damaged)
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(written, page_checksum_verification=True).read_row_group(0)


def test_the_footer_tells_the_part(written):
    assert decode_footer(pq.read_metadata(written).metadata) == PART


def test_the_footer_holds_the_digest_of_the_file_in_which_that_digest_is_blank(written):
    whole, told = written.read_bytes(), pq.read_metadata(written).metadata[PART_DIGEST_KEY]
    assert whole.count(told) == 1
    assert hashlib.sha256(whole.replace(told, b"0" * 64)).hexdigest().encode() == told


def test_what_other_tools_noted_in_the_schema_is_not_copied(tmp_path):
    table = make_table().replace_schema_metadata({"pandas": "{}", "huggingface": "{}"})
    names = ("note", "id")
    schema = copied_schema(table.schema, names)
    assert schema.names == list(names)
    assert not schema.metadata
    path = write(tmp_path, slices(table), schema)
    assert set(pq.read_metadata(path).metadata) == {b"ARROW:schema", FOOTER_KEY, LEDGER_DIGEST_KEY, PART_DIGEST_KEY}
    assert not {b"pandas", b"huggingface"} & set(pq.read_schema(path).metadata or {})


def test_an_input_without_rows_makes_a_part_with_the_whole_schema(tmp_path):
    table = make_table()
    found = pq.ParquetFile(write(tmp_path, [], table.schema)).read()
    assert len(found) == 0
    assert found.schema.types[:5] == table.schema.types
    assert found.column_names[5:] == ["prediction", "reject_reason", "bundle_id"]


def test_a_part_that_fails_shows_nothing_and_leaves_the_old_one_alone(written):
    before, table = written.read_bytes(), make_table()
    prediction, reasons = forecasts(BLOCK)

    def fail():
        with open_part(OutputFolder(written.parent), written.name, WindowForm(table.schema, BUNDLE_ID)) as writer:
            writer.add(slices(table)[0], prediction, reasons)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_part_is_invisible_until_it_is_finished(tmp_path):
    table = make_table()
    prediction, reasons = forecasts(BLOCK)
    with open_part(OutputFolder(tmp_path), "deep/a.parquet", WindowForm(table.schema, BUNDLE_ID)) as writer:
        writer.add(slices(table)[0], prediction, reasons)
        (unfinished,) = (tmp_path / "deep").iterdir()
        assert unfinished.name.startswith(".")
        assert unfinished.suffix != ".parquet"
        writer.finish(PART)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.parquet"]
