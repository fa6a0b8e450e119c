"""F3: SIGTERM and SIGINT end a run in two seconds whatever it is doing, with their code, a report and no torn file."""

import json
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from campaigns import signals
from campaigns.signals import LATEST_SECONDS, begun

SEED = random.SystemRandom().randrange(1 << 32)
PREPARED = """
import os, time
def begun(*_, **__):
    os.write(int(os.environ["BEGUN"]), b".")
def hang(*_, **__):
    begun()
    time.sleep(60)
"""
"""What a child is told before anything else; what hangs here is as deaf as a disk or a graph that hangs."""
MAIN = "\nfrom runner.cli import main\nmain()\n"
SLOW_IMPORT = """import sys
class Slow:
    @staticmethod
    def find_spec(name, *_):
        return hang() if name == "pyarrow" else None
sys.meta_path.insert(0, Slow)
"""
HANGS = {
    "imports": SLOW_IMPORT,
    "reading the bundle": "import runner.bundle\nrunner.bundle._read_pinned = hang",
    "hashing": "import runner.dataset\nrunner.dataset.Dataset.sha256 = hang",
    "opening a session": "import runner.forecaster\nrunner.forecaster.open_session = hang",
    "golden windows": "import runner.forecaster\nrunner.forecaster.decode = hang",
    "reading": "import runner.feed\nrunner.feed.read_blocks = hang",
    "decoding": "import runner.batches\nrunner.batches.join = hang",
    "writing": "import runner.writer\nrunner.writer.PartWriter.add = hang",
    "committing": "import runner.pipeline\nrunner.pipeline.Pipeline._commit = hang",
    "syncing": "os.fsync = hang",
    "reporting": "import runner.execution\nrunner.execution.write_report = hang",
}
MEASURING = "import runner.tune\nrunner.tune.open_loop = hang"
SAMPLING = "import runner.gap.explain\nrunner.gap.explain.sampled_mean = hang"
BEFORE_THE_LOCK = {"imports", "reading the bundle"}
ON_THE_DISK_OF_THE_REPORT = {"syncing", "reporting"}
"""No report can be written where reports cannot be written: the one of the run before stays."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return signals.make_light(tmp_path_factory.mktemp("light"))


def stopped(code, words, *numbers, pause=0.0):
    """Run code that announces where it is; send these signals then; return how it ended, what it said, and how soon."""
    with begun([sys.executable, "-c", PREPARED + code, *map(str, words)]) as running:
        sent = time.monotonic()
        for number in numbers:
            running.send_signal(number)
            time.sleep(pause)
        _, told = running.communicate(timeout=60)
        return running.returncode, told, time.monotonic() - sent


def words(task, out):
    return ["score", task.folder / "bundle", task.folder / "in", "--out", out, "--quiet"]


def test_f03_a_signal_at_any_moment_ends_the_run_in_time_and_the_same_command_finishes(tmp_path):
    found = signals.run(8, SEED, tmp_path)
    print(f"seed {SEED}: 99 of 100 ended within {found.exit_p99:.2f} s")
    assert found.failures == ()
    assert found.survived == found.tried == 8


@pytest.fixture(scope="module")
def hung(task, tmp_path_factory):
    """Return what became of a run that hangs in each phase when it got SIGTERM there."""
    folder = tmp_path_factory.mktemp("hung")

    def run(phase):
        return stopped(HANGS[phase] + MAIN, words(task, folder / phase), signal.SIGTERM)

    with ThreadPoolExecutor(4) as pool:
        return folder, dict(zip(HANGS, pool.map(run, HANGS), strict=True))


@pytest.mark.parametrize("phase", HANGS)
def test_f03_a_phase_that_hangs_is_cut_off_in_time_and_reported(task, hung, phase):
    folder, ended = hung
    code, told, seconds = ended[phase]
    out = folder / phase
    print(f"{phase}: {seconds:.2f} s")
    assert code == 143, told
    assert "interrupted by SIGTERM" in told
    assert "Traceback" not in told
    assert seconds < LATEST_SECONDS
    report = json.loads((out / "_report.json").read_text()) if (out / "_report.json").exists() else None
    if phase in BEFORE_THE_LOCK:
        assert not out.exists()
    elif phase not in ON_THE_DISK_OF_THE_REPORT:
        assert (report["status"], report["exit_code"]) == ("interrupted", 143)
    assert not (out / "_SUCCESS").exists()
    assert task.finish(out) is None


@pytest.mark.parametrize(
    ("command", "hang"),
    [("verify", HANGS["golden windows"]), ("bench", MEASURING), ("explain-gap", SAMPLING)],
    ids=["verify", "bench", "explain-gap"],
)
def test_f03_the_other_commands_are_ended_too(task, command, hang):
    more = [task.folder / "in"] if command == "explain-gap" else []
    code, told, seconds = stopped(hang + MAIN, [command, task.folder / "bundle", *more], signal.SIGINT)
    assert code == 130, told
    assert "interrupted by SIGINT" in told
    assert seconds < LATEST_SECONDS


def test_f03_a_second_interrupt_waits_for_nothing(task, tmp_path):
    patient = "import runner.supervise\nrunner.supervise.GRACE_SECONDS = 50\n"
    twice = [signal.SIGINT, signal.SIGINT]
    code, told, seconds = stopped(patient + HANGS["hashing"] + MAIN, words(task, tmp_path / "out"), *twice, pause=0.1)
    assert code == 130, told
    assert seconds < LATEST_SECONDS
    assert task.finish(tmp_path / "out") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f03_a_signal_after_the_work_is_done_changes_nothing(task, tmp_path, number):
    leaving = (
        "import runner.cli\nend_of = runner.cli.end_of\n"
        "def slowly(run):\n    code = end_of(run)\n    begun()\n    time.sleep(0.5)\n    return code\n"
        "runner.cli.end_of = slowly"
    )
    code, told, _ = stopped(leaving + MAIN, words(task, tmp_path / "out"), number)
    assert (code, told) == (0, "")
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_f03_a_run_that_wakes_up_while_it_is_cut_off_writes_no_second_report(task, tmp_path):
    """The report that is told last is the interrupted one, though the hashing goes on in the very moment."""
    awake = (
        "import runner.supervise, runner.run, runner.dataset\n"
        "sha256, leave = runner.dataset.Dataset.sha256, runner.run._leave\n"
        "def late(*arguments):\n    begun()\n    time.sleep(runner.supervise.GRACE_SECONDS + 0.2)\n"
        "    return sha256(*arguments)\n"
        "runner.dataset.Dataset.sha256 = late\n"
        "def slowly(*arguments):\n    os.write(2, b'leaves a report\\n')\n"
        "    leave(*arguments)\n    time.sleep(1)\n"
        "runner.run._leave = slowly"
    )
    code, told, _ = stopped(awake + MAIN, words(task, tmp_path / "out"), signal.SIGTERM)
    assert code == 143
    assert told.count("leaves a report") == 1
    assert json.loads((tmp_path / "out" / "_report.json").read_text())["status"] == "interrupted"
