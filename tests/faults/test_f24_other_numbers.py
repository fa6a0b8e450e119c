"""F24: another onnxruntime, numpy or chip changes the numbers: the golden windows refuse, exit 12, with the difference.

That nothing changes between the oldest and the newest versions that are allowed is shown by `.ci/oldest`.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from runner.cli import cli
from runner.config import Job
from runner.errors import BundleError, ExitCode
from runner.run import run_job
from runner.stop import Stop

NUMBER = r"([0-9.e+-]+|nan|inf)"
REFUSAL = re.compile(
    "the golden windows do not come out as certified on this machine\n"
    rf"  got: a largest difference of {NUMBER} deviations of the target\n"
    rf"  expected: at most {NUMBER}\n"
    "  remedy: "
)


def perturb(bundle: Path, key: str, change: float, tiny) -> None:
    """Change the weights of a graph by this share, and close every digest over it again: only the numbers can tell."""
    values = tiny.read_manifest(bundle)
    pin = values[key]
    model = onnx.load_model_from_string((bundle / pin["file"]).read_bytes())
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            weights = numpy_helper.to_array(tensor) * np.float32(1 + change)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    content = model.SerializeToString(deterministic=True)
    (bundle / pin["file"]).write_bytes(content)
    pin.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    tiny.write_manifest(bundle, values)


def score(bundle: Path, source: Path, out: Path, **options):
    return run_job(Job(bundle, str(source), out, **options), Stop(), lambda *_: None)


def differences(bundle: Path, capsys) -> list[float]:
    """Return how far the golden windows of each precision came out, as `freerun verify` tells it."""
    capsys.readouterr()
    cli.main(["verify", str(bundle)], standalone_mode=False)
    return [float(found[1]) for found in re.finditer(rf": {NUMBER} deviations", capsys.readouterr().out)]


def apart(error: BaseException) -> tuple[float, float]:
    """Return the difference and what is allowed, as a refusal tells them."""
    found = REFUSAL.search(str(error))
    assert found, str(error)
    return float(found[1]), float(found[2])


class OtherNumbers(onnxruntime.InferenceSession):
    """What an onnxruntime would be that computes a little differently."""

    added = 0.0

    def run(self, *args, **settings):
        return [output + np.float32(self.added) for output in super().run(*args, **settings)]


@pytest.fixture
def other_onnxruntime(monkeypatch):
    """Return what lets onnxruntime add something to every tensor that it returns."""

    def add(value: float) -> None:
        monkeypatch.setattr(OtherNumbers, "added", value)
        monkeypatch.setattr(onnxruntime, "InferenceSession", OtherNumbers)

    return add


@pytest.mark.parametrize(("fused", "key"), [(False, "encoder"), (False, "decoder_step"), (True, "fused")], ids=str)
def test_f24_a_graph_whose_weights_changed_a_little_is_refused_with_the_difference(tiny, tmp_path, dataset, fused, key):
    bundle = tiny.make_bundle(tmp_path / "bundle", fused=fused)
    perturb(bundle, key, 1e-3, tiny)
    with pytest.raises(BundleError) as refused:
        score(bundle, dataset, tmp_path / "out")
    got, allowed = apart(refused.value)
    assert allowed == 1e-5
    assert allowed < got < 1e-1
    assert refused.value.exit_code == ExitCode.BUNDLE
    assert not (tmp_path / "out").exists()


def test_f24_a_difference_within_the_tolerance_passes_and_is_told(tiny, tmp_path, dataset, capsys):
    bundle = tiny.make_bundle(tmp_path / "bundle")
    (before,) = differences(bundle, capsys)
    perturb(bundle, "decoder_step", 5e-7, tiny)
    (after,) = differences(bundle, capsys)
    assert before < after < 1e-5
    assert score(bundle, dataset, tmp_path / "out").exit_code == ExitCode.OK


def test_f24_the_command_says_so_and_exits_12(tiny, tmp_path, dataset, freerun):
    bundle = tiny.make_bundle(tmp_path / "bundle")
    perturb(bundle, "decoder_step", 1e-3, tiny)
    for command in (("verify", bundle), ("score", bundle, dataset, "--out", tmp_path / "out")):
        done = freerun(*command)
        assert done.code == ExitCode.BUNDLE
        assert REFUSAL.search(done.err), done.err
        assert "Traceback" not in done.err
        assert done.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("added", [1e-4, -1e-4, np.nan, np.inf])
def test_f24_an_onnxruntime_that_gives_other_numbers_is_refused(
    full_bundle, tmp_path, dataset, other_onnxruntime, precision, added
):
    other_onnxruntime(added)
    with pytest.raises(BundleError) as refused:
        score(full_bundle, dataset, tmp_path / "out", precision=precision)
    got, allowed = apart(refused.value)
    assert not got <= allowed
    assert np.isnan(got) or got == pytest.approx(abs(added), rel=0.02)
    assert not (tmp_path / "out").exists()


def test_f24_an_upgrade_that_changes_the_numbers_leaves_the_nights_before_as_they_are(
    tiny_bundle, tiny, tmp_path, dataset, other_onnxruntime
):
    out = tmp_path / "out"
    assert score(tiny_bundle, dataset, out).exit_code == ExitCode.OK
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    tiny.write_dataset(dataset, {"tonight.parquet": 20})
    other_onnxruntime(1e-3)
    with pytest.raises(BundleError, match="do not come out as certified"):
        score(tiny_bundle, dataset, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("bundle", "precisions"), [("bundle-v1", 1), ("tiny", 1), ("full", 2)])
def test_f24_the_versions_at_hand_make_the_certified_numbers(bundle, precisions, tiny_bundle, full_bundle, capsys):
    old = Path(__file__).parent.parent / "data" / "bundle-v1"
    found = differences({"bundle-v1": old, "tiny": tiny_bundle, "full": full_bundle}[bundle], capsys)
    assert len(found) == precisions
    assert max(found) <= 1e-5
