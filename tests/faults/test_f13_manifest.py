"""F13: a manifest and a bundle that disagree are refused by exit code 12, with what was found and what was expected."""

import copy
import json
import shutil
import time

import pytest

from campaigns.bundle_mutations import try_bundle
from runner.bundle import audit_bundle, open_bundle
from runner.config import Job
from runner.errors import BundleError
from runner.manifest import bundle_id_of
from runner.run import run_job
from runner.stop import Stop

FOR_THE_RECORD = {
    "name", "created_at", "season_length", "target", "start", "scaling", "excluded_share", "certified", "tolerances",
    "producers", "freq", "calendar",
}  # fmt: skip
"""What no file of the bundle contradicts, as names of features and losses: only the id pins it."""
MEMORY = {"encoder_output": "keys", "step_input": "keys", "shape": [3]}
MAY_BE_NULL = {"season_length", "fused", "value", "masked_mse", "observed_mse", "freq", "calendar"}
BUSY = 3.0
"""A machine that runs other things at the same time may take so many times as long."""
OTHER_TYPES = (None, True, 1.5, 10**30, "text", [], {}, [[]], {"was": 1})


@pytest.fixture(scope="module")
def whole_bundle(tiny, tmp_path_factory):
    """Return a bundle that holds all there can be."""
    folder = tmp_path_factory.mktemp("bundle") / "whole"
    return tiny.make_bundle(
        folder,
        fused=True,
        int8=True,
        static=True,
        freq="h",
        calendar={"features": ["hour", "holiday"], "holidays": ["2026-12-25"]},
    )


@pytest.fixture(scope="module")
def values(tiny, whole_bundle):
    return tiny.read_manifest(whole_bundle)


@pytest.fixture
def bundle(whole_bundle, tmp_path):
    return shutil.copytree(whole_bundle, tmp_path / "bundle")


@pytest.fixture
def refusal(bundle):
    """Return what writes a manifest, its id made right or not, and returns the refusal; None where there is none."""

    def write(values, *, closed=True):
        spoilt = {**values, "bundle_id": bundle_id_of(values)} if closed else values
        (bundle / "manifest.json").write_text(json.dumps(spoilt))
        try:
            audit_bundle(open_bundle(bundle))
        except BundleError as error:
            return str(error)
        return None

    return write


def places(value, path=()):
    """Yield the path of everything in nested JSON, containers too."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def at(values, path):
    for key in path:
        values = values[key]
    return values


def changed(values, path, value):
    """Return a copy of a manifest with another value at a path."""
    copied = copy.deepcopy(values)
    at(copied, path[:-1])[path[-1]] = value
    return copied


def without(values, path):
    copied = copy.deepcopy(values)
    del at(copied, path[:-1])[path[-1]]
    return copied


def another(value):
    """Return a value of the same type that looks as good."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return [*value, *value[-1:]] if isinstance(value, list) else {**value, "extra": 1}


def test_f13_no_value_can_be_changed_behind_the_ids_back(values, refusal):
    for path in places(values):
        if path != ("bundle_id",) and at(values, path) not in ([], {}):
            message = refusal(changed(values, path, another(at(values, path))), closed=False)
            assert message, path
            assert f"expected: {values['bundle_id']}" in message or "format" in message, (path, message)


def test_f13_no_value_of_another_type_is_taken_and_the_place_is_named(values, refusal):
    for path in places(values):
        good = at(values, path)
        for value in OTHER_TYPES:
            if path == ("bundle_id",) or type(value) is type(good) or (value is None and path[-1] in MAY_BE_NULL):
                continue
            if isinstance(good, float) and isinstance(value, int) and not isinstance(value, bool):
                continue  # JSON does not tell 1 from 1.0
            message = refusal(changed(values, path, value))
            assert message, (path, value)
            assert path[0] == "format_version" or str(path[-1]) in message or "Input should" in message, (path, message)


