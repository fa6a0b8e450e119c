"""F27: upstream compacts or removes inputs: orphans are counted and told, never doubled in `total`, never deleted."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.hand_made import TINY
from campaigns.scoring import opened
from runner.errors import UsageError


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f27")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


@pytest.fixture
def source(tmp_path):
    return TINY.write_dataset(tmp_path / "in", {"day=1/a.parquet": 20, "day=1/b.parquet": 15, "day=2/d.parquet": 9})


def compact(source, names, into, row_group_size=50):
    """Write the rows of some files into one, and remove them."""
    table = pa.concat_tables([pq.ParquetFile(source / name).read() for name in names])
    for name in names:
        (source / name).unlink()
    pq.write_table(table, source / into, row_group_size=row_group_size)


def parts(scorer):
    return {str(path.relative_to(scorer.out)): path.read_bytes() for path in sorted(scorer.out.rglob("*.parquet"))}


def ids(paths):
    return Counter(value for path in paths for value in pq.ParquetFile(path).read()["id"].to_pylist())


def ids_of_units(scorer, source):
    """Return the ids in the parts of files that are there."""
    here = {str(path.relative_to(source)) for path in source.rglob("*.parquet")}
    found = [path for path in scorer.out.rglob("*.parquet") if made_of(path, scorer.out) in here]
    return ids(found)


def made_of(part, out):
    """Return the input that a part was made of, by its name."""
    name = str(part.relative_to(out))
    stem, ranged, _ = name.partition(".rg0")
    return f"{stem}.parquet" if ranged else name


@pytest.mark.parametrize("orphans", ["keep", "prune"])
@pytest.mark.parametrize("into", ["day=1/c.parquet", "day=1/a.parquet"], ids=["a + b into c", "a + b into a"])
@pytest.mark.parametrize("rows_per_part", [1_000_000, 12], ids=["whole", "cut"])
def test_f27_compacted_rows_count_once_and_what_they_were_made_of_are_orphans(
    scorer, source, orphans, into, rows_per_part
):
    before = scorer.run(source, rows_per_part=rows_per_part)
    old = parts(scorer)
    compact(source, ["day=1/a.parquet", "day=1/b.parquet"], into, row_group_size=5)
    report = scorer.rerun(source, rows_per_part=rows_per_part, orphans=orphans)
    gone = {"day=1/a.parquet", "day=1/b.parquet"} - {into}
    left = {name for name in old if made_of(scorer.out / name, scorer.out) in gone}
    assert (report.exit_code, report.orphans, report.total.rows.read) == (0, len(left), before.total.rows.read)
    assert any(f"{len(left)} parts have no input any more ({orphans}" in told for told in report.warnings)
    assert set(ids_of_units(scorer, source).values()) == {1}
    kept = {name: content for name, content in parts(scorer).items() if name in left}
    assert kept == ({name: old[name] for name in left} if orphans == "keep" else {})
    fresh = report.total
    assert scorer.run(source, rows_per_part=rows_per_part).total == fresh


def test_f27_a_reader_of_the_output_sees_compacted_rows_twice_only_until_the_orphans_are_pruned(scorer, source):
    scorer.run(source)
    compact(source, ["day=1/a.parquet", "day=1/b.parquet"], "day=1/c.parquet")
    kept = scorer.rerun(source)
    assert (kept.orphans, set(ids(scorer.out.rglob("*.parquet")).values())) == (2, {1, 2})
    assert scorer.rerun(source).orphans == 2, "told every night, not once"
    pruned = scorer.rerun(source, orphans="prune")
    assert (pruned.orphans, set(ids(scorer.out.rglob("*.parquet")).values())) == (2, {1})
    assert (scorer.rerun(source).orphans, scorer.rerun(source).warnings) == (0, ())


def test_f27_orphans_can_be_refused_with_their_names_and_nothing_is_touched(scorer, source):
    scorer.run(source)
    before = parts(scorer)
    compact(source, ["day=1/a.parquet", "day=1/b.parquet"], "day=1/c.parquet")
    (source / "day=2/d.parquet").unlink()
    with pytest.raises(UsageError, match="3 parts have no input any more") as caught:
        scorer.rerun(source, orphans="refuse")
    assert all(name in str(caught.value) for name in before)
    assert parts(scorer) == before


def test_f27_retention_of_everything_leaves_every_forecast_and_a_total_of_nothing(scorer, source):
    scorer.run(source)
    before = parts(scorer)
    for path in source.rglob("*.parquet"):
        path.unlink()
    assert scorer.rerun(source).exit_code == 11, "an empty input is more likely a fault than a wish"
    report = scorer.rerun(source, allow_empty=True)
    assert (report.exit_code, report.orphans, report.total.parts, report.total.masked_mse) == (0, 3, 0, None)
    assert parts(scorer) == before


def test_f27_an_input_that_comes_back_finds_its_part_and_is_no_orphan(scorer, source):
    scorer.run(source)
    before, content = parts(scorer), (source / "day=2/d.parquet").read_bytes()
    (source / "day=2/d.parquet").unlink()
    assert scorer.rerun(source).orphans == 1
    (source / "day=2/d.parquet").write_bytes(content)
    report = scorer.rerun(source)
    assert (report.orphans, report.already_done, report.this_run.parts) == (0, 3, 0)
    assert parts(scorer) == before


EVENTS = st.sampled_from(["add", "restate", "remove", "compact", "compact into the first", "come back"])
NIGHTS = st.lists(
    st.tuples(st.lists(EVENTS, max_size=3), st.sampled_from(["keep", "keep", "prune"])), min_size=1, max_size=5
)


@settings(max_examples=25, deadline=None, print_blob=True)
@given(NIGHTS, st.integers(0, 2**32), st.sampled_from([1_000_000, 7]))
def test_f27_whatever_upstream_does_night_after_night_the_total_is_that_of_the_present_input(
    scorer, tmp_path_factory, nights, seed, rows_per_part
):
    draw, source = random.Random(seed), tmp_path_factory.mktemp("nights")
    upstream = Upstream(source, draw)
    upstream.do("add")
    known = {}
    scorer.run(source, rows_per_part=rows_per_part)
    for events, orphans in nights:
        known |= parts(scorer)
        for event in events:
            upstream.do(event)
        there = {path.relative_to(source).as_posix() for path in source.rglob("*.parquet")}
        gone = {name for name in parts(scorer) if made_of(scorer.out / name, scorer.out) not in there}
        report = scorer.rerun(source, orphans=orphans, rows_per_part=rows_per_part)
        assert (report.exit_code, report.orphans) == (0, len(gone))
        assert ids_of_units(scorer, source) == ids(source.rglob("*.parquet"))
        assert report.total.rows.read == sum(ids(source.rglob("*.parquet")).values())
        now = parts(scorer)
        assert {name: now.get(name) for name in gone} == {
            name: known[name] if orphans == "keep" else None for name in gone
        }
    made, total = parts(scorer), report.total
    fresh = scorer.run(source, rows_per_part=rows_per_part)
    assert fresh.total == total
    assert parts(scorer) == {name: made[name] for name in parts(scorer)}


class Upstream:
    """Does to a folder what upstream does to it over the years; there is always at least one file."""

    def __init__(self, source, draw):
        self.source, self.draw, self.count, self.removed = source, draw, 0, {}

    def do(self, event):
        names = sorted(path.name for path in self.source.glob("*.parquet"))
        if event == "add" or len(names) < 2:
            self.count += 1
            self.write(f"n{self.count}.parquet")
        elif event == "restate":
            self.write(self.draw.choice(names))
        elif event == "remove":
            path = self.source / self.draw.choice(names)
            self.removed[path.name] = path.read_bytes()
            path.unlink()
        elif event == "come back" and self.removed:
            name = self.draw.choice(sorted(self.removed))
            (self.source / name).write_bytes(self.removed[name])
        elif event.startswith("compact"):
            pair = self.draw.sample(names, 2)
            self.count += 1
            into = pair[0] if event.endswith("first") else f"n{self.count}.parquet"
            compact(self.source, pair, into, row_group_size=5)

    def write(self, name):
        table = TINY.make_table(self.draw.randrange(1, 25), seed=self.draw.randrange(1000))
        pq.write_table(table, self.source / name, row_group_size=5)
