"""Int8 is let into a bundle only where it forecasts as well; whatever else happens, the bundle stays as it was."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import export.quantize
from export.bundle_writer import losses
from export.quantize import quantize_bundle
from runner.bundle import audit_bundle, open_bundle
from runner.errors import BundleError, BusyError, CertificationError, ExitCode, InputError, OutputError, UsageError
from runner.manifest import FORMAT_VERSION

OLD = {"manifest.json", "encoder.onnx", "decoder_step.onnx", "fused.onnx", "golden.parquet", "certificate.json"}
NEW = {f"int8/{name}" for name in OLD - {"manifest.json"}}


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.make_bundle(tmp_path / "place" / "bundle", fused=True)


@pytest.fixture(scope="module")
def valid(tiny, tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("valid"), {"a.parquet": 150, "b.parquet": 70})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quantize(bundle, valid):
    return quantize_bundle(bundle, str(valid), {})


@pytest.fixture
def refused(bundle, valid):
    """Return what expects an error, and looks whether the bundle and its folder are as they were."""
    before = contents(bundle.parent)

    def expect(error, words):
        with pytest.raises(error, match=words) as caught:
            quantize(bundle, valid)
        assert contents(bundle.parent) == before
        return caught.value

    return expect


def test_int8_stands_beside_the_old_files_which_are_as_they_were_under_a_new_id(bundle, valid):
    before, old = contents(bundle), open_bundle(bundle).manifest
    manifest, _ = quantize(bundle, valid)
    after = contents(bundle)
    assert set(after) == OLD | NEW
    assert {name: after[name] for name in OLD - {"manifest.json"}} == {
        name: before[name] for name in OLD - {"manifest.json"}
    }
    opened = open_bundle(bundle)
    audit_bundle(opened)
    assert opened.manifest == manifest
    assert manifest.bundle_id != old.bundle_id
    assert manifest.held() == ("fp32", "int8")
    kept = manifest.model_dump(exclude={"bundle_id", "precisions"})
    assert kept == old.model_dump(exclude={"bundle_id", "precisions"})
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_the_certificate_tells_the_losses_of_both_forms_and_their_change(bundle, valid, tmp_path, freerun):
    manifest, form = quantize(bundle, valid)
    told = json.loads((bundle / "int8" / "certificate.json").read_text())
    assert told == json.loads(json.dumps(form.certificate))
    assert told["export_id"] == manifest.export_id
    assert 0 < abs(told["change"]["free_running"]) < told["change_allowed"] == 0.01
    certified = manifest.precisions["int8"].certified
    assert certified.windows == told["losses"]["windows"] == 220
    assert certified.free_running.model_dump() == told["losses"]["int8"]["free_running"] == losses(form.losses[1])
    for precision in ("fp32", "int8"):
        for mode, key in (("free-running", "free_running"), ("teacher-forced", "teacher_forced")):
            out = tmp_path / f"{precision} {mode}"
            done = freerun("score", bundle, valid, "--out", out, "--precision", precision, "--mode", mode, "--json")
            assert done.code == 0, done.err
            expected = told["losses"][precision][key]["masked_mse"]
            assert done.json()["total"]["masked_mse"] == pytest.approx(expected, rel=1e-9)


def test_the_runner_verifies_and_inspects_it(bundle, valid, freerun):
    manifest, _ = quantize(bundle, valid)
    done = freerun("verify", bundle)
    assert done.code == 0, done.err
    assert manifest.bundle_id in done.out
    assert "cpu, int8" in done.out
    assert set(freerun("inspect", bundle, "--json").json()["precisions"]) == {"int8"}


def test_a_bundle_of_format_version_1_becomes_one_of_this_version(tiny, bundle, valid):
    (bundle / "fused.onnx").unlink()
    tiny.write_manifest(bundle, {**tiny.read_manifest(bundle), "format_version": 1, "fused": None})
    manifest, _ = quantize(bundle, valid)
    assert (open_bundle(bundle).manifest.format_version, manifest.fused) == (FORMAT_VERSION, None)
    assert manifest.precisions["int8"].fused is not None


def test_a_second_time_is_refused_and_changes_nothing(bundle, valid):
    quantize(bundle, valid)
    before = contents(bundle.parent)
    with pytest.raises(UsageError, match="holds int8 already"):
        quantize(bundle, valid)
    assert contents(bundle.parent) == before


def test_a_loss_that_changes_too_much_is_refused(refused, monkeypatch):
    monkeypatch.setattr("export.quantize.LARGEST_CHANGE", 1e-12)
    assert refused(CertificationError, "int8 forecasts otherwise").exit_code == ExitCode.CERTIFY == 16


@pytest.mark.parametrize("change", [0.01, -0.01, 0.5, float("nan"), float("inf")])
def test_one_percent_more_or_less_is_too_much_and_so_is_what_is_no_number(refused, monkeypatch, change):
    monkeypatch.setattr("export.quantize.change", lambda *_: change)
    refused(CertificationError, "goes on from its last epoch")


@pytest.mark.parametrize("change", [0.0, 0.00999, -0.00999])
def test_less_than_one_percent_passes(bundle, valid, monkeypatch, change):
    monkeypatch.setattr("export.quantize.change", lambda *_: change)
    assert quantize(bundle, valid)[0].held() == ("fp32", "int8")


@pytest.mark.parametrize(("fault", "words"), [("mean", "in batches of"), ("outlier", "beside a row far out of range")])
def test_forecasts_that_depend_on_the_rest_of_the_batch_are_refused(refused, monkeypatch, fault, words):
    make = export.quantize.production_loop

    def dependent(*arguments):
        loop = make(*arguments)
        if fault == "mean":
            return lambda batch, teacher: loop(batch, teacher) + np.float32(1e-6) * len(batch)
        return lambda batch, teacher: loop(batch, teacher) + np.float32(np.abs(batch.past).max() > 100)

    monkeypatch.setattr("export.quantize.production_loop", dependent)
    refused(CertificationError, words)


def test_data_that_does_not_fit_the_bundle_is_refused(tiny, bundle, tmp_path, valid):
    table = tiny.write_dataset(tmp_path / "short", {"a.parquet": 5})
    with pytest.raises(InputError, match="nothing"):
        quantize(bundle, tmp_path / "nothing")
    other = tiny.make_bundle(tmp_path / "other", context_length=7)
    with pytest.raises((InputError, BundleError)):
        quantize(other, table)
    assert quantize(bundle, valid)


def test_an_altered_bundle_is_refused_and_not_made_good(bundle, valid):
    spoiled = bytearray((bundle / "fused.onnx").read_bytes())
    spoiled[-1] ^= 1
    (bundle / "fused.onnx").write_bytes(spoiled)
    before = contents(bundle)
    with pytest.raises(BundleError, match=r"fused\.onnx was altered"):
        quantize(bundle, valid)
    assert contents(bundle) == before


FAULTS = ["os.fsync", "pathlib.Path.mkdir", "export.bundle_writer._exchange"]


@pytest.mark.parametrize("place", FAULTS)
@pytest.mark.parametrize(("error", "told"), [(OSError(28, "No space left"), OutputError), (DeathError(), DeathError)])
def test_a_write_that_fails_leaves_the_old_bundle_whole(bundle, valid, refused, monkeypatch, place, error, told):
    def fail(*_arguments, **_settings):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        refused(told, "No space left" if told is OutputError else "^$")
    assert quantize(bundle, valid)[0].held() == ("fp32", "int8")


KILLED = """
import os, signal, sys
import export.bundle_writer as writer
syncs, exchange = [], writer._exchange
sync, where = os.fsync, sys.argv[1]
def counted(descriptor):
    syncs.append(descriptor)
    if where == str(len(syncs)):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
