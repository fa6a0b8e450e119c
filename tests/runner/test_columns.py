"""List columns become arrays of one shape, whatever their encoding, offsets and nulls."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.columns import leaf_type, read_cells, type_problem

SHAPE = (2, 3)
ENCODINGS = {
    "flat list": lambda leaf, _shape: pa.list_(leaf),
    "flat large_list": lambda leaf, _shape: pa.large_list(leaf),
    "flat fixed": lambda leaf, shape: pa.list_(leaf, math.prod(shape)),
    "tensor": pa.fixed_shape_tensor,
    "list of list": lambda leaf, _shape: pa.list_(pa.list_(leaf)),
    "large_list of large_list": lambda leaf, _shape: pa.large_list(pa.large_list(leaf)),
    "fixed of fixed": lambda leaf, shape: pa.list_(pa.list_(leaf, shape[1]), shape[0]),
    "list of fixed": lambda leaf, shape: pa.list_(pa.list_(leaf, shape[1])),
    "fixed of list": lambda leaf, shape: pa.list_(pa.list_(leaf), shape[0]),
    "large_list of list": lambda leaf, _shape: pa.large_list(pa.list_(leaf)),
}
FLAG_LEAVES = [pa.bool_(), pa.uint8(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]


def storage(kind):
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def encode(rows, kind):
    array = pa.array(rows, storage(kind))
    return pa.ExtensionArray.from_storage(kind, array) if isinstance(kind, pa.BaseExtensionType) else array


def plain(array):
    return (array.storage if isinstance(array, pa.ExtensionArray) else array).to_pylist()


def items_of(row, sizes):
    """The items of one row, row-major; None where a list in it is null or has another length."""
    if row is None or len(row) != sizes[0]:
        return None
    if len(sizes) == 1:
        return row
    inner = [items_of(cell, sizes[1:]) for cell in row]
    return None if None in inner else [item for cell in inner for item in cell]


@st.composite
def columns(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kind = ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))](pa.float32(), shape)
    rows = draw(st.lists(rows_of(storage(kind), shape), min_size=1, max_size=8))
    start = draw(st.integers(0, len(rows) - 1))
    return encode(rows, kind).slice(start, draw(st.integers(1, len(rows)))), shape


def rows_of(kind, shape):
    def lists(kind, sizes):
        inner = st.floats(width=32) if len(sizes) == 1 else lists(kind.value_type, sizes[1:])
        lengths = [sizes[0]] * 4 if pa.types.is_fixed_size_list(kind) else [sizes[0]] * 4 + [0, sizes[0] + 1]
        full = st.sampled_from(lengths).flatmap(lambda n: st.lists(inner | st.none(), min_size=n, max_size=n))
        return full | st.none()

    nested = not pa.types.is_floating(kind.value_type)
    return lists(kind, shape if nested else (math.prod(shape),))


@settings(max_examples=200, deadline=None)
@given(columns())
def test_cells_mean_what_the_column_says_in_plain_python(drawn):
    array, shape = drawn
    nested = not pa.types.is_floating(storage(array.type).value_type)
    rows, sizes = plain(array), shape if nested else (math.prod(shape),)
    cells = read_cells(array, shape)
    assert cells.values.shape == (len(rows), *shape)
    assert cells.absent.tolist() == [row is None for row in rows]
    for index, row in enumerate(rows):
        items = items_of(row, sizes)
        if row is None:
            continue
        assert cells.misfit[index] == (items is None)
        if items is not None:
            expected = np.array([np.nan if item is None else item for item in items], np.float32).reshape(shape)
            np.testing.assert_array_equal(cells.values[index], expected)
            nulls = np.zeros(shape, bool) if cells.null is None else cells.null[index]
            assert nulls.ravel().tolist() == [item is None for item in items]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_column_without_rows_has_the_shape_all_the_same(encoding):
    cells = read_cells(encode([], ENCODINGS[encoding](pa.float32(), SHAPE)), SHAPE)
    assert cells.values.shape == (0, *SHAPE)
    assert len(cells.absent) == len(cells.misfit) == 0


@pytest.mark.parametrize("leaf", FLAG_LEAVES, ids=str)
@pytest.mark.parametrize(
    "kind", [pa.list_, pa.large_list, lambda leaf: pa.list_(leaf, 2)], ids=["list", "large", "fixed"]
)
def test_a_null_flag_is_told_apart_from_a_zero(leaf, kind):
    one, zero = pa.scalar(1.0).cast(leaf).as_py(), pa.scalar(0.0).cast(leaf).as_py()
    cells = read_cells(pa.array([[one, zero], [None, one], None, [zero, zero]], kind(leaf)), (2,))
    assert cells.absent.tolist() == [False, False, True, False]
    assert not cells.misfit.any()
    assert cells.null[[0, 1, 3]].tolist() == [[False, False], [True, False], [False, False]]
    assert cells.values[0].astype(float).tolist() == [1, 0]
    assert cells.values[1, 1] == 1


def test_what_lies_beneath_a_null_row_neither_shows_nor_moves_its_neighbours():
    values, mask = pa.array(np.arange(6, dtype=np.float32)), pa.array([False, True, False])
    fixed = pa.FixedSizeListArray.from_arrays(values, 2, mask=mask)
    ragged = pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), values, mask=mask)
    for array in (fixed, ragged):
        for start in range(3):
            cells = read_cells(array.slice(start), (2,))
            assert cells.absent.tolist() == [False, True, False][start:]
            assert cells.values[~cells.absent].tolist() == [[0, 1], [4, 5]][min(start, 1) :]


def test_a_row_of_another_length_never_borrows_from_its_neighbours():
    cells = read_cells(pa.array([[1.0], [2.0, 3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64())), (2,))
    assert cells.misfit.tolist() == [True, True, False]
    assert cells.values[2].tolist() == [5, 6]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32(), 3))], ids=str)
def test_a_column_of_nothing_but_misfits_and_nulls_is_told_so(kind):
    cells = read_cells(pa.array([[], None, []], kind), SHAPE)
    assert cells.absent.tolist() == [False, True, False]
    assert cells.misfit[[0, 2]].all()


@pytest.mark.parametrize("encoding", ["flat fixed", "tensor", "fixed of fixed", "flat list"])
def test_good_columns_are_read_without_a_copy(encoding):
    shape = (2, 2)
    rows = [[1.0, 2.0, 3.0, 4.0]] * 3 if "of" not in encoding else [[[1.0, 2.0], [3.0, 4.0]]] * 3
    array = encode(rows, ENCODINGS[encoding](pa.float32(), shape))
    flat = array.storage if isinstance(array, pa.ExtensionArray) else array
    while not pa.types.is_floating(flat.type):
        flat = flat.values
    assert np.shares_memory(read_cells(array, shape).values, flat.to_numpy())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("leaf", [pa.float32(), pa.float64()], ids=str)
def test_every_encoding_of_the_right_shape_is_accepted(encoding, leaf):
    kind = ENCODINGS[encoding](leaf, SHAPE)
    assert type_problem(kind, SHAPE, flags=False) is None
    assert leaf_type(kind) == leaf


@pytest.mark.parametrize("leaf", FLAG_LEAVES, ids=str)
def test_flags_may_be_of_any_kind_of_number(leaf):
    assert type_problem(pa.list_(leaf), (2,), flags=True) is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pa.fixed_shape_tensor(pa.float32(), (3, 2)), "tensor of shape [3, 2], expected [2, 3]"),
        (pa.fixed_shape_tensor(pa.float32(), SHAPE, permutation=[1, 0]), "permutation [1, 0]"),
        (pa.list_(pa.float32(), 5), "fixed length 5, expected 6"),
        (pa.list_(pa.list_(pa.float32(), 3), 3), "fixed length 3, expected 2"),
        (pa.list_(pa.list_(pa.float32(), 2), 2), "fixed length 2, expected 3"),
        (pa.list_(pa.list_(pa.list_(pa.float32()))), "a nested list [2, 3]"),
        (pa.float32(), "a nested list [2, 3]"),
        (pa.list_view(pa.float32()), "a nested list [2, 3]"),
        (pa.list_(pa.int32()), "items of type int32, expected float32"),
        (pa.list_(pa.string()), "items of type string"),
        (pa.list_(pa.bool_()), "items of type bool"),
    ],
    ids=str,
)
def test_a_type_that_can_never_fit_is_told_with_what_was_expected(kind, words):
    assert words in type_problem(kind, SHAPE, flags=False)


@pytest.mark.parametrize("leaf", [pa.string(), pa.date32(), pa.decimal128(3)], ids=str)
def test_flags_that_are_no_numbers_are_refused(leaf):
    assert f"items of type {leaf}, expected 0 and 1" in type_problem(pa.list_(leaf), (2,), flags=True)


def test_a_tensor_whose_permutation_changes_nothing_is_accepted():
    kind = pa.fixed_shape_tensor(pa.float32(), SHAPE, permutation=[0, 1])
    assert type_problem(kind, SHAPE, flags=False) is None
