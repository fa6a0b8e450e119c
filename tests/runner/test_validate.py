"""What may reach a graph, and the one reason that each other row is given."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest

from runner.batch import REASONS, WindowBatch
from runner.features import Category, Static
from runner.schema import Layout, Sizes
from runner.validate import validate

SIZES = Sizes(context=3, horizon=2, past=2, future=1)
CATEGORIES = (
    Category(name="shop", values=("north", "south")),
    Category(name="kind", values=("open",), unknown="reserved"),
)
WITH_STATIC = Sizes(context=3, horizon=2, past=2, future=1, static=Static(numbers=("a", "b"), categories=CATEGORIES))
F64 = pa.list_(pa.float64())
NAN, INF = float("nan"), float("inf")
TYPES = {
    "past": pa.list_(F64),
    "past_observed": F64,
    "future_known": pa.list_(F64),
    "target": F64,
    "mask": F64,
    "observed": F64,
    "decoder_input": F64,
    "static": F64,
    "shop": pa.string(),
    "kind": pa.string(),
}
ROW = {
    "past": [[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]],
    "past_observed": [1, 1, 1],
    "future_known": [[7.0], [8.0]],
    "target": [9.0, 10.0],
    "mask": [0, 1],
    "observed": [1, 0],
    "decoder_input": [11.0, 12.0],
    "static": [13.0, 14.0],
    "shop": "south",
    "kind": "open",
}
ALWAYS = ("past", "past_observed", "future_known", "target")


def checked(*rows, roles=(*ALWAYS, "mask"), flags_past=True, teacher=False, sizes=SIZES):
    words = tuple(category.name for category in sizes.categories)
    columns = {role: pa.array([row[role] for row in rows], TYPES[role]) for role in (*roles, *words)}
    layout = Layout({role: role for role in roles}, (), (), words)
    batch = pa.RecordBatch.from_pydict(columns)
    return validate(batch, layout, sizes, flags_past=flags_past, teacher=teacher)


def reasons(windows):
    return [REASONS[code] for code in windows.reasons]


def arrays(windows):
    found = {entry.name: getattr(windows, entry.name) for entry in fields(WindowBatch)}
    return {name: array for name, array in found.items() if array is not None}


def spoiled(reason, role, value, **options):
    return pytest.param(reason, role, value, options, id=f"{reason}: {role} = {value}")


WITH_OBSERVED = {"roles": (*ALWAYS, "observed")}
STATIC = {"roles": (*ALWAYS, "static"), "sizes": WITH_STATIC}
SERIES = {"step_duplicate", "step_unordered", "step_off_grid", "series_too_short"}
"""Reasons that no row has which is a window."""
WITH_TEACHER = {"roles": (*ALWAYS, "mask", "decoder_input"), "teacher": True}
CASES = [
    spoiled("past_missing", "past", None),
    spoiled("past_shape", "past", [[1.0, 2.0], [3.0, 4.0]]),
    spoiled("past_shape", "past", [[1.0, 2.0], [3.0], [5.0, 6.0]]),
    spoiled("past_shape", "past", []),
    *(spoiled("past_not_finite", "past", [[1.0, 2.0], [3.0, bad], [5.0, 6.0]]) for bad in (NAN, INF, -INF, None, 1e39)),
    spoiled("past_observed_missing", "past_observed", None),
    spoiled("past_observed_shape", "past_observed", [1, 1]),
    *(spoiled("past_observed_not_binary", "past_observed", [1, bad, 0]) for bad in (2, -1, 0.5, NAN, None)),
    spoiled("past_not_observed", "past_observed", [0, 0, 0]),
    spoiled("past_not_observed", "past_observed", [1, 0, 1], flags_past=False),
    spoiled("future_known_missing", "future_known", None),
    spoiled("future_known_shape", "future_known", [[7.0]]),
    *(spoiled("future_known_not_finite", "future_known", [[7.0], [bad]]) for bad in (NAN, INF, None, -1e39)),
    spoiled("target_shape", "target", [9.0]),
    spoiled("target_missing", "target", None, teacher=True),
    spoiled("target_not_finite", "target", [INF, 10.0]),
    spoiled("target_not_finite", "target", [-INF, 10.0]),
    spoiled("mask_missing", "mask", None),
    spoiled("mask_shape", "mask", [0, 1, 0]),
    *(spoiled("mask_not_binary", "mask", [bad, 1]) for bad in (2, 0.5, NAN, None)),
    spoiled("observed_missing", "observed", None, **WITH_OBSERVED),
    spoiled("observed_shape", "observed", [1], **WITH_OBSERVED),
    *(spoiled("observed_not_binary", "observed", [1, bad], **WITH_OBSERVED) for bad in (2, None)),
    spoiled("decoder_input_missing", "decoder_input", None, **WITH_TEACHER),
    spoiled("decoder_input_shape", "decoder_input", [11.0, 12.0, 13.0], **WITH_TEACHER),
    *(
        spoiled("decoder_input_not_finite", "decoder_input", [11.0, bad], **WITH_TEACHER)
        for bad in (NAN, INF, None, 1e39)
    ),
    spoiled("static_missing", "static", None, **STATIC),
    spoiled("static_shape", "static", [13.0], **STATIC),
    *(spoiled("static_not_finite", "static", [13.0, bad], **STATIC) for bad in (NAN, INF, None, 1e39)),
    *(spoiled("category_unknown", "shop", bad, **STATIC) for bad in ("east", "", "North", None)),
]


@pytest.mark.parametrize(("reason", "role", "value", "options"), CASES)
def test_a_row_is_rejected_for_this_reason_and_its_neighbours_are_unchanged(reason, role, value, options):
    windows = checked(ROW, {**ROW, role: value}, ROW, **options)
    assert reasons(windows) == ["", reason, ""]
    assert windows.good_rows().tolist() == [0, 2]
    clean = checked(ROW, ROW, ROW, **options)
    assert set(reasons(clean)) == {""}
    for name, array in arrays(windows).items():
        np.testing.assert_array_equal(array[[0, 2]], getattr(clean, name)[[0, 2]])
        assert np.isfinite(array).all(), f"{name}: what stands in a reject must be finite too"


def test_every_reason_that_a_column_can_give_is_tested_here():
    tested = {case.values[0] for case in CASES}
    assert tested == set(REASONS) - {"", "prediction_not_finite"} - SERIES


def test_static_features_are_the_numbers_and_then_the_places_of_the_words():
    rows = [ROW, {**ROW, "shop": "north", "kind": "shut"}, {**ROW, "kind": None}]
    windows = checked(*rows, **STATIC)
    assert reasons(windows) == ["", "", ""]
    assert windows.static.tolist() == [[13, 14, 2, 1], [13, 14, 1, 0], [13, 14, 2, 0]]
    assert windows.static.dtype == np.float32
    assert checked(*rows).static is None


def test_words_alone_are_static_features_too():
    sizes = Sizes(3, 2, 2, 1, static=Static(categories=CATEGORIES))
    assert checked(ROW, sizes=sizes).static.tolist() == [[2, 1]]


def test_good_rows_come_out_as_they_are():
    windows = checked(ROW, roles=(*ALWAYS, "mask", "decoder_input"), teacher=True)
    assert windows.past.tolist() == [ROW["past"]]
    assert windows.past_observed.tolist() == [[1, 1, 1]]
    assert windows.future_known.tolist() == [ROW["future_known"]]
    assert windows.target.tolist() == [[9, 0]]
    assert windows.observed.tolist() == [[True, False]]
    assert windows.decoder_input.tolist() == [ROW["decoder_input"]]
    assert windows.has_target.tolist() == [True]
    fed = (windows.past, windows.past_observed, windows.future_known, windows.decoder_input)
    assert {array.dtype for array in fed} == {np.dtype(np.float32)}
    assert windows.target.dtype == np.float64


@pytest.mark.parametrize("junk", [NAN, INF, -INF, None, 1e39, 123.0])
def test_anything_may_stand_at_a_missing_step_of_the_context_and_becomes_zero(junk):
    row = {**ROW, "past": [[1.5, 2.0], [junk, junk], [5.0, 6.0]], "past_observed": [1, 0, 1]}
    windows = checked(row)
    assert reasons(windows) == [""]
    assert windows.past.tolist() == [[[1.5, 2], [0, 0], [5, 6]]]
    assert windows.past_observed.tolist() == [[1, 0, 1]]


def test_a_missing_step_does_not_excuse_another_one():
    row = {**ROW, "past": [[1.5, 2.0], [NAN, NAN], [5.0, NAN]], "past_observed": [1, 0, 1]}
    assert reasons(checked(row)) == ["past_not_finite"]


def test_without_flags_every_step_of_the_context_is_there():
    windows = checked(ROW, roles=("past", "future_known"))
    assert windows.past_observed.tolist() == [[1, 1, 1]]
    assert checked(ROW, roles=("past", "future_known"), flags_past=False).past_observed is None


@pytest.mark.parametrize("mask", [[0, 0], [0, 1], [1, 0], [1, 1]])
def test_mask_and_observed_have_opposite_polarity_and_lead_to_the_same(mask):
    by_mask = checked({**ROW, "mask": mask})
    by_observed = checked({**ROW, "observed": [1 - flag for flag in mask]}, **WITH_OBSERVED)
    assert by_mask.observed.tolist() == [[flag == 0 for flag in mask]]
    assert by_observed.observed.tolist() == by_mask.observed.tolist()
    assert by_observed.target.tolist() == by_mask.target.tolist()


@pytest.mark.parametrize("junk", [NAN, INF, -INF, None, 1e300])
def test_anything_may_stand_under_the_mask_and_becomes_zero(junk):
    windows = checked({**ROW, "target": [9.0, junk], "mask": [0, 1]})
    assert reasons(windows) == [""]
    assert windows.target.tolist() == [[9, 0]]
    assert windows.observed.tolist() == [[True, False]]


@pytest.mark.parametrize("junk", [NAN, None])
def test_a_target_that_is_not_there_is_excluded_without_a_mask(junk):
    windows = checked({**ROW, "target": [junk, 10.0]}, roles=ALWAYS)
    assert reasons(windows) == [""]
    assert windows.observed.tolist() == [[False, True]]
    assert windows.target.tolist() == [[0, 10]]


@pytest.mark.parametrize("mask", [[0, 0], None, [2, 2], [0]])
def test_a_row_without_a_target_is_good_whatever_its_mask_says(mask):
    windows = checked(ROW, {**ROW, "target": None, "mask": mask})
    assert reasons(windows) == ["", ""]
    assert windows.has_target.tolist() == [True, False]
    assert windows.observed[1].tolist() == [False, False]


def test_data_without_a_target_column_has_none():
    windows = checked(ROW, roles=("past", "past_observed", "future_known", "mask"))
    assert windows.target is None
    assert windows.observed is None
    assert windows.has_target.tolist() == [False]
    assert reasons(windows) == [""]


def test_a_decoder_input_takes_the_place_of_the_target_under_teacher_forcing():
    assert reasons(checked({**ROW, "target": None}, **WITH_TEACHER)) == [""]


def test_a_decoder_input_is_not_looked_at_when_the_loop_runs_free():
    windows = checked({**ROW, "decoder_input": None}, roles=(*ALWAYS, "decoder_input"))
    assert windows.decoder_input is None
    assert reasons(windows) == [""]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"past": None, "past_observed": None, "future_known": None, "target": [1.0]}, "past_missing"),
        ({"past": [[NAN, 1.0]] * 3, "past_observed": [1, 2, 1]}, "past_observed_not_binary"),
        ({"past": [[NAN, 1.0]] * 3, "target": [1.0], "mask": None}, "past_not_finite"),
        ({"target": [1.0], "mask": None}, "target_shape"),
        ({"target": [INF, 1.0], "mask": [0, 2]}, "mask_not_binary"),
    ],
)
def test_the_first_reason_found_is_the_one_told(changes, reason):
    assert reasons(checked({**ROW, **changes})) == [reason]


@pytest.mark.parametrize(("wide", "narrow"), [(np.uint64, np.float64), (np.uint32, np.float32)], ids=["64", "32"])
def test_a_nan_of_any_kind_is_rejected_without_a_word_on_stderr(wide, narrow, recwarn):
    signalling = np.array([0x7FF << 52 | 1 if wide is np.uint64 else 0x7F80 << 16 | 1], wide).view(narrow)
    values = {"past": [1.5, 2, 3, 4, 5, signalling[0]], "future_known": [7, 8], "target": [9, signalling[0]]}
    columns = {
        role: pa.FixedSizeListArray.from_arrays(pa.array(np.array(row, narrow)), len(row))
        for role, row in values.items()
    }
    layout = Layout({role: role for role in columns}, (), ())
    windows = validate(pa.RecordBatch.from_pydict(columns), layout, SIZES, flags_past=True, teacher=False)
    assert reasons(windows) == ["past_not_finite"]
    assert windows.observed.tolist() == [[True, False]]
    assert [str(warning.message) for warning in recwarn] == []


def test_a_flag_that_only_rounds_to_zero_or_one_is_refused():
    rows = [{**ROW, "mask": [bad, 0.0]} for bad in (1e-60, 1 + 1e-12)]
    assert reasons(checked(*rows)) == ["mask_not_binary", "mask_not_binary"]


def test_a_target_beyond_float32_is_never_fed_to_the_graph():
    row = {**ROW, "target": [1e39, 1.0], "mask": [0, 0]}
    assert reasons(checked(row, teacher=True)) == ["target_not_finite"]


@pytest.mark.parametrize("kind", [pa.list_(pa.bool_()), pa.list_(pa.int8()), pa.list_(pa.float32(), 2)], ids=str)
def test_a_null_flag_rejects_its_row_in_every_type(kind):
    good, bad = pa.array([0, 1]).cast(kind.value_type).to_pylist(), [None, pa.scalar(1).cast(kind.value_type).as_py()]
    columns = {role: pa.array([ROW[role]] * 2, TYPES[role]) for role in ALWAYS}
    batch = pa.RecordBatch.from_pydict({**columns, "mask": pa.array([good, bad], kind)})
    layout = Layout({role: role for role in (*ALWAYS, "mask")}, (), ())
    assert reasons(validate(batch, layout, SIZES, flags_past=True, teacher=False)) == ["", "mask_not_binary"]


SEVERAL = Sizes(context=3, horizon=2, past=2, future=0, targets=3)
TARGET = [[1.0, 2.0, 3.0], [4.0, NAN, 6.0]]
FLAGS = pa.list_(pa.uint8())


def several(mask, kind, target=TARGET, target_kind=TYPES["past"]):
    columns = {"past": ([ROW["past"]], TYPES["past"]), "target": ([target], target_kind), "mask": ([mask], kind)}
    batch = pa.RecordBatch.from_pydict({role: pa.array(*given) for role, given in columns.items()})
    layout = Layout({role: role for role in columns}, (), ())
    return validate(batch, layout, SEVERAL, flags_past=False, teacher=True)


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ([[0, 0, 0], [1, 1, 1]], pa.list_(FLAGS)),
        ([0, 0, 0, 1, 1, 1], FLAGS),
        ([0, 0, 0, 1, 1, 1], pa.list_(pa.uint8(), 6)),
        ([0, 1], FLAGS),
        ([0, 1], pa.list_(pa.uint8(), 2)),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_several_targets_lie_step_by_step_and_a_mask_may_be_one_for_all(mask, kind, flat):
    given = ([1.0, 2.0, 3.0, 4.0, NAN, 6.0], F64) if flat else (TARGET, TYPES["past"])
    windows = several(mask, kind, *given)
    assert reasons(windows) == [""]
    assert windows.target.tolist() == [[1, 2, 3, 0, 0, 0]]
    assert windows.observed.tolist() == [[True, True, True, False, False, False]]


def test_a_mask_of_neither_length_is_a_reject_and_a_missing_number_is_excluded_for_its_target_alone():
    assert reasons(several([0, 1, 0], FLAGS)) == ["mask_shape"]
    assert reasons(several([0, None], FLAGS)) == ["mask_not_binary"]
    assert several([0, 0], FLAGS).observed.tolist() == [[True, True, True, True, False, True]]
