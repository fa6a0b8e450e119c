"""One run for one hive partition: the parts of a whole run, and a lock, a report and a marker of its own."""

import errno
import fcntl
import json
import os
from pathlib import PurePosixPath

import pytest

from runner import lock
from runner.dataset import Dataset
from runner.errors import BusyError, OutputError, UsageError
from runner.lock import locked, undisturbed
from runner.partition import is_partition, partition_of
from runner.stop import Stop
from runner.storage import TEMPORARY, OutputFolder
from runner.verify_output import verify_output

ROWS = {
    "top.parquet": 20,
    "date=2026-11-22/region=eu/a.parquet": 30,
    "date=2026-11-22/region=us/a.parquet": 31,
    "date=2026-11-23/region=eu/a.parquet": 40,
    "date=2026-11-23/region=eu/b.parquet": 5,
    "date=2026-11-23/region=us/a.parquet": 41,
}
NIGHT = ("date=2026-11-23",)
EU = (*NIGHT, "region=eu")
OURS = {"_SUCCESS", "_ledger.json", "_report.json"}


@pytest.fixture
def source(tiny, tmp_path):
    return tiny.write_dataset(tmp_path / "in", ROWS)


@pytest.fixture
def whole(tiny_bundle, source, tmp_path, score):
    assert score(tiny_bundle, source, tmp_path / "whole").exit_code == 0
    return tmp_path / "whole"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def look(out, *only):
    return verify_output(OutputFolder(out, within=PurePosixPath(*only)), Stop())


def change(tiny, source, name, rows):
    tiny.write_dataset(source, {"other.parquet": 1, name: rows})  # the second is drawn with another seed
    (source / "other.parquet").unlink()


@pytest.mark.parametrize("pairs", [(), ("a=1",), ("a=1", "b=x y"), ("date=2026%2D11",), ("a==",), ("a=b=c",)])
def test_pairs_are_folders_as_they_stand(pairs):
    assert partition_of(pairs) == PurePosixPath(*pairs)
    assert is_partition(PurePosixPath(*pairs)) == bool(pairs)


@pytest.mark.parametrize(
    "pair",
    [
        "",
        "a",
        "a=",
        "=1",
        "=",
        "a=b/c",
        "a=..",
        "a=.b",
        "a=_b",
        ".a=1",
        "_a=1",
        "../a=1",
        "a=/",
        "a=b\0",
        "a=" + "b" * 254,
    ],
)
def test_what_is_no_folder_of_data_is_a_usage_error_and_all_of_it_is_listed(pair, tiny_bundle, dataset, out, score):
    with pytest.raises(UsageError, match="names no partition") as refusal:
        score(tiny_bundle, dataset, out, only=("ok=1", pair, "also"))
    assert repr(pair) in str(refusal.value)
    assert "'also'" in str(refusal.value)
    assert not out.exists()
    assert not is_partition(PurePosixPath("ok=1") / (pair or "plain"))


def test_a_key_given_twice_is_no_choice_of_two(tiny_bundle, dataset, out, score):
    with pytest.raises(UsageError, match="date: given 2 times"):
        score(tiny_bundle, dataset, out, only=("date=1", "date=2"))


@pytest.mark.parametrize("only", [NIGHT, EU])
def test_a_partition_gets_the_parts_of_a_whole_run_and_files_of_its_own(
    tiny_bundle, source, whole, out, score, parts, only
):
    report = score(tiny_bundle, source, out, only=only)
    prefix = "/".join(only) + "/"
    expected = {name: content for name, content in parts(whole).items() if name.startswith(prefix)}
    assert (report.exit_code, parts(out)) == (0, expected)
    assert report.total.rows.read == sum(rows for name, rows in ROWS.items() if name.startswith(prefix))
    assert OURS | {".lock"} <= {path.name for path in out.joinpath(*only).iterdir()}
    assert {path.name for path in out.iterdir()} == {".lock", "date=2026-11-23"}
    told = json.loads(out.joinpath(*only, "_report.json").read_text())
    assert told["options"]["only"] == list(only)
    assert (look(out, *only).problems, look(out, *only).complete) == ((), True)
    assert (look(out).problems, look(out).complete) == ((), False)


