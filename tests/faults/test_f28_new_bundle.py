"""F28: a new bundle meets an old output: refused with counts until told which; nothing issued is lost unasked."""

import itertools
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from runner.config import Job
from runner.errors import UsageError
from runner.pipeline import Pipeline
from runner.run import run_job
from runner.stop import Stop

SEED = random.SystemRandom().randrange(1 << 32)
OLD_ROWS = {"a.parquet": 30, "b.parquet": 25, "day=1/c.parquet": 11}
NEW_ROWS = {"d.parquet": 20, "day=2/e.parquet": 7}
OPTIONS = {"rows_per_part": 12, "max_reject_rate": 0.0}
MAY_DIFFER = {"run_id", "started_at", "finished_at", "seconds", "windows_per_second", "already_done", "out"}


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


@pytest.fixture(scope="module")
def old(tiny, tmp_path_factory):
    return tiny.make_bundle(tmp_path_factory.mktemp("f28") / "old")


@pytest.fixture(scope="module")
def new(tiny, tmp_path_factory):
    return tiny.make_bundle(tmp_path_factory.mktemp("f28") / "new", seed=1)


@pytest.fixture
def source(tiny, tmp_path):
    return tiny.write_dataset(tmp_path / "in", OLD_ROWS, row_group_size=10)


@pytest.fixture
def issued(tiny, old, source, tmp_path):
    """Return an output of the old bundle; new input has come in since."""
    assert score(old, source, tmp_path / "out").exit_code == 0
    for seed, (name, rows) in enumerate(NEW_ROWS.items(), start=10):
        (source / name).parent.mkdir(exist_ok=True)
        pq.write_table(tiny.make_table(rows, seed), source / name, row_group_size=10)
    return tmp_path / "out"


def score(bundle, source, out, **options):
    return run_job(Job(bundle, str(source), out, **{**OPTIONS, **options}), Stop(), lambda *_: None)


