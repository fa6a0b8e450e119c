"""The manifest is read strictly: what does not fit is refused, all of it at once, and its id pins the rest."""

import copy
import hashlib
import json
import math

import pytest
from pydantic import ValidationError

from runner.digests import canonical, digest
from runner.errors import BundleError
from runner.manifest import Manifest, bundle_id_of, parse_manifest


@pytest.fixture(params=["tiny_bundle", "full_bundle"])
def values(tiny, request):
    """Return a good manifest as a dict that a test may spoil: a plain one, and one that holds all there can be."""
    return tiny.read_manifest(request.getfixturevalue(request.param))


def closed(values):
    """Return the manifest's text, closed over whatever it says now."""
    return json.dumps({**values, "bundle_id": bundle_id_of(values)}).encode()


def refusal(text):
    with pytest.raises(BundleError) as caught:
        parse_manifest(text if isinstance(text, bytes) else json.dumps(text).encode())
    return str(caught.value)


def leaves(value, path=()):
    """Yield the path of every value in nested JSON that is no container."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(values, path, change):
    """Return a copy of the manifest with the value at a path put through `change`."""
    copied = copy.deepcopy(values)
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = change(place[path[-1]])
    return copied


def another(value):
    """Return a value of the same type that still looks plausible."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return ["If"] if value == [] else 7


def test_a_good_manifest_reads_back_with_its_own_values(values):
    manifest = parse_manifest(closed(values))
    assert manifest.model_dump(mode="json") == values
    assert (manifest.past_width, manifest.future_width) == (2, 1)
    plain = ["encoder.onnx", "decoder_step.onnx", "golden.parquet", "certificate.json"]
    whole = [*plain[:2], "fused.onnx", *plain[2:]]
    held = {"fp32": plain} if values["fused"] is None else {"fp32": whole, "int8": [f"int8/{name}" for name in whole]}
    assert [file.file for file in manifest.files()] == [name for names in held.values() for name in names]
    assert manifest.held() == tuple(held)


def test_every_problem_is_listed_at_once(values):
    del values["horizon"]
    values["surprise"] = 1
    values["context_length"] = "6"
    values["encoder"]["sha256"] = "abc"
    values["target"]["scale"] = -1.0
    message = refusal(values)
    for place in ("horizon", "surprise", "context_length", "encoder.sha256", "target.scale"):
        assert f"- {place}: " in message


@pytest.mark.parametrize("place", [(), ("encoder",), ("features",), ("states", 0), ("certified", "free_running")])
def test_an_unknown_key_is_refused_at_any_depth_by_name(values, place):
    inner = values
    for key in place:
        inner = inner[key]
    inner["unheard_of"] = None
    assert ".".join(map(str, (*place, "unheard_of"))) in refusal(closed(values))


@pytest.mark.parametrize("version", [0, 5, "1", "2", None, 1.5, 2.5, [1], True])
def test_another_format_version_is_refused_before_anything_else(values, version):
    message = refusal(closed({**values, "format_version": version, "surprise": 1}))
    assert "format" in message
    if version is not True:  # which equals 1, and is refused with the other problems
        assert "expected: 1 or 2 or 3" in message
        assert "surprise" not in message


def test_a_manifest_without_a_format_version_is_refused(values):
    del values["format_version"]
    assert "format version" in refusal(values)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_by_its_place(values, word):
    text = json.dumps(values).replace('"parity": 1e-05', f'"parity": {word}').encode()
    assert word.encode() in text
    assert "tolerances.parity" in refusal(text)


def test_an_altered_manifest_is_refused_with_both_ids(values):
    altered = {**values, "name": "other"}
    message = refusal(altered)
    assert values["bundle_id"] in message
    assert bundle_id_of(altered) in message


def test_no_value_can_be_changed_without_a_refusal(values):
    text = closed(values)
    for path in leaves(values):
        spoiled = json.dumps(changed(values, path, another)).encode()
        assert spoiled != text
        assert refusal(spoiled), path


def test_every_value_is_covered_by_the_bundle_id(values):
    ids = [bundle_id_of(changed(values, path, another)) for path in leaves(values) if path != ("bundle_id",)]
    assert values["bundle_id"] not in ids
    assert len(set(ids)) == len(ids)


def test_no_value_of_another_type_is_taken(values):
    for path in set(leaves(values)) - {("bundle_id",)}:
        spoiled = changed(values, path, lambda value: {"was": value})
        assert refusal(closed(spoiled)), path


