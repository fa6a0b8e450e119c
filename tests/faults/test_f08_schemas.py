"""F8: columns by name, strict types, each file by itself, and everything that does not fit told at once."""

import shutil
from math import prod

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from campaigns.hand_made import TINY, C, F, H, K
from campaigns.scoring import NAME, opened

ROWS = 5
AXES = {"past": (C, F), "past_observed": (C,), "future_known": (H, K), "target": (H,), "mask": (H,)}
FLAGS = {"past_observed", "mask"}
OWN = ("prediction", "reject_reason", "bundle_id")
THOROUGH = settings(max_examples=60, deadline=None, print_blob=True)

WINDOWS = TINY.make_table(ROWS, seed=8)
VALUES = {name: np.array(WINDOWS[name].to_pylist(), float).clip(-9, 9).astype(np.float16) for name in AXES}
"""What float16 can hold, so that every type of number says exactly the same."""


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f08")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


def column(name, form, leaf):
    """Write a role's values as this form of lists over this type of items."""
    axes, values = AXES[name], VALUES[name]
    if form == "tensor":
        kind = pa.fixed_shape_tensor(leaf, axes)
        flat = items(values.reshape(ROWS, -1), leaf)
        return pa.ExtensionArray.from_storage(kind, pa.array(flat, kind.storage_type))
    flat = form.startswith("flat")
    kind = leaf
    for size in [prod(axes)] if flat else reversed(axes):
        fixed = form.endswith("fixed") or (form == "mixed" and size == axes[0])
        kind = pa.list_(kind, size) if fixed else pa.large_list(kind) if form == "large" else pa.list_(kind)
    return pa.array(items(values.reshape(ROWS, -1) if flat else values, leaf), kind)


def items(values, leaf):
    whole = bool if pa.types.is_boolean(leaf) else int if pa.types.is_integer(leaf) else float
    return np.vectorize(whole, otypes=[object])(values).tolist()


FORMS = st.sampled_from(["fixed", "lists", "large", "mixed", "flat fixed", "flat lists", "tensor"])
NUMBERS = st.sampled_from([pa.float32(), pa.float64(), pa.float16()])
BINARY = st.sampled_from([pa.bool_(), pa.uint8(), pa.int64(), pa.float32(), pa.float64()])
EXTRAS = {
    "number": pa.array(range(ROWS)),
    "text": pa.array(["a", None, "äöü", "", "x" * 99]),
    "word": pa.array(["a", "b", None, "a", "b"]).dictionary_encode(),
    "time": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
    "tree": pa.array([{"past": n, "b": [n]} for n in range(ROWS)]),
    "nothing": pa.nulls(ROWS, pa.float64()),
}
STRANGERS = st.text(max_size=6).filter(lambda name: name not in {*AXES, *OWN, "observed", "decoder_input"} and name)
NAMES = STRANGERS | st.sampled_from(["Past", "past ", "past.list", "past.x", "target.list.element", "a.b", "*", "#"])


@st.composite
def good_tables(draw):
    """Draw a table whose schema fits, and the columns that have to be cast."""
    columns, casts = {}, []
    for name, axes in AXES.items():
        leaf, form = draw(BINARY if name in FLAGS else NUMBERS), draw(FORMS)
        if form == "tensor" and pa.types.is_boolean(leaf):
            form = "fixed"  # pyarrow has no tensors of them
        columns[name] = column(name, form if len(axes) == 2 or form != "mixed" else "lists", leaf)
        casts += [name] if name in {"past", "future_known"} and leaf != pa.float32() else []
    for name, kind in draw(st.dictionaries(NAMES, st.sampled_from(sorted(EXTRAS)), max_size=4)).items():
        columns[name] = EXTRAS[kind]
    order = draw(st.permutations(sorted(columns)))
    return pa.table({name: columns[name] for name in order}), sorted(casts)


@THOROUGH
@given(good_tables())
@example((pa.table({**{name: column(name, "fixed", pa.float32()) for name in AXES}, "past.x": EXTRAS["tree"]}), []))
def test_f08_the_order_the_lists_the_types_and_the_neighbours_of_the_columns_change_no_forecast(scorer, drawn):
    table, casts = drawn
    pq.write_table(table, scorer.path, row_group_size=2)
    report = scorer.run(scorer.path)
    assert (report.exit_code, report.error) == (0, None)
    found, plain = scorer.found(report), scorer.expected(pa.table({n: column(n, "lists", pa.float32()) for n in AXES}))
    assert (found.predictions, found.reasons) == (plain.predictions, plain.reasons)
    assert found.masked_mse == plain.masked_mse
    copied = [name for name in table.schema.names if name not in {"past", "past_observed", "future_known"}]
    assert list(found.copied) == copied
    assert found.difference(scorer.expected(pq.ParquetFile(scorer.path).read())) is None
    told = [warning for warning in report.warnings if "cast" in warning]
    assert told == ([f"cast to float32: {', '.join(casts)}"] if casts else [])


