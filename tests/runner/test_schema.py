"""Columns are found by name; everything that does not fit is told at once."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.schema import Sizes, check_schemas, hive_keys, match

SIZES = Sizes(context=6, horizon=4, past=2, future=1)
F32, F64, U8 = pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.uint8())
GOOD = {
    "id": pa.int64(),
    "past": F32,
    "past_observed": U8,
    "future_known": F32,
    "target": F32,
    "mask": U8,
    "note": pa.string(),
}


def schema(fields=GOOD, **changes):
    merged = {**fields, **changes}
    return pa.schema([(name, kind) for name, kind in merged.items() if kind is not None])


def found(given, path="a.parquet", columns=None, sizes=SIZES, teacher=False):
    return match(given, path, sizes, columns or {}, teacher=teacher)


@pytest.mark.parametrize(
    ("role", "shape"),
    [
        ("past", (6, 2)),
        ("past_observed", (6,)),
        ("future_known", (4, 1)),
        ("target", (4,)),
        ("mask", (4,)),
        ("observed", (4,)),
        ("decoder_input", (4,)),
    ],
)
def test_each_role_has_its_axes(role, shape):
    assert SIZES.shape(role) == shape


@settings(max_examples=50, deadline=None)
@given(st.permutations(list(GOOD)))
def test_the_order_of_the_columns_means_nothing_but_is_kept_in_the_copy(names):
    layout, problems = found(schema({name: GOOD[name] for name in names}))
    assert not problems
    assert layout.roles == {name: name for name in GOOD if name not in {"id", "note"}}
    assert layout.copied == tuple(name for name in names if name in {"id", "target", "mask", "note"})
    assert sorted(layout.columns) == sorted(names)


def test_a_column_may_have_another_name_and_then_its_old_name_is_nobodys():
    layout, problems = found(schema(load=F32, past_observed=None), columns={"target": "load"})
    assert not problems
    assert layout.roles["target"] == "load"
    assert {"load", "target"} <= set(layout.copied)


def test_a_mapped_column_that_is_missing_is_told_and_its_default_name_does_not_step_in():
    layout, problems = found(schema(), columns={"past": "history"})
    assert "past" not in layout.roles
    assert [problem for problem in problems if "'history' is missing" in problem and "future_known" in problem]


@pytest.mark.parametrize("role", ["past", "future_known"])
def test_a_column_that_the_graphs_need_is_missed(role):
    _, problems = found(schema(**{role: None}))
    assert len(problems) == 1
    assert f"column '{role}' is missing" in problems[0]


def test_a_bundle_without_future_features_needs_no_such_column():
    layout, problems = found(schema(future_known=None), sizes=Sizes(6, 4, 2, 0))
    assert not problems
    assert "future_known" not in layout.roles


def test_a_bundle_without_future_features_overlooks_such_a_column_whatever_its_type():
    layout, problems = found(schema(future_known=pa.string()), sizes=Sizes(6, 4, 2, 0))
    assert not problems
    assert "future_known" not in layout.roles


@pytest.mark.parametrize("role", ["past", "target", "id"])
def test_a_column_that_stands_there_twice_is_told_and_not_stumbled_over(role):
    given = schema().append(pa.field(role, GOOD[role]))
    _, problems = found(given)
    assert problems == [f"column '{role}' stands there twice"]


@pytest.mark.parametrize("name", ["prediction", "reject_reason", "bundle_id"])
def test_an_input_that_has_a_column_of_ours_is_refused(name):
    _, problems = found(schema(**{name: pa.string()}))
    assert len(problems) == 1
    assert f"'{name}' is one that freerun writes" in problems[0]


def test_mask_and_observed_together_are_refused():
    _, problems = found(schema(observed=U8))
    assert len(problems) == 1
    assert "both 'mask' and 'observed'" in problems[0]


@pytest.mark.parametrize(("extra", "fits"), [({}, False), ({"decoder_input": F32}, False), ({"target": F32}, True)])
def test_teacher_forcing_needs_a_target_and_running_free_does_not(extra, fits):
    given = schema(**{"target": None, "mask": None, **extra})
    _, problems = found(given, teacher=True)
    assert (not problems) == fits
    assert all("teacher-forced needs column 'target'" in problem for problem in problems)
    assert not found(given)[1]


def test_hive_keys_are_not_copied_into_the_file():
    layout, problems = found(schema(date=pa.string(), hour=pa.int8()), path="date=2026-11-23/hour=7/a=b.parquet")
    assert not problems
    assert "date" not in layout.copied
    assert "hour" not in layout.copied
    assert {"id", "note"} <= set(layout.copied)


@pytest.mark.parametrize(
    ("path", "keys"),
    [("a.parquet", set()), ("k=1/v=x=y/a.parquet", {"k", "v"}), ("plain/a.parquet", set()), ("c=d.parquet", set())],
)
def test_hive_keys_come_from_folders_alone(path, keys):
    assert hive_keys(path) == keys


@pytest.mark.parametrize(("teacher", "casts"), [(False, ("past",)), (True, ("past", "decoder_input"))])
@pytest.mark.parametrize("wide", [F64, pa.list_(pa.float16())], ids=str)
def test_casts_are_told_for_what_a_graph_is_fed_and_nothing_else(wide, teacher, casts):
    given = schema(past=wide, future_known=F32, target=wide, decoder_input=wide, mask=wide)
    layout, problems = found(given, teacher=teacher)
    assert not problems
    assert layout.casts == casts


def test_every_wrong_type_is_listed_with_its_column_and_role():
    wrong = {"past": pa.list_(pa.int32()), "future_known": pa.string(), "load": pa.list_(pa.float32(), 5)}
    _, problems = found(schema(**wrong, mask=pa.list_(pa.string())), columns={"target": "load"})
    assert len(problems) == 4
    for start in ("'past' (past)", "'future_known' (future_known)", "'load' (target)", "'mask' (mask)"):
        assert any(problem.startswith(f"column {start}: ") for problem in problems), start


def test_floats_are_refused_for_no_flag_and_integers_for_every_measurement():
    flags = {"past_observed": F32, "mask": F64}
    assert not found(schema(**flags))[1]
    measurements = dict.fromkeys(["past", "future_known", "target", "decoder_input"], pa.list_(pa.int64()))
    assert len(found(schema(**measurements))[1]) == 4


def test_a_column_that_is_mapped_is_read_once():
    layout, _ = found(schema())
    assert len(layout.columns) == len(set(layout.columns))


def test_the_refusal_lists_every_file_with_everything_wrong_in_it():
    with pytest.raises(InputError) as caught:
        check_schemas({"a.parquet": ["one", "two"], "b.parquet": [], "c/d.parquet": ["three"]})
    message = str(caught.value)
    assert "(3 problems)" in message
    for line in ("a.parquet: one", "a.parquet: two", "c/d.parquet: three"):
        assert line in message
    assert "b.parquet" not in message


def test_files_that_fit_pass_the_check():
    check_schemas({"a.parquet": [], "b.parquet": []})