def exchanged(new, old):
    if where == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    exchange(new, old)
    if where == "after":
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync, writer._exchange = counted, exchanged
from export.cli import main
sys.argv = ["freerun-export", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("where", ["1", "7", "before", "after"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_bundle_whole(bundle, valid, tmp_path, where):
    before, twin = contents(bundle), shutil.copytree(bundle, tmp_path / "twin")
    command = [sys.executable, "-c", KILLED, where, "quantize", str(bundle), "--valid", str(valid)]
    assert subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert [path.name for path in bundle.parent.iterdir() if not path.name.startswith(".")] == ["bundle"]
    audit_bundle(open_bundle(bundle))
    if where != "after":
        assert contents(bundle) == before
        quantize(bundle, valid)
        assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    quantize(twin, valid)
    assert contents(bundle) == contents(twin)


def test_the_command_tells_the_change_and_a_refusal_is_16_without_a_traceback(bundle, valid):
    code = "import export.quantize as q, sys; q.LARGEST_CHANGE = float(sys.argv.pop(1)); from export.cli import main; "
    before, ended = contents(bundle), []
    for allowed in ("1e-12", "0.01"):
        command = [sys.executable, "-c", f"{code}main()", allowed, "quantize", str(bundle), "--valid", str(valid)]
        ended.append(subprocess.run(command, check=False, capture_output=True, text=True, timeout=120))
        if allowed == "1e-12":
            assert contents(bundle) == before
    assert [done.returncode for done in ended] == [16, 0]
    assert ended[0].stderr.startswith("error: int8 forecasts otherwise")
    assert "Traceback" not in ended[0].stderr
    assert "masked MSE" in ended[1].stdout
    assert open_bundle(bundle).manifest.bundle_id in ended[1].stdout


def test_a_bundle_that_was_deployed_meanwhile_is_left_alone(tiny, bundle, valid, tmp_path, monkeypatch):
    newer = tiny.make_bundle(tmp_path / "newer", seed=1)
    certify = export.quantize.certified_int8

    def deployed(*args):
        bundle.rename(tmp_path / "older")
        newer.rename(bundle)
        return certify(*args)

    monkeypatch.setattr("export.quantize.certified_int8", deployed)
    expected = contents(newer)
    with pytest.raises(UsageError, match="replaced meanwhile"):
        quantize(bundle, valid)
    assert contents(bundle) == expected
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_second_quantize_at_the_same_time_is_told_to_wait(bundle, valid, monkeypatch):
    certify = export.quantize.certified_int8

    def meanwhile(*args):
        monkeypatch.setattr("export.quantize.certified_int8", certify)
        with pytest.raises(BusyError, match="already"):
            quantize(bundle, valid)
        return certify(*args)

    monkeypatch.setattr("export.quantize.certified_int8", meanwhile)
    manifest, _ = quantize(bundle, valid)
    assert open_bundle(bundle).manifest == manifest


def test_a_bundle_may_be_named_by_a_dot(bundle, valid, monkeypatch):
    monkeypatch.chdir(bundle)
    quantize(type(bundle)("."), valid)
    assert "int8" in open_bundle(bundle).manifest.precisions


@pytest.mark.parametrize("other", ["an empty folder", "another folder", "a file"])
def test_whatever_took_the_bundles_place_meanwhile_is_put_back(bundle, valid, tmp_path, monkeypatch, other):
    certify = export.quantize.certified_int8

    def replaced(*args):
        bundle.rename(tmp_path / "older")
        if other == "a file":
            bundle.write_bytes(b"mine")
        else:
            bundle.mkdir()
            if other == "another folder":
                (bundle / "manifest.json").write_bytes(b"{")
        return certify(*args)

    monkeypatch.setattr("export.quantize.certified_int8", replaced)
    with pytest.raises(UsageError, match="replaced meanwhile"):
        quantize(bundle, valid)
    left = {"an empty folder": [], "another folder": ["manifest.json"], "a file": None}[other]
    assert (bundle.read_bytes() == b"mine") if left is None else [path.name for path in bundle.iterdir()] == left
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