WRONG = {
    "past": [
        (None, "column 'past' is missing"),
        (pa.array([[[1] * F] * C] * ROWS), "column 'past' (past): items of type int64"),
        (
            pa.array([[1.0] * (C * F - 1)] * ROWS, pa.list_(pa.float32(), C * F - 1)),
            "list of fixed length 11, expected 12",
        ),
        (pa.array([1.0] * ROWS), "column 'past' (past): double, expected a list of 12 or a nested list [6, 2]"),
    ],
    "future_known": [
        (None, "column 'future_known' is missing"),
        (pa.array(["x"] * ROWS), "column 'future_known' (future_known): string"),
        (pa.array([[["0.5"]] * H] * ROWS), "column 'future_known' (future_known): items of type string"),
    ],
    "target": [
        (pa.array([[1.0] * 5] * ROWS, pa.list_(pa.float32(), 5)), "column 'target' (target): list of fixed length 5"),
        (pa.array([[1] * H] * ROWS), "column 'target' (target): items of type int64"),
    ],
    "mask": [
        (pa.array([["0"] * H] * ROWS), "column 'mask' (mask): items of type string, expected 0 and 1"),
        (pa.array([0] * ROWS), "column 'mask' (mask): int64, expected a list of 4"),
    ],
    "observed": [(pa.array([[1] * H] * ROWS), "both 'mask' and 'observed' are there")],
    "prediction": [(pa.array([0.0] * ROWS), "column 'prediction' is one that freerun writes")],
    "reject_reason": [(pa.array(["x"] * ROWS), "column 'reject_reason' is one that freerun writes")],
    "bundle_id": [(pa.array(["x"] * ROWS), "column 'bundle_id' is one that freerun writes")],
}
DEFECTS = st.fixed_dictionaries({}, optional={name: st.sampled_from(cases) for name, cases in WRONG.items()})
TWICE = st.sets(st.sampled_from(["id", "note"]))
FILES = st.lists(st.tuples(DEFECTS, TWICE), min_size=1, max_size=4)


def file_with(defects, twice):
    """Return a table with these defects, and what has to be told of each."""
    columns = {**{name: WINDOWS[name] for name in WINDOWS.schema.names}}
    for name, (wrong, _) in defects.items():
        columns.pop(name, None)
        columns |= {} if wrong is None else {name: wrong}
    names = [*columns, *sorted(twice)]
    told = [text for _, text in defects.values()] + [f"column '{name}' stands there twice" for name in twice]
    return pa.table([*columns.values(), *(WINDOWS[name] for name in sorted(twice))], names=names), told


@THOROUGH
@given(FILES)
def test_f08_all_that_is_wrong_with_any_file_is_told_at_once_and_nothing_is_scored(scorer, files):
    folder = scorer.path.parent.with_name("several")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wanted = {}
    for number, (defects, twice) in enumerate(files):
        table, told = file_with(defects, twice)
        pq.write_table(table, folder / f"{number}.parquet")
        wanted |= {f"{number}.parquet: {text}": text for text in told}
    report = scorer.run(folder)
    if not wanted:
        assert (report.exit_code, report.total.parts) == (0, len(files))
        return
    assert report.exit_code == 11
    assert f"({len(wanted)} problems)" in report.error
    lines = report.error.splitlines()
    for line, text in wanted.items():
        path = line.split(": ")[0]
        assert [told for told in lines if told.startswith(f"  - {path}: ") and text in told], line
    assert sum(told.startswith("  - ") for told in lines) == len(wanted)
    assert scorer.visible() == set()


def test_f08_files_of_one_input_may_differ_in_all_that_does_not_matter(scorer, tmp_path):
    forms = {"a": ("fixed", pa.float32()), "b": ("lists", pa.float64()), "c": ("tensor", pa.float32())}
    for name, (form, leaf) in forms.items():
        table = pa.table({role: column(role, form if role not in FLAGS else "lists", leaf) for role in AXES})
        pq.write_table(table.append_column(f"only_{name}", EXTRAS["number"]), tmp_path / f"{name}.parquet")
    report = scorer.run(tmp_path)
    assert (report.exit_code, report.total.rows.scored) == (0, 3 * ROWS)
    parts = [pq.ParquetFile(scorer.out / f"{name}.parquet").read() for name in forms]
    assert [part.schema.names[2] for part in parts] == ["only_a", "only_b", "only_c"]
    assert len({str(part["prediction"].to_pylist()) for part in parts}) == 1
    assert NAME not in {path.name for path in scorer.out.iterdir()}
