"""`freerun explain-gap` as somebody types it: with a bundle and Parquet, and nothing else."""

import errno
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.disk import Disk
from runner.gap.report import GapReport

KEYS = {"teacher_forced", "free_running", "gap", "parts", "recoverable", "intervals"}
KEYS |= {"per_step", "panel", "suspects", "verdict"}


@pytest.fixture(scope="module")
def valid(tiny, tmp_path_factory):
    """Return 600 windows in two files."""
    return tiny.write_dataset(tmp_path_factory.mktemp("valid"), {"a.parquet": 400, "b.parquet": 200})


@pytest.fixture(scope="module")
def explained(freerun, tiny_bundle, valid):
    done = freerun("explain-gap", tiny_bundle, valid, "--train", valid, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_json_has_what_the_contract_names_and_fits_its_schema(explained):
    assert explained.keys() >= KEYS
    GapReport.model_validate_json(json.dumps(explained))


def test_the_parts_add_up_to_the_gap(explained):
    total = sum(value or 0.0 for value in explained["parts"].values())
    assert total == pytest.approx(explained["gap"], abs=1e-12)
    assert explained["gap"] == pytest.approx(explained["free_running"] - explained["teacher_forced"], abs=1e-12)


def test_the_losses_are_those_of_freerun_score(explained, score, tiny_bundle, valid, tmp_path):
    for mode, found in (("free-running", explained["free_running"]), ("teacher-forced", explained["losses"]["T"])):
        report = score(tiny_bundle, valid, tmp_path / mode, mode=mode)
        assert found == pytest.approx(report.total.masked_mse, rel=1e-9)


def test_the_first_step_is_the_same_bit_for_bit(explained):
    assert explained["first_step"] == {"equal": True, "largest_difference": 0.0}
    assert "agree bit for bit" in explained["verdict"].splitlines()[0]


def test_without_a_model_nothing_is_trained_further(explained):
    assert explained["parts"]["undertrained"] is None
    assert explained["parts"]["exposure_bias"] is None
    assert "--model" in explained["verdict"]


def test_the_steps_have_the_losses_as_their_mean(explained):
    steps = explained["per_step"]
    for name in ("teacher_forced", "free_running"):
        loss = explained["losses"]["T"] if name == "teacher_forced" else explained["free_running"]
        assert np.mean([step[name] for step in steps]) == pytest.approx(loss)
    for part in ("horizon", "plug_in", "model", "one_step"):
        assert np.mean([step["parts"][part] for step in steps]) == pytest.approx(explained["parts"][part], abs=1e-12)


def test_the_panel_is_everything_that_was_tried(explained):
    names = {entry["name"] for entry in explained["panel"]}
    ours = {"teacher-forced", "free-running", "sampled paths"}
    assert names == ours | {"last value", "seasonal naive", "climatology", "ridge", "mlp"}
    losses = [entry["masked_mse"] for entry in explained["panel"]]
    assert losses == sorted(losses)


def test_people_get_the_verdict_first_then_the_tables(command, tiny_bundle, valid):
    done = command("explain-gap", tiny_bundle, valid)
    assert done.code == 0, done.err
    assert done.out.startswith("At step 1 the teacher-forced and the free-running forecasts agree bit for bit")
    assert max(map(len, done.out.splitlines())) <= 120
    assert "horizon: what the true values inside it tell" in done.out
    assert "without --train" in done.out
    assert "ridge" not in done.out.split("free-running: what production gets", 1)[1]


def test_a_reported_loss_is_named_by_the_way_it_was_averaged(command, tiny_bundle, valid, explained):
    kept = pa.concat_tables(pq.read_table(path) for path in sorted(valid.glob("*.parquet")))
    counted = (np.array(kept["mask"].to_pylist()) == 0).mean()
    loss = explained["losses"]["T"] / counted
    done = command("explain-gap", tiny_bundle, valid, "--reported", f"{loss:.6f}", "--json")
    told = json.loads(done.out)
    assert told["parts"]["metric"] == pytest.approx(told["losses"]["T"] - round(loss, 6), abs=1e-9)
    assert [entry["key"] for entry in told["suspects"] if entry["matches"]] == ["denominator"]
    assert "divided by the steps that count" in told["verdict"]


def test_a_reported_loss_that_is_right_names_nothing(command, tiny_bundle, valid, explained):
    done = command("explain-gap", tiny_bundle, valid, "--reported", f"{explained['losses']['T']:.4f}", "--json")
    assert json.loads(done.out)["suspects"] == []


def test_few_windows_give_no_interval_and_say_so(command, tiny, tiny_bundle, tmp_path):
    few = tiny.write_dataset(tmp_path / "few", {"a.parquet": 90})
    told = json.loads(command("explain-gap", tiny_bundle, few, "--json").out)
    assert told["intervals"] == {}
    assert any("too few for intervals" in note for note in told["notes"])


def test_too_few_training_windows_to_fit_anything_are_told(command, tiny, tiny_bundle, valid, tmp_path):
    train = tiny.write_dataset(tmp_path / "train", {"a.parquet": 49})
    told = json.loads(command("explain-gap", tiny_bundle, valid, "--train", train, "--json").out)
    assert any("fewer than 50 windows" in note for note in told["notes"])
    assert "ridge" not in {entry["name"] for entry in told["panel"]}


def test_a_series_column_makes_whole_series_the_blocks(command, tiny, tiny_bundle, tmp_path):
    table = tiny.make_table(300).append_column("unique_id", pa.array([f"s{row % 30}" for row in range(300)]))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    done = command("explain-gap", tiny_bundle, tmp_path / "in", "--column", "series=unique_id", "--json")
    windows = json.loads(done.out)["windows"]
    assert (windows["blocks"], windows["blocks_are"]) == (30, "series")


def test_the_known_optimum_takes_part(command, tiny, tiny_bundle, tmp_path):
    table = tiny.make_table(300)
    table = table.append_column("best", table["target"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    told = json.loads(command("explain-gap", tiny_bundle, tmp_path / "in", "--column", "optimal=best", "--json").out)
    best = told["panel"][0]
    assert (best["name"], best["masked_mse"]) == ("optimal", 0.0)
    assert best["better_by"] == pytest.approx(told["free_running"])
    assert "best possible forecast" in told["verdict"]


def test_the_figure_is_drawn(command, tiny_bundle, valid, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs the `report` extra")
    done = command("explain-gap", tiny_bundle, valid, "--figure", tmp_path / "gap.svg")
    assert done.code == 0, done.err
    assert (tmp_path / "gap.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize("name", ["gap.svg", "gap.png", "gap.pdf"])
def test_a_figure_that_cannot_be_written_leaves_the_old_one(command, tiny_bundle, valid, tmp_path, monkeypatch, name):
    pytest.importorskip("matplotlib", reason="the figure needs the `report` extra")
    (tmp_path / name).write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Disk, "write", full)
    done = command("explain-gap", tiny_bundle, valid, "--figure", tmp_path / name, "--json")
    assert (done.code, done.out) == (14, "")
    assert os.strerror(errno.ENOSPC) in done.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


@pytest.mark.parametrize("place", ["no/gap.svg", "folder.svg"])
def test_a_figure_without_a_place_is_refused_before_the_work(command, tiny_bundle, tmp_path, place):
    pytest.importorskip("matplotlib", reason="the figure needs the `report` extra")
    (tmp_path / "folder.svg").mkdir()
    done = command("explain-gap", tiny_bundle, "/nowhere", "--figure", tmp_path / place)
    assert (done.code, done.out) == (14, "")
    assert "cannot write" in done.err


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.date32(), pa.duration("us"), pa.list_(pa.int64())])
def test_a_series_that_has_no_name_is_refused(command, tiny, tiny_bundle, tmp_path, kind):
    """Python has no value for some times, and a traceback is no answer."""
    column = pa.array([None] * 30, kind)
    pq.write_table(tiny.make_table(30).append_column("series", column), tmp_path / "a.parquet")
    done = command("explain-gap", tiny_bundle, tmp_path / "a.parquet")
    assert (done.code, done.out) == (11, "")
    assert "expected text or integers" in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--reported", "much"], 2, "--reported does not fit"),
        (["--reported", "1e400"], 2, "--reported does not fit"),
        (["--reported", "sNaN"], 2, "--reported does not fit"),
        (["--figure", "gap.jpg"], 2, "--figure does not fit"),
        (["--column", "optimal=nothing"], 11, "column 'nothing' is missing"),
        (["--column", "wrong=x"], 2, "expected ROLE=NAME"),
        (["--train", "/nowhere"], 11, "does not exist"),
    ],
)
def test_what_cannot_be_followed_is_refused(command, tiny_bundle, valid, words, code, said):
    done = command("explain-gap", tiny_bundle, valid, *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_data_without_a_target_are_refused(command, tiny, tiny_bundle, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(tiny.make_table(30).drop_columns(["target", "mask"]), tmp_path / "in" / "a.parquet")
    done = command("explain-gap", tiny_bundle, tmp_path / "in")
    assert done.code == 11
    assert "target" in done.err
