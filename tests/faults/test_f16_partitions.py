"""F16 by partition: thirty runs at once make what one makes; neither runs of the whole nor kills change that."""

import json
import random
import signal
import time

import pytest

from campaigns.commit_path import left, parts_of
from campaigns.processes import freerun, start
from runner.report import Report
from runner.stop import Stop
from runner.storage import TEMPORARY, OutputFolder
from runner.verify_output import verify_output

SEED = random.SystemRandom().randrange(1 << 32)
NIGHTS = [f"date=2026-11-{day:02d}" for day in range(1, 31)]


@pytest.fixture(scope="module")
def month(tiny, tiny_bundle, tmp_path_factory):
    """Return thirty partitions of two files each, and beside them what one run makes of them."""
    folder = tmp_path_factory.mktemp("month")
    tiny.write_dataset(folder / "in", {f"{night}/{name}.parquet": 30 for night in NIGHTS for name in "ab"})
    ended = start(freerun("score", tiny_bundle, folder / "in", "--out", folder / "whole"), folder / "log").wait()
    assert ended.code == 0, ended.text
    return folder


def report_of(folder):
    return Report.model_validate_json((folder / "_report.json").read_bytes())


def scoring(bundle, month, out, *only):
    flags = [flag for pair in only for flag in ("--only", pair)]
    return freerun("score", bundle, month / "in", "--out", out, "--json", *flags)


def test_f16_thirty_partitions_at_once_make_the_bytes_and_the_sums_of_one_run(tiny_bundle, month, tmp_path):
    out = tmp_path / "out"
    running = [start(scoring(tiny_bundle, month, out, night), tmp_path / night) for night in NIGHTS]
    ended = [one.wait() for one in running]
    assert [(one.code, one.text) for one in ended if one.code] == []
    assert parts_of(left(out)) == parts_of(left(month / "whole"))
    assert all((out / night / "_SUCCESS").exists() for night in NIGHTS)
    assert not (out / "_SUCCESS").exists()

    whole, nights = report_of(month / "whole").total, [report_of(out / night).total for night in NIGHTS]
    assert sum(night.parts for night in nights) == whole.parts == 60
    assert sum(night.rows.read for night in nights) == whole.rows.read == 1800
    assert sum(night.masked_mse * night.rows.scored for night in nights) / 1800 == pytest.approx(
        whole.masked_mse, rel=1e-12
    )
    for step in range(len(whole.per_step)):
        assert sum(night.per_step[step].observed for night in nights) == whole.per_step[step].observed

    assert verify_output(OutputFolder(out), Stop()).problems == ()
    last = start(scoring(tiny_bundle, month, out), tmp_path / "last").wait()
    assert last.code == 0, last.text
    found = report_of(out)
    assert (found.already_done, found.this_run.parts, found.total) == (60, 0, whole)


@pytest.mark.parametrize("round_", range(4))
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "killed"])
def test_f16_runs_of_the_whole_and_of_partitions_never_score_twice(tiny_bundle, month, tmp_path, kill, round_):
    print(f"seed {SEED + round_}")
    draw, out, nights = random.Random(SEED + round_), tmp_path / "out", NIGHTS[:3]
    wanted = [(), (), *[(night,) for night in nights for _ in range(2)]]
    draw.shuffle(wanted)
    running = []
    for index, only in enumerate(wanted):
        running.append(start(scoring(tiny_bundle, month, out, *only), tmp_path / str(index)))
        time.sleep(draw.uniform(0, 0.05))
    for one in draw.sample(running, 3) if kill else ():
        one.send(signal.SIGKILL)
        time.sleep(draw.uniform(0, 0.05))
    ended = [one.wait() for one in running]
    assert [one.text for one in ended if one.code not in {0, 75, -signal.SIGKILL}] == []
    assert any(one.code in {0, -signal.SIGKILL} for one in ended)

    expected = parts_of(left(month / "whole"))
    assert parts_of(left(out)).items() <= expected.items()
    told = [json.loads(run.log.read_text()) for run, end in zip(running, ended, strict=True) if end.code == 0]
    assert kill or sum(report["this_run"]["parts"] for report in told) == len(parts_of(left(out)))  # each by one run
    last = start(scoring(tiny_bundle, month, out), tmp_path / "last").wait()
    assert last.code == 0, last.text
    assert parts_of(left(out)) == expected
    assert list(out.rglob(f".*{TEMPORARY}")) == []
    assert verify_output(OutputFolder(out), Stop()).problems == ()
