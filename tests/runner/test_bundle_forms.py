"""A bundle may hold fused graphs and a folder of int8 ones: as strictly listed, pinned and audited as all the rest."""

import hashlib
import shutil
from pathlib import Path

import pytest

from runner.bundle import audit_bundle, open_bundle
from runner.errors import BundleError

MADE = ("encoder", "decoder_step", "fused")
INT8 = ("encoder.onnx", "decoder_step.onnx", "fused.onnx", "golden.parquet", "certificate.json")


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.make_bundle(tmp_path / "bundle")


def refusal(path):
    with pytest.raises(BundleError) as caught:
        audit_bundle(open_bundle(path))
    return str(caught.value)


def pin(path, entry, role, name):
    """Make this entry of a manifest list this file under this role, as it lies in the bundle now."""
    content = (path / name).read_bytes()
    entry[role] |= {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def full(full_bundle, tmp_path):
    """Return a bundle with fused graphs and int8 that a test may spoil."""
    return Path(shutil.copytree(full_bundle, tmp_path / "full"))


def test_a_bundle_with_both_precisions_opens_with_the_very_bytes_on_disk(full):
    opened = open_bundle(full)
    names = {str(path.relative_to(full)) for path in full.rglob("*") if path.is_file()}
    assert names == {"manifest.json", *INT8, *(f"int8/{name}" for name in INT8)}
    assert opened.contents == {name: (full / name).read_bytes() for name in names - {"manifest.json"}}
    for precision, folder in (("fp32", full), ("int8", full / "int8")):
        graphs = {name: (folder / f"{name}.onnx").read_bytes() for name in ("encoder", "decoder_step", "fused")}
        assert opened.graphs(precision) == graphs
    audit = audit_bundle(opened).facts
    assert {name for name, facts in audit.items() if "MatMulInteger" in facts.operators} == {
        "int8/decoder_step.onnx", "int8/encoder.onnx", "int8/fused.onnx",
    }  # fmt: skip
    assert audit_bundle(opened, "int8").facts.keys() == {name for name in audit if name.startswith("int8/")}


def test_a_precision_that_was_not_looked_at_opens_no_sessions(full):
    audited = audit_bundle(open_bundle(full), "fp32")
    assert audited.graphs("fp32") == audited.bundle.graphs("fp32")
    with pytest.raises(BundleError, match="int8 graphs were not audited"):
        audited.graphs("int8")


def test_a_precision_that_is_not_there_is_refused_with_its_remedy(bundle):
    with pytest.raises(BundleError, match="freerun-export quantize") as caught:
        open_bundle(bundle).graphs("int8")
    assert "no int8 graphs" in str(caught.value)


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: data + b"?"])
def test_an_altered_file_of_int8_is_refused_by_name(full, name, change):
    (full / "int8" / name).write_bytes(change((full / "int8" / name).read_bytes()))
    assert f"int8/{name}" in refusal(full)


@pytest.mark.parametrize("name", INT8)
def test_a_missing_file_of_int8_is_refused_by_name(full, name):
    (full / "int8" / name).unlink()
    assert f"int8/{name} is missing" in refusal(full)


@pytest.mark.parametrize("name", INT8)
def test_a_link_inside_int8_is_refused_even_to_the_same_bytes(full, tmp_path, name):
    shutil.move(full / "int8" / name, tmp_path / name)
    (full / "int8" / name).symlink_to(tmp_path / name)
    assert f"int8/{name}" in refusal(full)


def test_a_link_in_place_of_int8_is_refused(full, tmp_path):
    shutil.move(full / "int8", tmp_path / "int8")
    (full / "int8").symlink_to(tmp_path / "int8")
    assert "links or folders" in refusal(full)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int4", "INT8", "int8 ", ".int8"])
def test_a_folder_other_than_int8_is_refused_though_it_holds_the_same(full, name):
    shutil.copytree(full / "int8", full / name)
    message = refusal(full)
    assert "links or folders" in message
    assert name in message


@pytest.mark.parametrize("place", ["bundle", "full"])
def test_an_empty_int8_folder_is_refused(place, request):
    path = request.getfixturevalue(place)
    shutil.rmtree(path / "int8", ignore_errors=True)
    (path / "int8").mkdir()
    assert "int8/" in refusal(path)


def test_a_file_in_the_place_of_the_int8_folder_is_refused(full):
    shutil.rmtree(full / "int8")
    (full / "int8").write_bytes(b"")
    assert "int8 is not in the manifest" in refusal(full)


def test_an_unlisted_file_in_int8_is_refused_by_name(full):
    (full / "int8" / "weights.bin").write_bytes(b"x")
    assert "int8/weights.bin is not in the manifest" in refusal(full)


def test_an_int8_folder_that_the_manifest_does_not_list_is_refused(bundle, full):
    shutil.copytree(full / "int8", bundle / "int8")
    assert "int8/encoder.onnx is not in the manifest" in refusal(bundle)


def test_a_folder_inside_int8_is_refused_by_name(full):
    (full / "int8" / "int8").mkdir()
    assert "int8/int8" in refusal(full)


@pytest.mark.parametrize("place", [("fused",), *(("precisions", "int8", name) for name in MADE)], ids="/".join)
def test_a_graph_of_another_export_is_refused_wherever_it_stands(tiny, full, tmp_path, place):
    other = tiny.make_bundle(tmp_path / "other", seed=1, fused=True, int8=True)
    values = tiny.read_manifest(full)
    *keys, role = place
    entry = values
    for key in keys:
        entry = entry[key]
    name = entry[role]["file"]
    shutil.copy(other / name, full / name)
    pin(full, entry, role, name)
    tiny.write_manifest(full, values)
    message = refusal(full)
    assert "not of one export" in message
    assert name in message


def test_a_form_is_audited_only_where_it_is_asked_for(tiny, full):
    values = tiny.read_manifest(full)
    shutil.copy(full / "int8/encoder.onnx", full / "int8/fused.onnx")
    pin(full, values["precisions"]["int8"], "fused", "int8/fused.onnx")
    tiny.write_manifest(full, values)
    audit_bundle(open_bundle(full), "fp32")
    message = refusal(full)
    assert "int8/fused.onnx" in message
    assert "'teacher' is missing" in message