def test_partitions_and_the_whole_find_one_anothers_parts_done(tiny_bundle, source, whole, out, score, contents):
    for only in (NIGHT, ("date=2026-11-22",)):
        score(tiny_bundle, source, out, only=only)
    report = score(tiny_bundle, source, out)
    assert (report.already_done, report.this_run.parts, report.total.parts) == (5, 1, 6)
    assert (out / "_SUCCESS").exists()
    assert (out / "date=2026-11-22/_SUCCESS").exists()  # nothing in it was touched
    before = contents(whole)
    assert score(tiny_bundle, source, whole, only=EU).already_done == 2
    assert before.items() <= contents(whole).items()  # the marker of the whole included: nothing changed
    assert look(out).problems == look(whole).problems == ()


def test_what_one_ledger_remembers_no_other_run_reads_again(tiny_bundle, source, out, score, monkeypatch):
    score(tiny_bundle, source, out, only=EU)
    hashed, sha256 = [], Dataset.sha256
    monkeypatch.setattr(Dataset, "sha256", lambda self, path, stop: hashed.append(path) or sha256(self, path, stop))
    score(tiny_bundle, source, out)
    assert hashed == [name for name in sorted(ROWS) if not name.startswith("/".join(EU))]
    score(tiny_bundle, source, out, only=NIGHT)
    assert len(hashed) == 4
    score(tiny_bundle, source, out, only=NIGHT, recheck=True)
    assert len(hashed) == 7


def test_a_partition_that_changes_takes_back_the_word_of_what_holds_it(tiny, tiny_bundle, source, whole, score):
    score(tiny_bundle, source, whole, only=NIGHT)
    change(tiny, source, "date=2026-11-23/region=eu/a.parquet", 50)
    assert score(tiny_bundle, source, whole, only=EU).this_run.rows.read == 50
    markers = {str(path.relative_to(whole)) for path in whole.rglob("_SUCCESS")}
    assert markers == {"date=2026-11-23/region=eu/_SUCCESS"}
    found = look(whole)
    assert (found.problems, found.complete) == ((), False)
    assert sum("may be older than those of partitions below" in note for note in found.notes) == 2
    assert score(tiny_bundle, source, whole).this_run.parts == 0
    assert (whole / "_SUCCESS").exists()


def test_the_whole_takes_back_the_word_of_partitions_that_it_changes_and_of_no_other(
    tiny, tiny_bundle, source, whole, score
):
    for only in (EU, ("date=2026-11-22",)):
        score(tiny_bundle, source, whole, only=only)
    change(tiny, source, "date=2026-11-23/region=eu/a.parquet", 50)
    score(tiny_bundle, source, whole)
    own = {str(path.relative_to(whole)) for name in ("_SUCCESS", "_report.json") for path in whole.rglob(name)}
    assert own == {"_SUCCESS", "_report.json", "date=2026-11-22/_SUCCESS", "date=2026-11-22/_report.json"}
    assert (look(whole).problems, look(whole).notes) == ((), ())
    found = look(whole, *EU)
    assert (found.problems, found.complete) == ((), True)
    assert "has no _report.json of its own" in found.notes[0]