def contents(folder):
    """Return what is in a folder, but for the lock and what a dead run has not finished."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def parts(folder):
    return {name: content for name, content in contents(folder).items() if name.endswith(".parquet")}


def findings(report):
    return {key: value for key, value in report.model_dump().items() if key not in MAY_DIFFER}


def makers(folder):
    """Return which bundle each part says it is of, in its rows."""
    return {name: set(pq.ParquetFile(folder / name).read()["bundle_id"].to_pylist()) for name in parts(folder)}


def bundle_id(tiny, bundle):
    return tiny.read_manifest(bundle)["bundle_id"]


def test_f28_the_command_refuses_with_counts_and_both_ids_and_touches_nothing(tiny, old, new, source, issued, freerun):
    before = contents(issued)
    ended = freerun("score", new, source, "--out", issued, "--rows-per-part", "12", "--json")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    for text in (f"{len(parts(issued))} parts", bundle_id(tiny, old)[:12], bundle_id(tiny, new)[:12], "--rescore none"):
        assert text in ended.err
    assert ended.json()["exit_code"] == 2
    assert contents(issued) == before


@pytest.mark.parametrize("policy", ["none", "all"])
def test_f28_each_policy_does_what_it_says_to_what_was_issued(tiny, old, new, source, issued, tmp_path, policy):
    before = parts(issued)
    report = score(new, source, issued, rescore=policy)
    after = parts(issued)
    fresh = score(new, source, tmp_path / "fresh")
    wanted = parts(tmp_path / "fresh")
    assert (report.exit_code, set(after)) == (0, set(wanted))
    if policy == "none":
        assert {name: after[name] for name in before} == before
        assert {name: after[name] for name in after if name not in before} == {
            name: wanted[name] for name in wanted if name not in before
        }
        assert (report.history, report.total.rows.read) == (len(before), sum(NEW_ROWS.values()))
        assert set.union(*makers(issued).values()) == {bundle_id(tiny, old), bundle_id(tiny, new)}
    else:
        assert after == wanted
        assert (report.history, report.total) == (0, fresh.total)
        assert set.union(*makers(issued).values()) == {bundle_id(tiny, new)}


@pytest.mark.parametrize("step", ["_finish", "_commit"])
@pytest.mark.parametrize("policy", ["none", "all"])
def test_f28_a_run_that_dies_after_any_part_is_resumed_under_the_same_policy(
    tiny, old, new, source, issued, tmp_path, monkeypatch, policy, step
):
    out, before = tmp_path / "again", contents(issued)
    undisturbed, left = findings(score(new, source, issued, rescore=policy)), contents(issued)
    kept = {name: content for name, content in before.items() if name.endswith(".parquet")}
    to_make = undisturbed["this_run"]["parts"]
    assert to_make == (3 if policy == "none" else 10)
    for count in range(0, to_make, 1 if policy == "none" else 3):
        restore(out, before)
        with monkeypatch.context() as patched:
            dying_after(patched, count, step)
            with pytest.raises(DeathError):
                score(new, source, out, rescore=policy)
        made = parts(out)
        assert policy == "all" or {name: made[name] for name in kept} == kept
        assert not (out / "_SUCCESS").exists()
        refuses_with_the_count_of_what_is_old(bundle_id(tiny, old), new, source, out)
        resumed = score(new, source, out, rescore=policy)
        assert findings(resumed) == undisturbed
        assert without_report(contents(out)) == without_report(left)
        assert not list(out.rglob("*freerun-tmp"))


def dying_after(monkeypatch, count, step):
    take, calls = getattr(Pipeline, step), itertools.count()

    def limited(self, *arguments):
        if next(calls) >= count:
            raise DeathError
        return take(self, *arguments)

    monkeypatch.setattr(Pipeline, step, limited)


def restore(folder, files):
    for path in sorted(folder.rglob("*"), reverse=True) if folder.exists() else []:
        path.rmdir() if path.is_dir() else path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def without_report(files):
    return {name: content for name, content in files.items() if name != "_report.json"}


def refuses_with_the_count_of_what_is_old(old_id, new, source, out):
    """A run that is told nothing stops for as long as anything of the old bundle is there."""
    count = sum(old_id in ids for ids in makers(out).values())
    before = contents(out)
    if count:
        with pytest.raises(UsageError, match=f"^{count} parts in"):
            score(new, source, out)
    assert contents(out) == before


@pytest.mark.parametrize("policy", ["none", "all"])
def test_f28_a_run_that_is_killed_is_finished_under_the_same_policy(tiny, old, new, tmp_path, policy):
    print(f"seed {SEED}")
    draw, out, source = random.Random(SEED), tmp_path / "out", tmp_path / "in"
    tiny.write_dataset(source, {f"f{n:02d}.parquet": 200 + n for n in range(20)})
    score(old, source, out)
    tiny.write_dataset(source, {f"g{n:02d}.parquet": 200 + n for n in range(20)})
    before = parts(out)
    restore(tmp_path / "calm", contents(out))
    score(new, source, tmp_path / "calm", rescore=policy)
    killed(new, source, out, policy, draw.randrange(1, 18))
    assert all(pq.ParquetFile(path).metadata for path in out.rglob("*.parquet"))
    assert policy == "all" or {name: parts(out)[name] for name in before} == before
    score(new, source, out, rescore=policy)
    assert without_report(contents(out)) == without_report(contents(tmp_path / "calm"))


def killed(bundle, source, out, policy, wanted):
    """Start the command, and kill it once it has made so many more parts."""
    flags = ["--out", out, "--rescore", policy, "--rows-per-part", OPTIONS["rows_per_part"], "--quiet"]
    command = [sys.executable, "-c", "from runner.cli import main; main()", "score", bundle, source, *flags]
    there = {path: path.stat().st_ino for path in out.rglob("*.parquet")}
    running = subprocess.Popen(list(map(str, command)))
    while running.poll() is None and made_since(out, there) < wanted:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()


def made_since(out, there):
    return sum(there.get(path) != path.stat().st_ino for path in out.rglob("*.parquet"))