def test_f13_no_key_can_be_left_out_but_those_that_need_not_be_there(values, refusal):
    optional = {
        ("others",),
        ("season_length",),
        ("control_flow",),
        ("start", "value"),
        ("mask", "excluded"),
        ("freq",),
        ("calendar",),
    }
    optional |= {("static", "categories", place, "unknown") for place in (0, 1)}
    for path in places(values):
        if isinstance(path[-1], str) and path != ("bundle_id",):
            message = refusal(without(values, path))
            assert (message is None) == (path in optional or "producers" in path[:-1]), (path, message)
            told = (path[-1], path[0], "int8", "format version")
            assert message is None or any(word in message for word in told), (path, message)


def test_f13_no_key_can_be_added_anywhere(values, refusal):
    for path in [(), *(path for path in places(values) if isinstance(at(values, path), dict))]:
        spoilt = copy.deepcopy(values)
        at(spoilt, path)["extra"] = "1"
        message = refusal(spoilt)
        assert (message is None) == (path == ("producers",)), path
        assert message is None or "extra" in message, path


def test_f13_every_value_that_says_something_about_the_files_is_held_against_them(values, refusal):
    """And no other is: what is for the record alone is pinned by the id, and by nothing else."""
    for path in places(values):
        good = at(values, path)
        if path != ("bundle_id",) and not isinstance(good, dict) and good not in (None, []):
            message = refusal(changed(values, path, another(good)))
            recorded = path[0] in {*FOR_THE_RECORD, "features", "static"} or "certified" in path
            assert recorded or message is not None, path
            assert message is None or "\n" in message, (path, message)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("context_length",), 7, ["'past' is FLOAT ['batch', 6, 2], expected FLOAT ['batch', 7, 2]"]),
        (("horizon",), 5, ["'prediction' is FLOAT ['batch', 4], expected FLOAT ['batch', 5]"]),
        (("features", "past"), ["y"], ["['batch', 6, 2], expected FLOAT ['batch', 6, 1]"]),
        (("features", "future_known"), ["k", "l"], ["['batch', 1, 1], expected FLOAT ['batch', 1, 2]"]),
        (("states", 1, "step_input"), "hidden", ["inputs of the step have the same name: hidden"]),
        (("states", 0, "width"), 4, ["'hidden' is FLOAT ['batch', 3], expected FLOAT ['batch', 4]"]),
        (("states", 0, "step_output"), "other", ["output 'other' is missing", "'hidden_next' is not in the manifest"]),
        (("opset",), 17, ["got: {", "18", "expected: 17"]),
        (("export_id",), "ab" * 32, ["not of one export", "expected: " + "ab" * 32]),
        (("encoder", "sha256"), "0" * 64, ["encoder.onnx was altered", "expected: ", "sha256 " + "0" * 64]),
        (("encoder", "bytes"), 1, ["encoder.onnx is too large", "expected: at most 1"]),
        (("golden", "file"), "other.parquet", ["other.parquet is missing", "golden.parquet is not in the manifest"]),
        (("format_version",), 5, ["got: 5", "expected: 1 or 2 or 3 or 4"]),
        (("format_version",), 1, ["static, freq and calendar belong to format version 4"]),
        (("control_flow",), ["Loop"], ["control_flow", "at most 0 items"]),
        (("context_length",), 1 << 30, ["context_length", "less than or equal to 1048576", "got 1073741824"]),
        (("horizon",), 0, ["horizon", "greater than or equal to 1", "got 0"]),
        (("encoder", "bytes"), 1 << 40, ["encoder.bytes", "less than or equal to 536870912", "got 1099511627776"]),
        (("golden", "bytes"), 1 << 27, ["golden.bytes", "less than or equal to 67108864"]),
        (("memory",), [{**MEMORY, "shape": [1 << 40]}], ["memory.0.shape.0", "1048576"]),
        (("memory",), [{**MEMORY, "shape": [1] * 9}], ["memory.0.shape", "at most 7 items"]),
    ],
    ids=str,
)  # fmt: skip
def test_f13_a_refusal_says_what_was_found_and_what_was_expected(values, refusal, path, value, told):
    message = refusal(changed(values, path, value))
    assert message is not None
    for words in told:
        assert words in message