def test_history_and_orphans_of_other_partitions_are_none_of_its_business(tiny, source, whole, tmp_path, score, parts):
    other, before = tiny.make_bundle(tmp_path / "other", seed=1), parts(whole)
    (source / "top.parquet").unlink()
    (source / "date=2026-11-23/region=us/a.parquet").unlink()
    with pytest.raises(UsageError, match=r"^2 parts in .*whole/date=2026-11-23/region=eu were made by another bundle"):
        score(other, source, whole, only=EU)
    report = score(other, source, whole, only=NIGHT, rescore="all", orphans="prune")
    assert (report.orphans, report.this_run.parts) == (1, 2)
    after = parts(whole)
    kept = [name for name in before if not name.startswith("date=2026-11-23/")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert set(after) == {*kept, "date=2026-11-23/region=eu/a.parquet", "date=2026-11-23/region=eu/b.parquet"}


def test_a_dry_run_of_a_partition_touches_nothing(tiny_bundle, source, out, score):
    assert score(tiny_bundle, source, out, only=EU, dry_run=True).to_do == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ("only", "named"),
    [
        (("date=2026-11-24",), "date=2026-11-22, date=2026-11-23"),
        (("region=eu", "date=2026-11-23"), "date=2026-11-22, date=2026-11-23"),
        ((*NIGHT, "region=uk"), "region=eu, region=us"),
        ((*EU, "hour=1"), "no folder"),
    ],
)
def test_a_partition_that_is_not_there_is_refused_with_those_that_are(tiny_bundle, source, out, score, only, named):
    report = score(tiny_bundle, source, out, only=only)
    assert report.exit_code == 11
    assert f"the input has no partition {'/'.join(only)}" in report.error
    assert named in report.error
    assert json.loads(out.joinpath(*only, "_report.json").read_text())["exit_code"] == 11
    assert score(tiny_bundle, source, out, only=only, allow_empty=True).exit_code == 0


def test_a_partition_without_data_is_refused_by_its_name(tiny_bundle, source, out, score):
    (source / "date=2026-11-30").mkdir()
    report = score(tiny_bundle, source, out, only=("date=2026-11-30",))
    assert report.exit_code == 11
    assert f"no Parquet files in {source}/date=2026-11-30" in report.error


def test_a_partition_of_a_single_file_is_a_usage_error(tiny_bundle, source, out, score):
    with pytest.raises(UsageError, match="of a single file"):
        score(tiny_bundle, source / "top.parquet", out, only=NIGHT)
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_folder_name_is_matched_as_it_stands(tiny, tiny_bundle, tmp_path, out, score, parts):
    source = tiny.write_dataset(tmp_path / "coded", {"at=a%3Ab/a.parquet": 9, "at=a b/a.parquet": 8})
    assert score(tiny_bundle, source, out, only=("at=a%3Ab",)).total.rows.read == 9
    assert set(parts(out)) == {"at=a%3Ab/a.parquet"}
    assert score(tiny_bundle, source, out, only=("at=a:b",)).exit_code == 11


def test_files_of_ours_in_a_partition_are_no_data(tiny_bundle, source, out, score):
    score(tiny_bundle, source, out, only=NIGHT)
    (source / "date=2026-11-23" / "_x.parquet").write_bytes(b"no data")
    (source / "date=2026-11-23" / ".x.parquet").write_bytes(b"no data")
    assert score(tiny_bundle, source, out, only=NIGHT).this_run.parts == 0


@pytest.mark.parametrize(
    ("mine", "others", "together"),
    [
        ((), (), False),
        ((), NIGHT, False),
        ((), EU, False),
        (NIGHT, EU, False),
        (NIGHT, NIGHT, False),
        (NIGHT, ("date=2026-11-22",), True),
        (EU, (*NIGHT, "region=us"), True),
        (EU, ("date=2026-11-22",), True),
    ],
)
def test_runs_go_together_unless_one_holds_the_other(tmp_path, mine, others, together):
    for first, second in ((mine, others), (others, mine)):
        one, two = (OutputFolder(tmp_path, within=PurePosixPath(*only)) for only in (first, second))
        with locked(one):
            if together:
                with locked(two):
                    refuse(one, two, OutputFolder(tmp_path))
            else:
                refuse(two)
        with locked(two):
            refuse(two)


def refuse(*outs):
    """Hold that neither a run nor a look at the output can begin."""
    for out in outs:
        for taken in (locked, undisturbed):
            with pytest.raises(BusyError, match="another run"), taken(out):
                pass


