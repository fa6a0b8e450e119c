"""F12: ragged lists and wrong lengths reject their row; where no row fits, the file is exit 11 with both shapes."""

import copy
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from campaigns.hand_made import TINY, C, F, H, K
from campaigns.scoring import NAME, opened

ROWS = 7
AXES = {"past": (C, F), "past_observed": (C,), "target": (H,), "mask": (H,), "future_known": (H, K)}
"""In the order in which their reasons are told."""
NESTED = ("past", "future_known")
THOROUGH = settings(max_examples=60, deadline=None, print_blob=True)
EXPECTED = f"past [{C}, {F}], future_known [{H}, {K}], target and mask [{H}]"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f12")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


@pytest.fixture(scope="module")
def rows():
    return TINY.make_table(ROWS, seed=12).to_pylist()


def table_of(rows, flat):
    """Write rows as lists of any length; past and future_known as one list a row where they are flat."""
    columns = {"id": pa.array([row["id"] for row in rows])}
    for role, axes in AXES.items():
        depth = 1 if flat else len(axes)
        kind = pa.list_(pa.list_(pa.float32())) if depth == 2 else pa.list_(pa.float32())
        values = [row[role] for row in rows]
        if flat and len(axes) == 2:
            values = [[item for step in row for item in step] for row in values]
        columns[role] = pa.array(values, kind)
    return pa.table(columns)


def other(size):
    return st.integers(0, 2 * size + 1).filter(lambda length: length != size)


@st.composite
def misfits(draw):
    """Draw which row's list of which role gets another length: at the outer level, or at one inner list."""
    role = draw(st.sampled_from(sorted(AXES)))
    axes = AXES[role]
    inner = draw(st.none() | st.integers(0, axes[0] - 1)) if len(axes) == 2 else None
    length = draw(other(axes[0] if inner is None else axes[1]) | st.none() if inner is not None else other(axes[0]))
    return draw(st.integers(0, ROWS - 1)), role, inner, length


def stretched(values, length):
    """Return a list of so many items, cut off or with its own ones repeated."""
    if length is None:
        return None
    return [values[index % len(values)] for index in range(length)] if values else values


def misfitted(rows, places):
    """Return the rows with these lengths changed, and the reason that each must get."""
    rows = copy.deepcopy(rows)
    for row, role, inner, length in places:
        if inner is None:
            rows[row][role] = stretched(rows[row][role], length)
        elif inner < len(rows[row][role]):
            rows[row][role][inner] = stretched(rows[row][role][inner], length)
    return rows, [next((f"{role}_shape" for role in AXES if not fits(row[role], AXES[role])), None) for row in rows]


def fits(values, axes):
    return values is not None and len(values) == axes[0] and all(fits(item, axes[1:]) for item in values if axes[1:])


SWAPPED = [(2, "past", None, C + 1), (3, "past", None, C - 1), (4, "target", None, H - 1), (5, "target", None, H + 1)]
"""Lengths that are right on the whole, so that counting the items finds nothing."""


@THOROUGH
@given(st.lists(misfits(), min_size=1, max_size=9))
@example(SWAPPED)
@example([(0, "past", 0, F + 1), (0, "past", 1, F - 1)])
@example([(row, "past", None, C - 1) for row in range(ROWS)])
def test_f12_a_list_of_another_length_rejects_its_row_and_no_other_row_changes(scorer, rows, places):
    pq.write_table(table_of(rows, flat=False), scorer.path, row_group_size=3)
    clean = scorer.found(scorer.run(scorer.path))
    now, reasons = misfitted(rows, places)
    pq.write_table(table_of(now, flat=False), scorer.path, row_group_size=3)
    report = scorer.run(scorer.path)
    counts = dict(sorted(Counter(filter(None, reasons)).items()))
    if None not in reasons:
        refused(scorer, report, counts)
        return
    assert (report.exit_code, report.total.rejects) == (0, counts)
    found = scorer.found(report)
    assert found.reasons == reasons
    wanted = [None if why else row for row, why in zip(clean.predictions, reasons, strict=True)]
    assert found.predictions == wanted
    copied = pq.ParquetFile(scorer.out / NAME).read()
    assert copied["target"].to_pylist() == pq.ParquetFile(scorer.path).read()["target"].to_pylist()


def refused(scorer, report, counts):
    assert report.exit_code == 11
    assert f"no row of {NAME} fits the bundle" in report.error
    assert str(counts) in report.error
    assert EXPECTED in report.error
    assert scorer.visible() == set()


@settings(THOROUGH, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.sampled_from(NESTED), st.integers(1, 5)), min_size=1, max_size=5)
)
def test_f12_a_flat_list_of_another_length_rejects_its_row_even_if_it_holds_more_than_enough(scorer, rows, places):
    table = table_of(rows, flat=True)
    lengths = {(row, role): more for row, role, more in places}
    for role in NESTED:
        values = table[role].to_pylist()
        for row in range(ROWS):
            values[row] = values[row] + values[row][:1] * lengths.get((row, role), 0)
        table = table.set_column(table.schema.get_field_index(role), role, pa.array(values, pa.list_(pa.float32())))
    pq.write_table(table, scorer.path, row_group_size=3)
    report = scorer.run(scorer.path)
    reasons = [next((f"{role}_shape" for role in NESTED if (row, role) in lengths), None) for row in range(ROWS)]
    if None in reasons:
        assert (report.exit_code, scorer.found(report).reasons) == (0, reasons)
    else:
        refused(scorer, report, dict(sorted(Counter(reasons).items())))


@pytest.mark.parametrize(
    ("role", "shape"),
    [
        ("past", (C - 1, F)), ("past", (C + 1, F)), ("past", (C, F + 1)), ("past", (F, C)), ("past", (0, F)),
        ("past", (C, 0)), ("past_observed", (C + 1,)), ("future_known", (H + 1, K)), ("future_known", (H, K + 1)),
        ("target", (H - 1,)), ("mask", (H + 1,)),
    ],
    ids=str,
)  # fmt: skip
def test_f12_data_for_another_context_horizon_or_width_is_refused_and_the_files_beside_it_are_scored(
    scorer, tmp_path, role, shape
):
    table = TINY.make_table(ROWS)
    index = table.schema.get_field_index(role)
    column = pa.array(np.zeros((ROWS, *shape)).tolist(), table_of([], flat=False).schema.field(role).type)
    pq.write_table(table.set_column(index, role, column), tmp_path / NAME)
    TINY.write_dataset(tmp_path, {"good.parquet": 5})
    report = scorer.run(tmp_path)
    assert (report.exit_code, report.to_do, report.total.rows.scored) == (11, 1, 5)
    assert f"no row of {NAME} fits the bundle" in report.error
    assert str({f"{role}_shape": ROWS}) in report.error
    assert EXPECTED in report.error
    assert scorer.visible() == {"good.parquet"}


def test_f12_one_endless_list_rejects_its_row_alone(scorer, rows):
    now = copy.deepcopy(rows)
    now[3]["past"] = [[1.0, 2.0]] * 200_000
    now[4]["target"] = [1.0] * 200_000
    pq.write_table(table_of(now, flat=False), scorer.path)
    found = scorer.found(scorer.run(scorer.path))
    assert found.reasons == [None, None, None, "past_shape", "target_shape", None, None]