def test_f13_numbers_that_are_fine_one_by_one_are_refused_together(values, refusal):
    wide = changed(changed(values, ("context_length",), 1 << 20), ("features", "past"), [f"f{i}" for i in range(8)])
    assert "past has 1048576 x 8 numbers a window, expected at most 4194304" in refusal(wide)
    heavy = values
    for path in [("encoder",), ("decoder_step",), ("fused",)]:
        heavy = changed(heavy, (*path, "bytes"), 1 << 29)
    assert "the files have 16" in refusal(heavy)
    assert "features.past: Tuple should have at most 4096 items" in refusal(
        changed(values, ("features", "past"), ["y"] * 5000)
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("states",), [{}] * 200_000),
        (("features", "past"), [1] * 300_000),
        (("memory",), [{"shape": [0] * 200_000}]),
        (("producers",), {str(i): 1 for i in range(80_000)}),
        (("states",), [{str(i): 1 for i in range(60)}] * 1_500),
    ],
    ids=["states", "features", "shape", "producers", "keys"],
)
def test_f13_a_megabyte_of_faults_is_refused_at_once_and_in_few_words(values, refusal, path, value):
    started = time.process_time()
    message = refusal(changed(values, path, value))
    print(f"{time.process_time() - started:.2f} s")
    assert "the manifest holds too many values" in message
    assert "expected: at most 20000" in message
    assert time.process_time() - started < 2 * BUSY


def test_f13_thousands_of_faults_are_told_in_few_words(values, refusal):
    message = refusal(changed(values, ("states",), [{}] * 4_000))
    assert 50 < len(message.splitlines()) < 60


@pytest.mark.parametrize("kind", ["step by step", "fused"])
@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 5}, {"horizon": 3}, {"horizon": 1 << 20}, {"context_length": 7}, {"context_length": 1 << 20},
        {"features": {"past": ["y", "x", "z"], "future_known": ["k"]}},
        {"features": {"past": ["y", "x"], "future_known": []}},
        {"past_observed": False},
    ],
    ids=str,
)  # fmt: skip
def test_f13_a_run_blames_the_bundle_and_not_the_data_that_fits_the_graphs(tiny, dataset, tmp_path, kind, changes):
    path = tiny.make_bundle(tmp_path / "bundle", fused=kind == "fused")
    tiny.write_manifest(path, {**tiny.read_manifest(path), **changes})
    with pytest.raises(BundleError):
        run_job(Job(path, str(dataset), tmp_path / "out"), Stop(), lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_f13_a_mixed_pair_is_refused_by_exit_code_12(tiny, bundle, freerun, dataset, tmp_path):
    other = tiny.make_bundle(tmp_path / "other", seed=1, fused=True, int8=True)
    shutil.copy(other / "decoder_step.onnx", bundle)
    values, pinned = tiny.read_manifest(bundle), tiny.read_manifest(other)["decoder_step"]
    tiny.write_manifest(bundle, {**values, "decoder_step": pinned})
    done = freerun("score", bundle, dataset, "--out", tmp_path / "out")
    assert done.code == 12, done.err
    assert "the graphs are not of one export" in done.err
    assert f"expected: {values['export_id']}" in done.err


def test_f13_what_is_for_the_record_may_be_anything_that_it_may_be(values, bundle, refusal):
    """So that the lists above say all: what is not refused forecasts as certified."""
    spoilt = {**values, "name": "another", "season_length": 3, "excluded_share": 0.5, "producers": {}}
    assert refusal(spoilt) is None
    assert try_bundle(bundle) == (None, True)
