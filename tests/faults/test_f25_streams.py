"""F25: closed or full streams never stop the work, and stdout carries the result and nothing else."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FREERUN = f"'{sys.executable}' -c 'from runner.cli import main; main()'"
FAKE = Path(__file__).parent / "fake_onnxruntime"
STDIN, STDOUT, STDERR = ["", "<&-"], ["", ">&-", ">/dev/full"], ["", "2>&-", "2>/dev/full"]


def shell(line, *args, **environment):
    """Run a line of shell with freerun in place of $FREERUN."""
    command = ["bash", "-c", line.replace("$FREERUN", FREERUN), "bash", *map(str, args)]
    settings = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=settings)


@pytest.fixture(scope="module")
def done(tiny, tiny_bundle, freerun, tmp_path_factory):
    """Return bundle, input and output of a run that is done but for its marker, so that there is little to do."""
    folder = tmp_path_factory.mktemp("streams")
    source = tiny.write_dataset(folder / "in", {"a.parquet": 9})
    assert freerun("score", tiny_bundle, source, "--out", folder / "out", "--quiet").code == 0
    return tiny_bundle, source, folder / "out"


def test_f25_the_work_completes_whatever_is_closed_or_full(done, tmp_path):
    def run(number, streams):
        out = shutil.copytree(done[-1], tmp_path / str(number))
        (out / "_SUCCESS").unlink(missing_ok=True)
        form = "--json" if number % 2 else ""
        ended = shell(f'$FREERUN score "$1" "$2" --out "$3" {form} {" ".join(streams)}', *done[:2], out)
        return streams, ended, (out / "_SUCCESS").exists()

    combinations = list(itertools.product(STDIN, STDOUT, STDERR))
    with ThreadPoolExecutor(2) as pool:
        for streams, ended, complete in pool.map(run, itertools.count(), combinations):
            undelivered = streams[1] == ">/dev/full"
            assert ended.returncode == (14 if undelivered else 0), (streams, ended.stderr)
            assert complete, streams
            told = "error: the result could not be written to stdout\n  got: No space left on device\n"
            assert ended.stderr == (told if undelivered and not streams[2] else ""), streams


def test_f25_a_run_that_failed_keeps_its_code_where_its_report_could_not_be_printed(tiny_bundle, tmp_path):
    ended = shell('$FREERUN score "$1" /nowhere --out "$2" --json >/dev/full', tiny_bundle, tmp_path / "out")
    assert ended.returncode == 11
    assert "Traceback" not in ended.stderr
    assert "could not be written to stdout" in ended.stderr


@pytest.mark.parametrize("command", ["bench --seconds 0.1", "verify", "inspect"])
def test_f25_the_other_commands_say_that_their_result_was_not_delivered(tiny_bundle, command):
    ended = shell(f'$FREERUN {command} "$1" >/dev/full', tiny_bundle)
    assert ended.returncode == 14
    assert ended.stderr.startswith("error: the result could not be written to stdout")


def test_f25_a_reader_that_had_enough_is_no_error(done):
    (done[-1] / "_SUCCESS").unlink()
    ended = shell('$FREERUN score "$1" "$2" --out "$3" --json | head -1; echo "${PIPESTATUS[0]}"', *done)
    assert (ended.stdout, ended.stderr) == ("{\n0\n", "")
    assert (done[-1] / "_SUCCESS").exists()


def test_f25_warnings_that_cannot_be_written_stop_nothing(tiny_bundle, done, tmp_path):
    line = 'FREERUN_SPEED=9 $FREERUN score "$1" "$2" --out "$3" --max-masked-mse 0 2>/dev/full'
    ended = shell(line, tiny_bundle, done[1], tmp_path / "out")
    assert ended.returncode == 15
    assert "masked MSE" in ended.stdout


@pytest.mark.parametrize(
    "words", ['score "$1" "$2" --out "$3" --json', 'bench "$1" --json --seconds 0.1', 'verify "$1"']
)
def test_f25_what_libraries_print_is_no_part_of_the_result(tiny_bundle, done, tmp_path, words):
    path = os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")])
    ended = shell(f"$FREERUN {words}", tiny_bundle, done[1], tmp_path / "out", PYTHONPATH=path, FAKE_CUDA="noisy")
    assert ended.returncode == 0, ended.stderr
    for source in ("C", "a descriptor", "Python"):
        assert f"noise from {source}" in ended.stderr
    if "--json" in words:
        json.loads(ended.stdout)
    assert "noise" not in ended.stdout
