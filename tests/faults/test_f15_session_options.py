"""F15: no part of a model sets the options of its own session, or the format that it is read as."""

import os
import subprocess
import sys

import onnx
import pytest

from runner.bundle import open_bundle
from runner.device import Device
from runner.session import open_session
from runner.stop import Stop

CONFIG = '{"session_options": {"enable_profiling": 1, "intra_op_num_threads": 3}}'
"""What makes onnxruntime write a file into the current folder, if the environment lets a model say so."""
PLAIN = "import onnxruntime; s = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])"
OURS = """
from runner.device import Device; from runner.session import open_session; from runner.stop import Stop
s = open_session(graph, "step", Device("cpu"), threads=1, stop=Stop()).session
"""


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return onnx.load_model_from_string(open_bundle(tiny_bundle).graphs("fp32")["decoder_step"])


@pytest.mark.parametrize(("code", "obeys"), [(PLAIN, True), (OURS, False)], ids=["onnxruntime", "ours"])
def test_f15_options_in_the_metadata_change_nothing_whatever_the_environment_says(model, tmp_path, code, obeys):
    """Even without the audit, which refuses such metadata. Onnxruntime alone shows that they would."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    spoilt.metadata_props.add(key="ort_config", value=CONFIG)
    (tmp_path / "step.onnx").write_bytes(spoilt.SerializeToString())
    read = "import pathlib; graph = pathlib.Path('step.onnx').read_bytes()\n"
    told = "\nprint(s.get_session_options().intra_op_num_threads)"
    environment = {**os.environ, "ORT_LOAD_CONFIG_FROM_MODEL": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", read + code + told],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    files = sorted(path.name.partition("__")[0] for path in tmp_path.iterdir())
    assert done.stdout.split()[-1] == ("3" if obeys else "1")
    assert files == (["onnxruntime_profile", "step.onnx"] if obeys else ["step.onnx"])


def test_f15_a_model_that_looks_like_onnxruntimes_own_format_is_read_as_what_was_audited(model):
    """Even without the audit, which refuses it: else a producer's name would decide which parser reads the file."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    spoilt.producer_name = "ORTM"
    content = spoilt.SerializeToString()
    assert content[4:8] == b"ORTM"
    session = open_session(content, "step", Device("cpu"), threads=1, stop=Stop())
    assert set(session.outputs) == {"prediction", "hidden_next", "cell_next"}
