"""F14: a byte that changed anywhere in a bundle is found before onnxruntime sees any."""

import random
import shutil

import pytest

from runner.bundle import open_bundle
from runner.errors import BundleError

SEED = 14
FILES = ("manifest.json", "encoder.onnx", "decoder_step.onnx", "golden.parquet", "certificate.json")


@pytest.fixture
def bundle(tiny_bundle, tmp_path, monkeypatch):
    """Return a bundle that a test may alter; whoever asks onnxruntime or looks into a graph fails."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("onnxruntime was asked"))
    monkeypatch.setattr("runner.audit.audit_graph", lambda *_, **__: pytest.fail("a graph was looked at"))
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def flips(content):
    """Yield the content with one bit of one byte flipped, for every byte, and the byte's place."""
    draw = random.Random(SEED)
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << draw.randrange(8)
        yield place, spoilt


@pytest.mark.parametrize("name", FILES[1:])
def test_f14_any_byte_of_any_file_that_changed_is_found(bundle, monkeypatch, name):
    good, manifest = (bundle / name).read_bytes(), open_bundle(bundle).manifest
    monkeypatch.setattr(
        "runner.bundle.parse_manifest", lambda _: manifest
    )  # it is as it was, and takes most of the time
    for place, spoilt in flips(good):
        (bundle / name).write_bytes(spoilt)
        try:
            open_bundle(bundle)
        except BundleError as error:
            told = str(error)
        else:
            told = "nothing"
        assert f"{name} was altered" in told, f"seed {SEED}, byte {place}"


def test_f14_any_byte_of_the_manifest_that_changed_is_found_or_says_the_same(bundle):
    good, manifest = (bundle / "manifest.json").read_bytes(), open_bundle(bundle).manifest
    for place, spoilt in flips(good):
        (bundle / "manifest.json").write_bytes(spoilt)
        try:
            found = open_bundle(bundle).manifest
        except BundleError:
            continue
        assert found == manifest, f"seed {SEED}, byte {place}"  # 1E-05 for 1e-05


@pytest.mark.parametrize("name", FILES[1:])
def test_f14_bytes_that_changed_are_told_with_both_digests(bundle, name):
    good = (bundle / name).read_bytes()
    pinned = next(file for file in open_bundle(bundle).manifest.files() if file.file == name)
    for spoilt in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good[:0], good[1:]):
        (bundle / name).write_bytes(spoilt)
        with pytest.raises(BundleError, match=f"{name} was altered") as caught:
            open_bundle(bundle)
        assert f"got: {len(spoilt)} bytes, sha256 " in str(caught.value)
        assert f"expected: {len(good)} bytes, sha256 {pinned.sha256}" in str(caught.value)


def test_f14_a_file_that_grew_is_not_read(bundle):
    with (bundle / "encoder.onnx").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"encoder.onnx is too large\n  got: 1099511627776 bytes"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("command", "name"), [("verify", "encoder.onnx"), ("score", "golden.parquet"), ("inspect", "manifest.json")]
)
def test_f14_every_command_refuses_with_exit_12(bundle, freerun, dataset, tmp_path, command, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content.replace(b"t", b"u", 1))
    done = freerun(command, bundle, *([dataset, "--out", tmp_path / "out"] if command == "score" else []))
    assert done.code == 12, done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
