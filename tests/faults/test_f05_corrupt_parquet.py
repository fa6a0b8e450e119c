"""F5: truncated or corrupt Parquet is exit 11 and named; never a traceback, a crash, a hang or partial rows."""

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from campaigns import parquet_mutations, pool
from campaigns.parquet_files import make_bases
from campaigns.scoring import NAME, opened
from campaigns.thrift import varint, zigzag
from campaigns.watch import run_measured
from runner.config import Job
from runner.dataset import open_dataset
from runner.errors import InputError
from runner.run import run_job
from runner.stop import Stop

SEED = random.SystemRandom().randrange(1 << 32)
TRIES = 300
PEAK_MIB = 400
DATA = os.environ.get("FREERUN_TEST_DATA")
BAD_FOLDER = (Path(DATA) if DATA else Path(__file__).parents[2].parent / "shared" / "data") / "parquet-bad"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {base.name: base for base in make_bases(tmp_path_factory.mktemp("bases"))}


@pytest.fixture
def scorer(tiny_bundle, tmp_path):
    with opened(tiny_bundle, tmp_path / "scorer") as found:
        yield found


def with_number(base, field, value, *, in_footer):
    """Write another number in place of a Thrift field's, as long as the old one."""
    width = field.end - field.start
    patch = varint(zigzag(value), width)
    assert len(patch) == width
    assert (field.start >= base.footer) == in_footer
    return base.content[: field.start] + patch + base.content[field.end :]


def test_f05_a_damaged_file_is_refused_by_name_or_scored_as_what_it_says_now(tmp_path):
    print(f"seed {SEED}")
    found = parquet_mutations.run(TRIES, SEED, tmp_path)
    print(found.what, found.peak_mib, found.seconds)
    assert found.failures == ()
    assert (found.tried, found.survived, found.rows_lost, found.rows_doubled) == (TRIES, TRIES, 0, 0)


@pytest.mark.parametrize("kind", [1, 7], ids=["an index", "what nobody knows"])
def test_f05_rows_whose_page_says_it_holds_something_else_are_damage_and_not_fewer_rows(bases, scorer, kind):
    base = bases["fixed lists, plain, unchecked"]
    page = next(page for page in base.pages if page.group == 1)
    says = next(field for field in page.header if field.path == (1,))
    report = scorer.score(with_number(base, says, kind, in_footer=False))
    assert report.exit_code == 11
    assert f"{NAME} is damaged in row group 1" in report.error
    assert "0 rows, where the footer tells of 6" in report.error
    assert scorer.visible() == set()


@pytest.mark.parametrize("change", [1, -1, -7], ids=str)
def test_f05_a_footer_whose_row_groups_do_not_add_up_is_refused_before_the_first_row(bases, scorer, change):
    base = bases["lists, zstd, checked"]
    rows = next(field for field in base.fields if field.path == (4, 1, 3))
    report = scorer.score(with_number(base, rows, rows.value + change, in_footer=True))
    assert report.exit_code == 11
    assert f"{NAME} is not a readable Parquet file" in report.error
    assert str(rows.value + change) in report.error
    assert scorer.visible() == set()


def test_f05_a_page_that_claims_a_gigabyte_is_refused_and_never_given_it(bases, tiny_bundle, tmp_path):
    base = bases["fixed lists, plain, checked"]
    claims = next(field for field in base.pages[-1].header if field.path == (3,))  # the very last page: nothing shifts
    content = base.content[: claims.start] + varint(zigzag(1 << 30)) + base.content[claims.end :]
    (tmp_path / NAME).write_bytes(content)
    done = run_measured("score", tiny_bundle, tmp_path / NAME, "--out", tmp_path / "out", "--quiet")
    assert done.code == 11
    assert f"{NAME} is damaged in row group 2" in done.messages
    assert done.peak_mib < PEAK_MIB


def test_f05_a_file_cut_at_any_byte_is_refused_by_name(bases, tmp_path):
    content, path = bases["of duckdb"].content, tmp_path / NAME
    path.write_bytes(content)
    dataset = open_dataset(str(path))
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(InputError, match=NAME), dataset.open(NAME):
            pass


def test_f05_a_damaged_file_takes_nothing_from_the_files_beside_it(tiny, tiny_bundle, bases, tmp_path):
    base = bases["fixed lists, plain, checked"]
    damaged = bytearray(base.content)
    damaged[base.pages[-1].end - 1] ^= 1
    whole = tiny.write_dataset(tmp_path / "in", {"a.parquet": 70, "z.parquet": 41})
    calm = run_job(Job(tiny_bundle, str(whole), tmp_path / "calm"), Stop(), lambda *_: None)
    (whole / NAME).write_bytes(damaged)
    report = run_job(Job(tiny_bundle, str(whole), tmp_path / "out"), Stop(), lambda *_: None)
    assert (report.exit_code, report.to_do) == (11, 1)
    assert "row group 2" in report.error
    assert report.total == calm.total
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == ["a.parquet", "z.parquet"]
    for name in ("a.parquet", "z.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


@pytest.fixture(scope="module")
def bad():
    found = sorted(BAD_FOLDER.glob("*.parquet"))
    if not found:
        pytest.skip("the malformed files of apache/parquet-testing are not here; FREERUN_TEST_DATA names their parent")
    return found


def test_f05_malformed_files_of_the_wild_are_exit_11_each_and_all_at_once(bad, scorer, freerun, tiny_bundle, tmp_path):
    for path in bad:
        report = scorer.score(path.read_bytes())
        assert (report.exit_code, NAME in report.error) == (11, True), path.name
        assert scorer.visible() == set()
    ended = freerun("score", tiny_bundle, BAD_FOLDER, "--out", tmp_path / "out")
    assert ended.code == 11
    assert "Traceback" not in ended.err
    unreadable = [path.name for path in bad if not readable(path)]
    assert all(name in ended.err for name in unreadable or [path.name for path in bad])


def readable(path):
    try:
        pq.ParquetFile(path)
    except OSError:
        return False
    return True


MISBEHAVE = """lambda index: (
    __import__("os").abort() if index == 1 else
    __import__("time").sleep(60) if index == 2 else
    1 // (index - 3)
)"""


def test_f05_a_campaign_counts_a_crash_a_hang_and_a_bug_and_goes_on():
    found = {tried.index: tried for tried in pool.each(eval, MISBEHAVE, 8, patience=5)}
    assert sorted(found) == list(range(8))
    assert {index for index, tried in found.items() if tried.death} == {1, 2, 3}
    assert found[1].death == "exit -6"
    assert found[2].death.startswith("no answer within 5 s")
    assert "ZeroDivisionError" in found[3].death
    assert found[7].result == 0
    assert found[7].peak_mib > 1