def test_a_look_at_the_whole_keeps_runs_of_partitions_away(tmp_path):
    out = OutputFolder(tmp_path)
    with locked(out):
        pass
    with undisturbed(out), pytest.raises(BusyError), locked(OutputFolder(tmp_path, within=PurePosixPath(*NIGHT))):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_look_shares_the_lock_where_a_file_that_is_read_cannot_be_locked_alone(tmp_path, monkeypatch):
    out, flock = OutputFolder(tmp_path), fcntl.flock
    with locked(out):
        pass

    def like_nfs(file, kind):
        if kind & fcntl.LOCK_EX and not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    with undisturbed(out), undisturbed(out), pytest.raises(BusyError), locked(out):
        pass


def test_a_lock_that_is_taken_away_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    take, calls = lock._take, []

    def racing(descriptor, *rest):
        take(descriptor, *rest)
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(lock, "_take", racing)
    night = OutputFolder(tmp_path, within=PurePosixPath(*NIGHT))
    with locked(night):
        refuse(OutputFolder(tmp_path))
    assert len(calls) >= 2


def test_links_on_the_way_to_a_partition_are_not_followed(tiny_bundle, source, out, tmp_path, score):
    (tmp_path / "victim").mkdir()
    out.mkdir()
    (out / "date=2026-11-23").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError):
        score(tiny_bundle, source, out, only=NIGHT)
    (out / "date=2026-11-23").unlink()
    (out / ".lock").unlink()
    (out / ".lock").symlink_to(tmp_path / "victim" / "made")
    with pytest.raises(OutputError):
        score(tiny_bundle, source, out, only=NIGHT)
    assert list((tmp_path / "victim").iterdir()) == []


def test_only_the_temporary_files_of_the_partition_are_cleared(tiny_bundle, source, out, score):
    names = [f"{folder}.{'0' * 16}{TEMPORARY}" for folder in ("", "date=2026-11-22/", "date=2026-11-23/region=eu/")]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"half")
    score(tiny_bundle, source, out, only=NIGHT)
    assert [(out / name).exists() for name in names] == [True, True, False]
    score(tiny_bundle, source, out)
    assert [(out / name).exists() for name in names] == [False, False, False]


def test_what_a_dead_partition_run_left_unjudged_is_judged_with_the_whole(tiny_bundle, source, out, score):
    score(tiny_bundle, source, out, only=EU)
    note = out.joinpath(*EU, "_unfinished.json")
    note.write_text(json.dumps({"parts": [f"{'/'.join(EU)}/a.parquet"]}))  # as a kill before the verdict leaves it
    report = score(tiny_bundle, source, out)
    assert (report.already_done, report.this_run.parts) == (2, 5)
    assert not note.exists()


def test_the_flag_the_variable_and_the_job_file_name_a_partition(
    command, tiny_bundle, source, out, tmp_path, monkeypatch
):
    (tmp_path / "job.toml").write_text('only = ["date=2026-11-22", "region=eu"]\n')
    asked = ("score", tiny_bundle, source, "--out", out, "--json")
    assert command(*asked, "--config", tmp_path / "job.toml").json()["total"]["rows"]["read"] == 30
    monkeypatch.setenv("FREERUN_ONLY", "date=2026-11-22 region=us")
    assert command(*asked, "--config", tmp_path / "job.toml").json()["total"]["rows"]["read"] == 31
    flags = ("--only", EU[0], "--only", EU[1])
    assert command(*asked, *flags).json()["total"]["rows"]["read"] == 45
    assert command(*asked, "--only", "date").code == 2
    looked = command("verify-output", out, *flags)
    assert (looked.code, looked.out) == (0, "good: 2 parts, 45 rows (0 rejected), complete\n")
    (tmp_path / "job.toml").write_text('only = "date=2026-11-22"\n')
    refused = command(*asked, "--config", tmp_path / "job.toml")
    assert (refused.code, "only: got 'date=2026-11-22', expected list" in refused.err) == (2, True)


def test_a_missing_root_is_no_missing_partition(tiny_bundle, tmp_path, out, score):
    report = score(tiny_bundle, tmp_path / "nowhere", out, only=NIGHT)
    assert (report.exit_code, "does not exist" in report.error) == (11, True)
