"""A bundle opens only as it was certified: any other byte, file, link or pair of graphs is refused."""

import hashlib
import json
import os
import random
import shutil

import pytest

import runner.bundle
from runner.bundle import MANIFEST_LIMIT, MOST_FILES, audit_bundle, open_bundle
from runner.errors import BundleError

FILES = ("manifest.json", "encoder.onnx", "decoder_step.onnx", "golden.parquet", "certificate.json")
PINNED = {
    "encoder": "encoder.onnx",
    "decoder_step": "decoder_step.onnx",
    "golden": "golden.parquet",
    "certificate": "certificate.json",
}


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.make_bundle(tmp_path / "bundle")


def refusal(path, **options):
    with pytest.raises(BundleError) as caught:
        audit_bundle(open_bundle(path, **options))
    return str(caught.value)


def pin(path, values, role, name):
    """Make the manifest's values list this file under this role, as it lies in the bundle now."""
    content = (path / name).read_bytes()
    values[role] |= {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_good_bundle_opens_with_the_very_bytes_on_disk(bundle):
    opened = open_bundle(bundle)
    assert opened.contents == {name: (bundle / name).read_bytes() for name in FILES[1:]}
    assert opened.graphs("fp32") == {
        "encoder": (bundle / "encoder.onnx").read_bytes(),
        "decoder_step": (bundle / "decoder_step.onnx").read_bytes(),
    }
    assert opened.content(opened.manifest.golden) == (bundle / "golden.parquet").read_bytes()
    assert opened.content(opened.manifest.certificate) == (bundle / "certificate.json").read_bytes()
    assert audit_bundle(opened).facts["encoder.onnx"].operators["LSTM"] == 1


def test_the_expected_id_opens_and_any_other_is_refused_with_both(bundle):
    own = open_bundle(bundle).manifest.bundle_id
    assert open_bundle(bundle, own).manifest.bundle_id == own
    message = refusal(bundle, expect_bundle_id="0" * 64)
    assert own in message
    assert "0" * 64 in message


@pytest.mark.parametrize("name", FILES)
def test_one_byte_changed_anywhere_is_refused(bundle, name):
    good = (bundle / name).read_bytes()
    open_bundle(bundle)
    for place in {*range(0, len(good), 37), len(good) - 1}:
        spoiled = bytearray(good)
        spoiled[place] ^= 1 << random.Random(place).randrange(8)
        (bundle / name).write_bytes(spoiled)
        assert refusal(bundle), place


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_a_file_of_another_length_is_refused_by_name(bundle, name, change):
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    assert name in refusal(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(bundle, name):
    (bundle / name).unlink()
    assert name in refusal(bundle)


def test_all_missing_and_unlisted_files_are_told_at_once(bundle):
    (bundle / "encoder.onnx").unlink()
    (bundle / "golden.parquet").unlink()
    (bundle / ".DS_Store").write_bytes(b"")
    (bundle / "weights.bin").write_bytes(b"x")
    message = refusal(bundle)
    for name in ("encoder.onnx is missing", "golden.parquet is missing", ".DS_Store is not", "weights.bin is not"):
        assert name in message


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused_even_to_the_same_bytes(bundle, tmp_path, name):
    shutil.move(bundle / name, tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    assert name in refusal(bundle)


def test_a_folder_or_a_pipe_inside_is_refused_by_name(bundle):
    (bundle / "more").mkdir()
    os.mkfifo(bundle / "pipe")
    message = refusal(bundle)
    assert "more" in message
    assert "pipe" in message


def test_a_pipe_that_takes_a_files_place_after_the_look_around_is_refused_and_not_waited_for(bundle, monkeypatch):
    names = runner.bundle._plain_files(bundle)
    monkeypatch.setattr("runner.bundle._plain_files", lambda _: names)
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")
    assert "encoder.onnx is not a plain file" in refusal(bundle)


def test_a_folder_of_many_files_is_refused_before_all_of_them_are_looked_at(bundle, monkeypatch):
    for index in range(MOST_FILES):
        (bundle / f"more-{index}").touch()
    monkeypatch.setattr("runner.bundle.parse_manifest", lambda _: pytest.fail("the manifest was read"))
    assert f"more than {MOST_FILES} files" in refusal(bundle)


def test_hard_links_are_no_ground_for_refusal(bundle, tmp_path):
    os.link(bundle / "encoder.onnx", tmp_path / "second-name")
    assert open_bundle(bundle).manifest.name == "tiny"


def test_a_link_to_a_bundle_is_refused(bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    assert "link" in refusal(tmp_path / "link")


def test_a_bundle_that_is_not_there_or_no_folder_is_refused_with_its_path(bundle, tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    assert "encoder.onnx" in refusal(bundle / "encoder.onnx")
    (tmp_path / "empty").mkdir()
    assert "no manifest.json" in refusal(tmp_path / "empty")


def test_a_manifest_over_one_megabyte_is_refused_whatever_it_says(bundle):
    text = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(text + b" " * (MANIFEST_LIMIT - len(text)))
    open_bundle(bundle)
    (bundle / "manifest.json").write_bytes(text + b" " * (MANIFEST_LIMIT - len(text) + 1))
    assert "too large" in refusal(bundle)


def test_a_graph_of_another_bundle_is_refused(tiny, bundle, tmp_path):
    other = tiny.make_bundle(tmp_path / "other", seed=1)
    shutil.copy(other / "decoder_step.onnx", bundle)
    assert "decoder_step.onnx was altered" in refusal(bundle)


@pytest.mark.parametrize("role", ["encoder", "decoder_step"])
def test_a_mixed_pair_is_refused_even_where_the_manifest_was_closed_over_it(tiny, bundle, tmp_path, role):
    other = tiny.make_bundle(tmp_path / "other", seed=1)
    shutil.copy(other / PINNED[role], bundle)
    values = tiny.read_manifest(bundle)
    pin(bundle, values, role, PINNED[role])
    tiny.write_manifest(bundle, values)
    message = refusal(bundle)
    assert "not of one export" in message
    assert tiny.read_manifest(other)["export_id"] in message


def test_a_manifest_of_another_export_is_refused(tiny, bundle):
    tiny.write_manifest(bundle, {**tiny.read_manifest(bundle), "export_id": "ab" * 32})
    assert "not of one export" in refusal(bundle)


def test_encoder_and_step_swapped_are_refused(tiny, bundle):
    values = tiny.read_manifest(bundle)
    pin(bundle, values, "encoder", "decoder_step.onnx")
    pin(bundle, values, "decoder_step", "encoder.onnx")
    tiny.write_manifest(bundle, values)
    assert "input 'past' is missing" in refusal(bundle)


STATE = {"encoder_output": "hidden", "step_input": "hidden", "step_output": "hidden_next", "width": 3}
CELL = {"encoder_output": "cell", "step_input": "cell", "step_output": "cell_next", "width": 3}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context_length": 7}, "'past'"),
        ({"features": {"past": ["y", "x", "z"], "future_known": ["k"]}}, "'past'"),
        ({"features": {"past": ["y", "x"], "future_known": []}}, "'future_known'"),
        ({"features": {"past": ["y", "x"], "future_known": ["k", "l"]}}, "'future_known'"),
        ({"past_observed": False}, "'past_observed'"),
        ({"states": [STATE]}, "'cell'"),
        ({"states": [{**STATE, "width": 4}, CELL]}, "'hidden'"),
        ({"states": [{**STATE, "step_input": "renamed"}, CELL]}, "'renamed'"),
        ({"memory": [{"encoder_output": "keys", "step_input": "keys", "shape": [6, 3]}]}, "'keys'"),
    ],
    ids=str,
)
def test_a_manifest_that_disagrees_with_the_graphs_is_refused_by_name(tiny, tmp_path, changes, named):
    assert named in refusal(tiny.make_bundle(tmp_path / "bundle", **changes))


def test_an_opset_that_is_not_the_graphs_is_refused_with_both(tiny, tmp_path):
    message = refusal(tiny.make_bundle(tmp_path / "bundle", opset=17))
    assert "17" in message
    assert "18" in message


@pytest.mark.parametrize("role", PINNED)
def test_a_size_that_is_not_the_files_is_refused_by_name(tiny, bundle, role):
    values = tiny.read_manifest(bundle)
    for size in (0, values[role]["bytes"] - 1, values[role]["bytes"] + 1):
        tiny.write_manifest(bundle, {**values, role: {**values[role], "bytes": size}})
        assert PINNED[role] in refusal(bundle), size


@pytest.mark.parametrize("size", [1 << 62, 10**30])
def test_a_size_beyond_all_memory_is_refused_and_not_asked_for(tiny, bundle, size):
    values = tiny.read_manifest(bundle)
    values["encoder"]["bytes"] = size
    tiny.write_manifest(bundle, values)
    assert "encoder.bytes" in refusal(bundle)


def test_one_file_under_two_roles_leaves_another_unlisted(tiny, bundle):
    values = tiny.read_manifest(bundle)
    pin(bundle, values, "certificate", "golden.parquet")
    tiny.write_manifest(bundle, values)
    assert "certificate.json is not in the manifest" in refusal(bundle)


def test_a_manifest_that_does_not_fit_is_refused_before_any_graph_is_read(bundle, monkeypatch):
    (bundle / "manifest.json").write_text(json.dumps({"format_version": 1}))
    monkeypatch.setattr("runner.audit.audit_graph", lambda *_: pytest.fail("the graph was looked at"))
    assert "horizon" in refusal(bundle)


def test_an_altered_bundle_never_reaches_onnxruntime_nor_the_output(bundle, dataset, tmp_path, score, monkeypatch):
    (bundle / "encoder.onnx").write_bytes((bundle / "encoder.onnx").read_bytes()[:-1] + b"?")
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("onnxruntime was asked"))
    with pytest.raises(BundleError):
        score(bundle, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
