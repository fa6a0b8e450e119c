"""F26: an input replaced while it is read is never scored half from each; one restated later is scored again.

What is promised: a change is seen if it leaves another size, mtime, ctime or inode. The first two can be restored by
hand, the others cannot; changes within one tick of the file system's clock look alike (10 ms at most, and on recent
kernels none do). Where all four are the same, `--recheck` still sees it, for it reads every byte.
"""

import contextlib
import os
import random
import time

import pyarrow.parquet as pq
import pytest

import runner.feed
from campaigns import replaced_inputs
from campaigns.hand_made import TINY
from campaigns.scoring import opened
from runner.dataset import Dataset, Identity

SEED = random.SystemRandom().randrange(1 << 32)
RACES = 40
ROWS = {"a.parquet": 7, "b.parquet": 23, "c.parquet": 9}
TICK = 0.02


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f26")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    for seed, (name, rows) in enumerate(ROWS.items()):
        plain = {"compression": "none", "use_dictionary": False}
        pq.write_table(TINY.make_table(rows, seed), tmp_path / "in" / name, row_group_size=6, **plain)
    return tmp_path / "in"


@pytest.fixture
def done(scorer, source):
    """Return the parts of a finished run, the raced file's still in its first version."""
    assert scorer.run(source).exit_code == 0
    time.sleep(TICK)
    return parts(scorer)


def parts(scorer):
    return {path.name: path.read_bytes() for path in sorted(scorer.out.glob("*.parquet"))}


def test_f26_an_input_raced_by_a_replacer_is_scored_as_one_of_its_versions_or_not_at_all(tmp_path):
    print(f"seed {SEED}")
    found = replaced_inputs.run(RACES, SEED, tmp_path)
    print(found.what, found.seconds)
    assert found.failures == ()
    assert (found.survived, found.torn) == (RACES, 0)


SEAMS = ("identity", "sha256", "open")


class Seams:
    """Counts every step at which a run looks at the raced file, and does something at one of them."""

    def __init__(self, monkeypatch, name, number, action):
        self.name, self.left, self.action = name, number, action
        for seam in SEAMS:
            monkeypatch.setattr(Dataset, seam, self.around(getattr(Dataset, seam)))
        read_blocks = runner.feed.read_blocks

        def blocks(file, unit, *rest):
            for block in read_blocks(file, unit, *rest):
                self.pass_(unit.path)
                yield block

        monkeypatch.setattr("runner.feed.read_blocks", blocks)

    def around(self, method):
        def passed(dataset, path, *rest):
            found = method(dataset, path, *rest)
            if isinstance(found, contextlib.AbstractContextManager):
                return self.opened(path, found)
            self.pass_(path)
            return found

        return passed

    @contextlib.contextmanager
    def opened(self, path, manager):
        with manager as file:
            self.pass_(path)
            yield file

    def pass_(self, path):
        if path == self.name:
            self.left -= 1
            if self.left == -1:
                self.action()


@pytest.mark.parametrize("kind", ["other rows", "one value, size and mtime restored", "other columns"])
def test_f26_a_replacement_at_any_step_gives_one_version_or_the_other_and_the_next_run_the_new_one(
    scorer, source, done, tmp_path, monkeypatch, kind
):
    path, old = source / "b.parquet", (source / "b.parquet").read_bytes()
    new = other_version(kind, path, tmp_path / "new")
    calm = scorer.run(source)
    wanted, seen = parts(scorer), {"old": 0, "new": 0}
    assert wanted["b.parquet"] != done["b.parquet"]
    for number in range(100):
        replace(path, old)
        with monkeypatch.context() as patched:
            seams = Seams(patched, "b.parquet", number, lambda: replace(path, new, stat_of=path))
            report = scorer.run(source)
        if seams.left >= 0:
            break
        made = parts(scorer)["b.parquet"]
        seen["new" if made == wanted["b.parquet"] else "old"] += 1
        assert (report.exit_code, made in {done["b.parquet"], wanted["b.parquet"]}) == (0, True), number
        again = scorer.rerun(source)
        assert (again.exit_code, again.total, parts(scorer)) == (0, calm.total, wanted), number
    assert number > 6
    assert seen["new"] > 4
    assert seen["old"] >= 1  # the very last look was past


