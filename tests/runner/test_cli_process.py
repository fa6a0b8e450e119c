"""The command as a process: what it loads, how signals end it, and what it does when nobody listens."""

import json
import signal
import subprocess
import sys
import time

import pytest

TRAINING = {"tensorflow", "keras", "tf2onnx"}
FREERUN = [sys.executable, "-c", "from runner.cli import main; main()"]
SLOWED = """
import time
from runner.pipeline import Pipeline
add = Pipeline._add
def slowly(self, *arguments):
    time.sleep(0.1)
    return add(self, *arguments)
Pipeline._add = slowly
from runner.cli import main
main()
"""


def loaded(code, *args):
    """Return the top-level names of what a fresh interpreter has loaded after running this code."""
    told = "; import sys; print(*sorted(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", code + told, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


def shell(line, *args):
    """Run a line of shell with freerun in place of $FREERUN and the arguments in place of $1, $2, ..."""
    line = line.replace("$FREERUN", f"'{FREERUN[0]}' -c '{FREERUN[2]}'")
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, args)], capture_output=True, text=True, check=False, timeout=60
    )


def test_importing_the_command_line_loads_nothing_heavy():
    heavy = {"onnxruntime", "onnx", "pyarrow", "pydantic", "numpy", "rich", *TRAINING}
    assert loaded("import runner.cli") & heavy == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_command_line_is_loaded_ends_with_its_code_and_no_traceback(number, code):
    begin = f"""
import os, sys
class Signalling:
    @staticmethod
    def find_spec(name, *_):
        if name == "runner.cli":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signalling)
from runner.start import main
main()
"""
    done = subprocess.run([sys.executable, "-c", begin, "--version"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_the_installed_command_is_the_command_line():
    code = "import sys; sys.argv = ['freerun', '--version']; from runner.start import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("freerun, version ")


def test_importing_all_of_the_runner_loads_no_training_stack():
    everything = (
        "import pkgutil, importlib, runner; "
        "names = [m.name for m in pkgutil.walk_packages(runner.__path__, 'runner.')]; "
        "[importlib.import_module(name) for name in names]; assert len(names) > 25; import onnxruntime"
    )
    assert {name for name in loaded(everything) if name.split(".")[0] in {*TRAINING, "export"}} == set()


def test_neither_a_score_nor_a_verify_leaves_anything_in_the_home_folder(tiny_bundle, dataset, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    for words in (["score", tiny_bundle, dataset, "--out", tmp_path / "out", "--quiet"], ["verify", tiny_bundle]):
        done = subprocess.run([*FREERUN, *map(str, words)], env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
    assert list(home.rglob("*")) == []


def test_a_run_with_nothing_to_do_loads_neither_onnxruntime_nor_the_dataset_module(
    tiny_bundle, dataset, tmp_path, score
):
    score(tiny_bundle, dataset, tmp_path / "out")
    code = "from runner.terminal import run_command; from runner.cli import cli; assert run_command(cli) == 0"
    names = loaded(code, "score", tiny_bundle, dataset, "--out", tmp_path / "out", "--quiet")
    assert names & {"onnxruntime", "pyarrow.dataset", *TRAINING} == set()
    assert "runner.run" in names


@pytest.fixture
def nearly(tiny_bundle, dataset, tmp_path, score):
    """Return what to score again: all parts are there, but no marker of success, so that there is little to do."""
    score(tiny_bundle, dataset, tmp_path / "out")
    (tmp_path / "out" / "_SUCCESS").unlink()
    return tiny_bundle, dataset, tmp_path / "out"


@pytest.mark.parametrize("form", ["--json", ""], ids=["json", "table"])
def test_a_reader_that_has_gone_away_is_no_error_and_the_work_completes(nearly, form):
    done = shell(f'$FREERUN score "$1" "$2" --out "$3" {form} | true; echo "${{PIPESTATUS[0]}}"', *nearly)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert (nearly[-1] / "_SUCCESS").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_the_work_completes_with_closed_descriptors(nearly, closed):
    done = shell(f'$FREERUN score "$1" "$2" --out "$3" {closed}', *nearly)
    assert (done.returncode, done.stderr) == (0, "")
    assert (nearly[-1] / "_SUCCESS").exists()


def test_a_process_exits_with_the_code_of_its_refusal():
    done = shell('$FREERUN score; echo $?; $FREERUN verify "$1"; echo $?', "/nowhere/at/all")
    assert done.stdout == "2\n12\n"
    assert "Traceback" not in done.stderr


def test_what_native_code_prints_on_stdout_does_not_mix_with_the_json(tiny_bundle, dataset, tmp_path):
    noisy = (
        "import os, runner.session as s; open_session = s.open_session\n"
        "import runner.forecaster as f\n"
        "def noisy(*args, **settings):\n"
        "    os.write(1, b'noise from native code\\n')\n"
        "    return open_session(*args, **settings)\n"
        "f.open_session = noisy\n"
        "from runner.cli import main; main()"
    )
    command = [sys.executable, "-c", noisy, "score", tiny_bundle, dataset, "--out", tmp_path / "out", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["exit_code"] == 0
    assert "noise from native code" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_code_and_a_report_and_the_same_command_finishes(
    tiny, tiny_bundle, tmp_path, score, parts, findings, number, code
):
    source = tiny.write_dataset(tmp_path / "in", {f"{index:02d}.parquet": 20 for index in range(30)})
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOWED, "score", tiny_bundle, source, "--out", out, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not (out / "02.parquet").exists():
            time.sleep(0.02)
        running.send_signal(number)
        told, words = running.communicate(timeout=30)
    assert running.returncode == code, words
    assert f"interrupted by {number.name}" in words
    assert "Traceback" not in words
    report = json.loads((out / "_report.json").read_text())
    assert json.loads(told) == report
    assert (report["status"], report["exit_code"]) == ("interrupted", code)
    assert 3 <= report["this_run"]["parts"] == len(parts(out)) < 30
    assert not (out / "_SUCCESS").exists()
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []
    assert report["to_do"] == 30 - len(parts(out))

    again, whole = score(tiny_bundle, source, out), score(tiny_bundle, source, tmp_path / "whole")
    assert again.already_done == report["this_run"]["parts"]
    assert {**findings(again), "options": None} == {**findings(whole), "options": None}
    assert parts(out) == parts(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_bench_with_its_code(tiny_bundle, number):
    process = subprocess.Popen(
        [*FREERUN, "bench", str(tiny_bundle), "--seconds", "60"], stderr=subprocess.PIPE, text=True
    )
    time.sleep(3)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "interrupted" in told
    assert "Traceback" not in told
