"""F9: NaN, infinity or null in any input makes its row a reject with a reason, and changes no other row.

onnxruntime's LSTM turns NaN into plausible numbers, so nothing can be told from the forecasts.
"""

import copy
import math
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from campaigns.hand_made import TINY, C, F, H, K
from campaigns.scoring import opened

ROWS = 8
AXES = {
    "past": (C, F), "past_observed": (C,), "future_known": (H, K), "target": (H,), "mask": (H,), "decoder_input": (H,)
}  # fmt: skip
FLAGS = ("past_observed", "mask")
NAN, INF = math.nan, math.inf
JUNK = st.sampled_from([NAN, -NAN, INF, -INF, None, 1e39, -1e300])
THOROUGH = settings(max_examples=60, deadline=None, print_blob=True)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("f09")
    with opened(TINY.make_bundle(folder / "bundle"), folder / "scorer") as found:
        yield found


@pytest.fixture(scope="module")
def rows():
    """Return good rows; what a teacher would feed is another number than the target."""
    found = TINY.make_table(ROWS, seed=9).to_pylist()
    return [
        {**row, "past_observed": list(map(int, row["past_observed"])), "decoder_input": [v / 2 for v in row["target"]]}
        for row in found
    ]


def narrowed(kind, values):
    """Return the type with small integers for items where these can hold the flags: a null is no NaN there."""
    flags = {flag for row in values if row for flag in row}
    if not flags <= {None, 0, 1}:
        return kind
    return pa.list_(pa.uint8(), kind.list_size) if pa.types.is_fixed_size_list(kind) else pa.list_(pa.uint8())


def table_of(rows, roles, fixed):
    """Write rows as lists or fixed-size lists of float64, which hold every kind of junk."""
    columns = {"id": pa.array([row["id"] for row in rows])}
    for role in roles:
        kind = pa.float64()
        for size in reversed(AXES[role]):
            kind = pa.list_(kind, size) if fixed else pa.list_(kind)
        values = [row[role] for row in rows]
        columns[role] = pa.array(values, narrowed(kind, values) if role in FLAGS else kind)
    return pa.table(columns)


@st.composite
def spoils(draw):
    """Draw where junk goes: the row, the role, the cell (None = the whole row is null), and the junk."""
    role = draw(st.sampled_from(sorted(AXES)))
    cell = draw(st.none() | st.tuples(*(st.integers(0, size - 1) for size in AXES[role])))
    junk = draw(JUNK | st.sampled_from([2, 0.5, -1]) if role in FLAGS else JUNK)
    return draw(st.integers(0, ROWS - 1)), role, cell, junk


def spoilt(rows, places):
    rows = copy.deepcopy(rows)
    for row, role, cell, junk in places:
        if cell is None or rows[row][role] is None:
            rows[row][role] = None
        elif len(cell) == 1:
            rows[row][role][cell[0]] = junk
        else:
            rows[row][role][cell[0]][cell[1]] = junk
    return rows


def finite(value):
    """Tell whether float32 holds it as a number."""
    return value is not None and abs(value) < 3.4e38


def reason(row, roles, teacher):
    """Say why a row must be a reject, from the tables of docs/data-contract.md and nothing else; None = a good row."""
    taught = _teacher_reason(row, roles) if teacher else None
    return _past_reason(row) or _target_reason(row) or taught or _future_reason(row)


def _past_reason(row):
    past, there = row["past"], row["past_observed"]
    if past is None or there is None:
        return "past_missing" if past is None else "past_observed_missing"
    if any(flag not in {0, 1} for flag in there):
        return "past_observed_not_binary"
    if not any(there):
        return "past_not_observed"
    known = [value for step, flag in zip(past, there, strict=True) if flag for value in step]
    return None if all(map(finite, known)) else "past_not_finite"


def _target_reason(row):
    if row["target"] is None:
        return None
    if row["mask"] is None:
        return "mask_missing"
    if any(flag not in {0, 1} for flag in row["mask"]):
        return "mask_not_binary"
    return None if all(map(finite, counted(row))) else "target_not_finite"


def _teacher_reason(row, roles):
    if "decoder_input" not in roles:
        return "target_missing" if row["target"] is None else None
    if row["decoder_input"] is None:
        return "decoder_input_missing"
    return None if all(map(finite, row["decoder_input"])) else "decoder_input_not_finite"


def _future_reason(row):
    if row["future_known"] is None:
        return "future_known_missing"
    return None if all(finite(value) for step in row["future_known"] for value in step) else "future_known_not_finite"


def counted(row):
    """Return the targets that count."""
    pairs = zip(row["target"], row["mask"], strict=True)
    return [value for value, flag in pairs if flag == 0 and value is not None and not math.isnan(value)]


def scored(scorer, rows, roles, fixed, mode):
    pq.write_table(table_of(rows, roles, fixed), scorer.path, row_group_size=3)
    report = scorer.run(scorer.path, mode=mode)
    assert (report.exit_code, report.error) == (0, None)
    return report, scorer.found(report)


@pytest.mark.parametrize(
    ("mode", "brings"),
    [("free-running", True), ("teacher-forced", True), ("teacher-forced", False)],
    ids=["free-running", "teacher-forced, input given", "teacher-forced, input derived"],
)
@THOROUGH
@given(places=st.lists(spoils(), min_size=1, max_size=7), fixed=st.booleans())
@example(places=[(2, "mask", (1,), None), (5, "past_observed", (0,), None)], fixed=True)
def test_f09_junk_anywhere_rejects_its_row_with_the_reason_and_no_other_row_changes(
    scorer, rows, mode, brings, places, fixed
):
    roles = [role for role in AXES if brings or role != "decoder_input"]
    teacher = mode == "teacher-forced"
    _, clean = scored(scorer, rows, roles, fixed, mode)
    now = spoilt(rows, places)
    report, found = scored(scorer, now, roles, fixed, mode)
    reasons = [reason(row, roles, teacher) for row in now]
    assert found.reasons == reasons
    derived = {row for row, role, *_ in places if teacher and not brings and role in {"target", "mask"}}
    for row, why in enumerate(reasons):
        if why:
            assert found.predictions[row] is None
        elif row in derived:  # the teacher says something else now
            assert all(map(finite, found.predictions[row]))
        else:
            assert found.predictions[row] == clean.predictions[row]
    assert report.total.rejects == dict(sorted(Counter(filter(None, reasons)).items()))
    assert report.total.rows.scored == reasons.count(None)
    assert found.masked_mse == pytest.approx(masked_mse(now, found), rel=1e-12)


def masked_mse(rows, found):
    """Compute the loss over the good rows that have a target, one number after the other."""
    total, windows, observed = 0.0, 0, 0
    for row, prediction in zip(rows, found.predictions, strict=True):
        if prediction is None or row["target"] is None:
            continue
        windows += 1
        for guess, value, flag in zip(prediction, row["target"], row["mask"], strict=True):
            if flag == 0 and value is not None and not math.isnan(value):
                total += (guess - value) ** 2
                observed += 1
    return total / (windows * H) if observed else None