def other_version(kind, path, beside):
    """Write another version in place of a file, and return its content."""
    table = pq.ParquetFile(path).read()
    if kind == "other columns":
        table = table.drop_columns(["note"]).append_column("more", table["id"])
    elif kind == "other rows":
        table = TINY.make_table(31, seed=99)
    else:
        restate(path)
        return path.read_bytes()
    pq.write_table(table, beside)
    replace(path, beside.read_bytes())
    return path.read_bytes()


def restate(path):
    """Change one value in place, and leave the size and the modification time as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    at = content.index(b"row 3")
    content[at : at + 5] = b"row X"
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(path, content, stat_of=None):
    """Rename another file over this one; its times may pretend that nothing happened."""
    incoming = path.with_name("incoming")
    incoming.write_bytes(content)
    if stat_of:
        times = stat_of.stat()
        os.utime(incoming, ns=(times.st_atime_ns, times.st_mtime_ns))
    incoming.replace(path)


def renamed(path):
    table = pq.ParquetFile(path).read()
    content = path.read_bytes().replace(b"row 3", b"row X")
    assert len(table) == ROWS[path.name]
    replace(path, content, stat_of=path)


@pytest.mark.parametrize("how", [restate, renamed], ids=["in place", "renamed over"])
@pytest.mark.parametrize("name", sorted(ROWS))
def test_f26_one_value_restated_later_is_found_although_size_and_mtime_are_restored(scorer, source, done, name, how):
    how(source / name)
    report = scorer.rerun(source)
    assert (report.exit_code, report.already_done, report.this_run.parts) == (0, len(ROWS) - 1, 1)
    made = parts(scorer)
    assert {part for part in made if made[part] != done[part]} == {name}
    assert scorer.rerun(source).already_done == len(ROWS)
    calm = scorer.run(source)
    assert (parts(scorer), report.total) == (made, calm.total)


def blind(monkeypatch):
    """Let every file look as if it had always been the same, as on a store that keeps no times."""
    monkeypatch.setattr(Dataset, "identity", lambda _, path: Identity(1000 + len(path), 0, 0, 0))


@pytest.mark.parametrize("how", ["--recheck", "the ledger is lost"])
def test_f26_a_change_that_leaves_no_trace_is_found_by_reading_every_byte(scorer, source, monkeypatch, how):
    blind(monkeypatch)
    scorer.run(source)
    before = parts(scorer)
    restate(source / "b.parquet")
    assert scorer.rerun(source).this_run.parts == 0, "this is what --recheck is for"
    assert parts(scorer) == before
    if how == "the ledger is lost":
        (scorer.out / "_ledger.json").unlink()
    report = scorer.rerun(source, recheck=how == "--recheck")
    assert (report.exit_code, report.this_run.parts) == (0, 1)
    assert {name for name, content in parts(scorer).items() if content != before[name]} == {"b.parquet"}
    assert scorer.rerun(source).already_done == len(ROWS)


@pytest.mark.parametrize("recheck", [True, False])
def test_f26_a_file_that_was_only_touched_or_copied_is_not_scored_again(scorer, source, done, recheck):
    os.utime(source / "a.parquet")
    replace(source / "b.parquet", (source / "b.parquet").read_bytes())
    report = scorer.rerun(source, recheck=recheck)
    assert (report.exit_code, report.already_done, report.this_run.parts) == (0, len(ROWS), 0)
    assert parts(scorer) == done


def test_f26_a_file_that_goes_at_any_step_is_named_as_gone_and_the_next_run_does_without_it(
    scorer, source, monkeypatch
):
    path, content = source / "b.parquet", (source / "b.parquet").read_bytes()
    others_scored = 0
    for number in range(100):
        path.write_bytes(content)
        with monkeypatch.context() as patched:
            seams = Seams(patched, "b.parquet", number, path.unlink)
            report = scorer.run(source)
        if seams.left >= 0:
            break
        if report.exit_code:
            assert (report.exit_code, "b.parquet is gone" in report.error) == (11, True), number
            assert set(parts(scorer)) in (set(), {"a.parquet", "c.parquet"})
            others_scored += bool(parts(scorer))
        again = scorer.rerun(source)
        assert (again.exit_code, again.total.rows.read, again.orphans) == (0, 16, report.exit_code == 0)
    assert number > 6
    assert others_scored > 2
