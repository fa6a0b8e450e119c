"""F6: a bit that flips at rest is found when our own files are read again."""

import json
import random

import pyarrow.parquet as pq
import pytest

from campaigns import commit_path
from runner.parts import decode_footer
from runner.stop import Stop
from runner.storage import OutputFolder
from runner.verify_output import verify_output


@pytest.fixture
def scored(tiny, tiny_bundle, freerun, tmp_path):
    tiny.write_dataset(tmp_path / "in", {"a.parquet": 3, "date=1/b.parquet": 5})
    done = freerun("score", tiny_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet")
    assert done.code == 0, done.err
    return tmp_path / "out"


def problems(out):
    return verify_output(OutputFolder(out), Stop()).problems


def test_f06_a_flipped_bit_anywhere_in_a_part_is_found(scored):
    first = random.SystemRandom().randrange(10)
    print(f"first byte {first}")
    result = commit_path.flips(scored / "a.parquet", first, 10)
    assert result.failures == ()
    assert result.tried > 400


def test_f06_the_command_names_the_part_and_ends_with_11(scored, freerun):
    good = freerun("verify-output", scored)
    assert (good.code, good.out) == (0, "good: 2 parts, 8 rows (0 rejected), complete\n")
    part = scored / "date=1" / "b.parquet"
    content = bytearray(part.read_bytes())
    content[200] ^= 1
    part.write_bytes(content)
    bad = freerun("verify-output", scored)
    assert (bad.code, bad.out) == (11, "")
    assert "date=1/b.parquet: was altered: sha256 " in bad.err
    assert "remedy: " in bad.err
    assert part.read_bytes() == content


def test_f06_a_part_that_was_removed_as_told_is_made_anew(scored, tiny_bundle, freerun, tmp_path):
    whole = (scored / "a.parquet").read_bytes()
    (scored / "a.parquet").unlink()
    assert "1 of 2 parts are missing" in "".join(problems(scored))
    assert freerun("score", tiny_bundle, tmp_path / "in", "--out", scored, "--quiet").code == 0
    assert (scored / "a.parquet").read_bytes() == whole
    assert problems(scored) == ()


@pytest.mark.parametrize("flipped", [False, True])
def test_f06_a_run_does_not_take_a_part_for_done_whose_ledger_was_altered(
    scored, tiny_bundle, freerun, tmp_path, flipped
):
    part = scored / "a.parquet"
    content = part.read_bytes()
    assert content.count(b'"scored": 3') == 1
    part.write_bytes(content.replace(b'"scored": 3', b'"scored": 2') if flipped else content)
    done = freerun("score", tiny_bundle, tmp_path / "in", "--out", scored, "--json")
    assert done.code == (14 if flipped else 0), done.err
    assert not flipped or "did not write" in done.err


def test_f06_a_report_that_tells_something_else_than_the_parts_is_found(scored):
    path = scored / "_report.json"
    report = json.loads(path.read_text())
    report["total"]["rows"]["scored"] -= 1
    path.write_text(json.dumps(report))
    assert any("total.rows is " in line for line in problems(scored))
    path.write_text("{}")
    assert any(line.startswith("_report.json: ") for line in problems(scored))
    path.unlink()
    assert any("_report.json is missing" in line for line in problems(scored))


def test_f06_a_part_in_the_wrong_place_and_a_strangers_file_are_found(scored, tiny):
    (scored / "a.parquet").rename(scored / "c.parquet")
    pq.write_table(tiny.make_table(2), scored / "theirs.parquet")
    found = "\n".join(problems(scored))
    assert "c.parquet: belongs at a.parquet" in found
    assert "theirs.parquet: freerun did not write it" in found


def test_f06_parts_that_hold_the_same_rows_twice_are_found(scored, tiny_bundle, freerun, tmp_path):
    options = ["--out", tmp_path / "cut", "--rows-per-part", 1, "--quiet"]
    pq.write_table(
        pq.ParquetFile(tmp_path / "in" / "a.parquet").read(), tmp_path / "in" / "a.parquet", row_group_size=1
    )
    assert freerun("score", tiny_bundle, tmp_path / "in", *options).code == 0
    assert problems(tmp_path / "cut") == ()
    (scored / "a.rg00001-00001.parquet").write_bytes((tmp_path / "cut" / "a.rg00001-00001.parquet").read_bytes())
    assert any("a.parquet: 2 parts hold some of its rows twice" in line for line in problems(scored))


def test_f06_a_success_that_is_missing_and_what_a_dead_run_left_are_told(scored, freerun):
    (scored / ".1234.freerun-tmp").write_bytes(b"half")
    noted = freerun("verify-output", scored)
    assert noted.code == 0
    assert "note: 1 unfinished files" in noted.err
    (scored / "_SUCCESS").unlink()
    assert any("_SUCCESS is missing" in line for line in problems(scored))


def test_f06_a_folder_that_somebody_scores_into_is_busy(scored, freerun):
    import fcntl  # noqa: PLC0415

    with (scored / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert freerun("verify-output", scored).code == 75
    assert freerun("verify-output", scored / "nothing").code == 11


def test_f06_the_rows_are_counted_too_and_not_only_hashed(scored, monkeypatch):
    def lying(footer):
        part = decode_footer(footer)
        return type(part)(**{name: getattr(part, name) for name in part.__slots__} | {"scored": part.scored + 1})

    monkeypatch.setattr("runner.verify_output.decode_footer", lying)
    assert any("has 3 rows, its input 3; 4 scored" in line for line in problems(scored))