def test_no_required_key_can_be_left_out(values):
    optional = {"season_length", "control_flow", "fused", "precisions", "others", "static", "freq", "calendar"}
    for key in values.keys() - optional - {"bundle_id"}:
        assert refusal(closed({name: value for name, value in values.items() if name != key})), key


@pytest.mark.parametrize(
    "text", [b"", b"no json", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"format_version": 1', b"[" * 100_000, b"{}"]
)
def test_what_is_no_json_object_is_refused(text):
    assert refusal(text)


def test_a_key_that_stands_there_twice_cannot_smuggle_a_value_past_the_id(values):
    text = closed(values)
    for twice in (text.replace(b"{", b'{"name": "smuggled", ', 1), text[:-1] + b', "name": "smuggled"}'):
        try:
            found = parse_manifest(twice).name
        except BundleError:
            continue
        assert found == values["name"]


def test_the_id_depends_on_the_content_and_not_on_how_it_is_written_down(values):
    shuffled = json.dumps(dict(reversed(values.items())), indent=3).encode()
    assert parse_manifest(shuffled) == parse_manifest(json.dumps(values).encode())


def test_the_canonical_form_is_sorted_and_tight():
    assert canonical({"b": [1.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1.5,null]}'
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_the_canonical_form_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": math.nan})


def test_a_target_beyond_the_features_is_refused(values):
    values["target"]["feature"] = 2
    assert "target.feature is 2" in refusal(closed(values))


@pytest.mark.parametrize(
    ("graph", "role"),
    [
        ("encoder", "past"),
        ("encoder", "previous_0"),
        ("encoder", "past_observed"),
        ("decoder_step", "previous"),
        ("decoder_step", "prediction"),
        ("decoder_step", "future_known"),
    ],
)
def test_a_role_that_the_loop_needs_without_a_tensor_name_is_refused(values, graph, role):
    del values[graph]["tensors"][role]
    assert role in refusal(closed(values))


@pytest.mark.parametrize("name", ["../encoder.onnx", "/etc/passwd", "a/b.onnx", ".hidden", "", "encoder.onnx\n"])
def test_a_file_name_that_could_leave_the_folder_is_refused(values, name):
    values["encoder"]["file"] = name
    assert "encoder.file" in refusal(closed(values))


def test_a_manifest_cannot_be_changed_once_read(values):
    manifest = parse_manifest(closed(values))
    with pytest.raises(ValidationError, match="frozen"):
        manifest.horizon = 5
    assert isinstance(manifest, Manifest)


@pytest.fixture
def full(tiny, full_bundle):
    """Return the manifest of a bundle with fused graphs and int8, as a dict that a test may spoil."""
    return tiny.read_manifest(full_bundle)


def test_a_form_is_read_by_its_precision(full):
    manifest = parse_manifest(closed(full))
    for precision, given in (("fp32", full), ("int8", full["precisions"]["int8"])):
        form = manifest.form(precision).model_dump(mode="json")
        assert form == {key: given[key] for key in form}
        assert list(manifest.form(precision).graphs()) == ["encoder", "decoder_step", "fused"]


def test_a_form_that_is_not_there_is_refused_with_what_is_and_how_to_get_it(tiny, tiny_bundle):
    manifest = parse_manifest(closed(tiny.read_manifest(tiny_bundle)))
    with pytest.raises(BundleError, match="got: fp32") as caught:
        manifest.form("int8")
    assert "freerun-export quantize" in str(caught.value)


@pytest.mark.parametrize("kept", [("fused",), ("precisions",), ("fused", "precisions")], ids="+".join)
def test_format_version_1_knows_neither_fused_graphs_nor_precisions(full, kept):
    plain = {**full, "format_version": 1, "fused": None, "precisions": {}}
    assert parse_manifest(closed(plain)).held() == ("fp32",)
    assert "belong to format version 2" in refusal(closed({**plain, **{key: full[key] for key in kept}}))


def test_format_version_1_needs_no_keys_of_version_2(tiny, tiny_bundle):
    values = {**tiny.read_manifest(tiny_bundle), "format_version": 1}
    for key in ("fused", "precisions"):
        del values[key]
    assert parse_manifest(closed(values)).form("fp32").fused is None


@pytest.mark.parametrize("role", ["past", "past_observed", "future_known", "teacher", "prediction"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("change", ["left out", "renamed"])
def test_a_fused_graph_has_every_role_under_the_name_of_the_two_graphs(full, role, precision, change):
    tensors = (full if precision == "fp32" else full["precisions"]["int8"])["fused"]["tensors"]
    tensors[role] = "renamed"
    if change == "left out":
        del tensors[role]
    assert f"{precision} fused" in refusal(closed(full))


@pytest.mark.parametrize("role", ["previous", "previous_0", "hidden"])
def test_a_fused_graph_has_no_role_that_it_keeps_to_itself(full, role):
    full["fused"]["tensors"][role] = role
    assert "fp32 fused" in refusal(closed(full))


@pytest.mark.parametrize(("graph", "role"), [("encoder", "past"), ("decoder_step", "prediction")])
def test_a_further_precision_calls_its_tensors_as_the_float32_graphs_do(full, graph, role):
    full["precisions"]["int8"][graph]["tensors"][role] = "renamed"
    assert f"int8 {graph}" in refusal(closed(full))


@pytest.mark.parametrize("name", ["fp32", "fp16", "INT8", ""])
def test_a_precision_that_nobody_knows_is_refused_by_name(full, name):
    full["precisions"][name] = full["precisions"].pop("int8")
    assert "precisions" in refusal(closed(full))


@pytest.mark.parametrize(
    "name", ["int8/../encoder.onnx", "int8/", "int8//a", "int4/a", "int8/int8/a", "int8/.a", "/int8/a"]
)
def test_a_file_name_that_could_leave_the_int8_folder_is_refused(full, name):
    full["precisions"]["int8"]["encoder"]["file"] = name
    assert "precisions.int8.encoder.file" in refusal(closed(full))


@pytest.mark.parametrize("key", ["encoder", "decoder_step", "golden", "certificate", "certified"])
def test_no_part_of_a_form_can_be_left_out_but_its_fused_graph(full, key):
    form = full["precisions"]["int8"]
    assert parse_manifest(closed({**full, "precisions": {"int8": {**form, "fused": None}}})).held() == ("fp32", "int8")
    del form[key]
    assert f"precisions.int8.{key}" in refusal(closed(full))


def test_several_targets_have_names_features_and_start_values_of_their_own(values):
    other = {"name": "second", "feature": 1, "scale": 2.0}
    found = parse_manifest(closed({**values, "format_version": 3, "others": [other]}))
    assert [target.name for target in found.targets] == [values["target"]["name"], "second"]
    assert (found.target_width, found.cells) == (2, 2 * found.horizon)
    assert found.target_features == (values["target"]["feature"], 1)
    assert "others belong to format version 3" in refusal(closed({**values, "format_version": 2, "others": [other]}))
    twice = {**other, "name": values["target"]["name"]}
    assert "the same name" in refusal(closed({**values, "format_version": 3, "others": [twice]}))
    beyond = {**other, "feature": 99}
    assert "target.feature is 99" in refusal(closed({**values, "format_version": 3, "others": [beyond]}))
    start = {"kind": "constant", "value": [1.0, 2.0]}
    assert "2 numbers for 1 targets" in refusal(closed({**values, "format_version": 3, "start": start}))


def test_a_manifest_of_version_2_has_one_target(values):
    found = parse_manifest(
        closed({**{key: value for key, value in values.items() if key != "others"}, "format_version": 2})
    )
    assert (found.format_version, found.targets, found.cells) == (2, (found.target,), found.horizon)


def test_static_features_have_names_and_words_of_their_own(tiny, static_bundle):
    values = tiny.read_manifest(static_bundle)
    found = parse_manifest(closed(values))
    assert found.static.names == ("size", "shop", "kind")
    assert found.static_width == 3
    assert "static, freq and calendar belong to format version 4" in refusal(closed({**values, "format_version": 3}))
    shop = values["static"]["categories"][0]
    for spoilt, told in (
        ({"numbers": ["size", "shop"], "categories": [shop]}, "the same name: size, shop, shop"),
        ({"numbers": [], "categories": []}, "static names no feature"),
        ({"numbers": [], "categories": [{**shop, "values": ["a", "b", "a"]}]}, "category shop name one twice"),
        ({"numbers": [], "categories": [{**shop, "values": []}]}, "static.categories.0.values"),
        ({"numbers": [], "categories": [{**shop, "unknown": "guess"}]}, "static.categories.0.unknown"),
    ):
        assert told in refusal(closed({**values, "static": spoilt}))


def test_the_encoder_names_its_static_tensor_where_the_manifest_has_such_features_and_nowhere_else(
    tiny, static_bundle, values
):
    static = tiny.read_manifest(static_bundle)
    del static["encoder"]["tensors"]["static"]
    assert "fp32 encoder names tensors" in refusal(closed(static))
    values["encoder"]["tensors"]["static"] = "static"
    assert "fp32 encoder names tensors" in refusal(closed(values))
