"""The rules say what onnxruntime makes: the same shapes, for any batch, from the file alone."""

import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from runner import manifest
from runner.audit import DESCRIBING_BYTES
from runner.bundle import LARGEST_CALL
from runner.follow import MOST_NAMES
from runner.footprint import LARGEST_FOOTPRINT, MOST_WORK
from runner.golden import MOST_ITEMS
from runner.manifest import BUNDLE_LIMIT, FILE_LIMIT, GRAPH_LIMIT, LARGEST_WINDOW, MOST_VALUES
from runner.operators import OPERATORS, products
from runner.proto import LIMITS, constant
from runner.shapes import BATCH, END, LARGEST_TENSOR, MOST_AXES, MisfitError, Tensor, elements, literal, shown

B = BATCH
SIZES = (1, 3)
"""Batches that everything is run with."""


@dataclass
class Case:
    """One node: its inputs are axes (of float32, or as `kinds` says), or constants; left out where None."""

    operator: str
    inputs: list
    settings: dict = field(default_factory=dict)
    outputs: int = 1
    kinds: dict = field(default_factory=dict)

    def __str__(self):
        shapes = [shown(given) if isinstance(given, tuple) else str(given) for given in self.inputs]
        return f"{self.operator} {' '.join(shapes)} {self.settings or ''}"


def ints(*values):
    return np.array(values, np.int64)


CASES = [
    *(Case(name, [(B, 1, 3), (4, 1)]) for name in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")),
    *(Case(name, [(B, 3), (B, 3)]) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Case(name, [(B, 3), (3,)], kinds={0: "BOOL", 1: "BOOL"}) for name in ("And", "Or")),
    *(Case(name, [(B, 3)]) for name in ("Abs", "Clip", "Exp", "Identity", "IsInf", "IsNaN", "Log", "Neg")),
    *(Case(name, [(B, 3)]) for name in ("Reciprocal", "Relu", "Sigmoid", "Sqrt", "Tanh")),
    *(Case(name, [(B, 3)]) for name in ("Elu", "Erf", "Selu", "Softplus", "Softsign")),
    Case("Not", [(B, 3)], kinds={0: "BOOL"}),
    Case("Where", [(B, 1), (B, 3), (1, 3)], kinds={0: "BOOL"}),
    Case("Max", [(B, 3), (3,), (1,)]),
    Case("Softmax", [(B, 4, 3)]),
    Case("QuantizeLinear", [(B, 3), np.float32(0.5), np.uint8(128)]),
    Case("Cast", [(B, 3)], {"to": TensorProto.INT32}),
    Case("Shape", [(B, 2, 3)]),
    Case("ConstantOfShape", [ints(2, 5)]),
    Case("Expand", [(1, 3), ints(4, 1)]),
    Case("Expand", [(B, 1), ints(3)]),
    Case("Reshape", [(B, 2, 6), ints(-1, 12)]),
    Case("Reshape", [(B, 2, 6), ints(0, 3, -1)]),
    Case("Reshape", [(2, 6), ints(12)]),
    Case("Squeeze", [(1, B, 1), ints(0, -1)]),
    Case("Unsqueeze", [(B, 3), ints(-1, 1)]),
    Case("Transpose", [(B, 2, 3)]),
    Case("Transpose", [(B, 2, 3)], {"perm": [1, 2, 0]}),
    Case("Concat", [(B, 2), (B, 3)], {"axis": -1}),
    Case("Concat", [(B, 3), (4, 3)], {"axis": 0}),
    Case("Split", [(B, 5), ints(2, 3)], {"axis": 1}, 2),
    Case("Slice", [(B, 5), ints(1), ints(4), ints(1)]),
    Case("Slice", [(B, 5), ints(-1, 0), ints(-10, 1000000000), ints(1, 0), ints(-2, 1)]),
    Case("Slice", [(B, 5), ints(-1), ints(-(10**9)), ints(0), ints(-1)]),
    Case("Slice", [(B, 2), ints(-3), ints(-(10**9)), ints(1), ints(-1)]),
    Case("Slice", [(B, 5), ints(0, 1), ints((1 << 63) - 1, -1)]),
    Case("Gather", [(B, 5), ints(0, 4, 4)], {"axis": 1}),
    Case("Gather", [(B, 5, 2), np.int64(-1)], {"axis": 1}),
    Case("Pad", [(B, 5), ints(0, 1, 0, 2)]),
    Case("ReduceMax", [(B, 5, 2), ints(1)]),
    Case("ReduceSum", [(B, 5, 2), ints(-1, 1)], {"keepdims": 0}),
    Case("ReduceMean", [(B, 5)]),
    Case("ReduceProd", [(B, 5), ints(1)], {"keepdims": 0}),
    Case("ReduceProd", [ints(2, 5), ints(0)], {"keepdims": 0}),
    Case("ReduceSum", [(B, 5)], {"noop_with_empty_axes": 1}),
    Case("MatMul", [(B, 2, 3), (3, 4)]),
    Case("MatMul", [(5, 1, 2, 3), (B, 3, 4)]),
    Case("MatMulInteger", [(B, 3), (3, 4)], kinds={0: "UINT8", 1: "INT8"}),
    Case("Gemm", [(B, 3), (3, 4), (4,)]),
    Case("Gemm", [(B, 3), (3, 4)]),
    Case("LSTM", [(5, B, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}, 3),
    Case("LSTM", [(5, B, 2), (2, 12, 2), (2, 12, 3), (2, 24), None, (2, B, 3), (2, B, 3)],
         {"hidden_size": 3, "direction": "bidirectional"}, 3),
    Case("GRU", [(5, B, 2), (1, 9, 2), (1, 9, 3)], {"hidden_size": 3}, 2),
    Case("GRU", [(5, B, 2), (1, 9, 2), (1, 9, 3), (1, 18), None, (1, B, 3)],
         {"hidden_size": 3, "linear_before_reset": 1}, 2),
    Case("RNN", [(5, B, 2), (1, 3, 2), (1, 3, 3), (1, 6), None, (1, B, 3)], {"hidden_size": 3}, 2),
]  # fmt: skip


def concrete(axes, batch):
    """Put a number in the place of the batch."""
    return tuple(linear * batch + rest for linear, rest in (divmod(axis, BATCH) for axis in axes))


def tensor_of(given):
    if given is None:
        return None
    return (
        constant(numpy_helper.from_array(np.asarray(given)))
        if isinstance(given, np.ndarray | np.generic)
        else Tensor(given)
    )


def predicted(case):
    settings = {name: value.encode() if isinstance(value, str) else value for name, value in case.settings.items()}
    return OPERATORS[case.operator].rule([tensor_of(given) for given in case.inputs], settings, case.outputs)


def computed(case, batch):
    """Return the shapes that onnxruntime makes."""
    names = ["" if given is None else f"i{at}" for at, given in enumerate(case.inputs)]
    fed, constants, feeds = [], [], {}
    for at, (name, given) in enumerate(zip(names, case.inputs, strict=True)):
        if isinstance(given, tuple):
            kind = getattr(TensorProto, case.kinds.get(at, "FLOAT"))
            shape = concrete(given, batch)
            fed.append(helper.make_tensor_value_info(name, kind, shape))
            feeds[name] = np.ones(shape, helper.tensor_dtype_to_np_dtype(kind))
        elif given is not None:
            constants.append(numpy_helper.from_array(np.asarray(given), name))
    outputs = [f"o{at}" for at in range(case.outputs)]
    node = helper.make_node(case.operator, names, outputs, **case.settings)
    declared = [ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph([node], "one", fed, declared, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [found.shape for found in session.run(outputs, feeds)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_says_the_shape_that_onnxruntime_makes_for_any_batch(case):
    made = predicted(case)
    for batch in SIZES:
        assert [concrete(tensor.axes, batch) for tensor in made] == computed(case, batch)


def test_every_operator_has_a_case():
    assert {case.operator for case in CASES} == OPERATORS.keys()


@pytest.mark.parametrize(
    "case",
    [
        Case("Add", [(B, 2), (B, 3)]),
        Case("Add", [(B, 2), (5, 2)]),
        Case("Concat", [(B, 2), (3, 3)], {"axis": 0}),
        Case("Concat", [(B, 2)], {"axis": 2}),
        Case("Reshape", [(B, 2), ints(-1, 3)]),
        Case("Reshape", [(B, 2), ints(4)]),
        Case("Reshape", [(B, 2), (2,)]),
        Case("Expand", [(B, 2), (2,)]),
        Case("ConstantOfShape", [(2,)]),
        Case("Squeeze", [(B, 1), ints(0)]),
        Case("Squeeze", [(1, 1)]),
        Case("Unsqueeze", [(B,), ints(1, 1)]),
        Case("Transpose", [(B, 2)], {"perm": [0, 0]}),
        Case("Split", [(B, 4), ints(2, 3)], {"axis": 1}, 2),
        Case("Split", [(B, 4)], {"axis": 1}, 2),
        Case("Slice", [(B, 4), ints(0), (1,)]),
        Case("Slice", [(B, 4), ints(0), ints(3)]),
        Case("Slice", [(B, 4), ints(-3), ints(10**9)]),
        Case("Gather", [(B, 4), ints(0)], {"axis": 2}),
        Case("Pad", [(B, 4), ints(0, -1, 0, 0)]),
        Case("Pad", [(B, 4), ints(0, 1)]),
        Case("MatMul", [(B, 4), (3, 4)]),
        Case("MatMul", [(4,), (4,)]),
        Case("Gemm", [(B, 4), (4, 2), (3,)]),
        Case("Cast", [(B,)], {"to": TensorProto.STRING}),
        Case("LSTM", [(5, B, 2), (1, 12, 3), (1, 12, 3)], {"hidden_size": 3}),
        Case("LSTM", [(5, B, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 4}),
        Case("LSTM", [(0, B, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}),
        Case("LSTM", [(5, B, 2), (1, 12, 2), (1, 12, 3), None, (B,)], {"hidden_size": 3}),
        Case("GRU", [(5, B, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}),
        Case("GRU", [(5, B, 2), (1, 9, 2), (1, 9, 3), None, None, (1, B, 3), (1, B, 3)], {"hidden_size": 3}),
        Case("RNN", [(5, B, 2), (1, 3, 2), (1, 3, 3), (1, 3)], {"hidden_size": 3}),
    ],
    ids=str,
)
def test_what_does_not_fit_or_does_not_follow_is_a_misfit(case):
    with pytest.raises(MisfitError):
        predicted(case)


def shape_of(*steps):
    """Follow a list of numbers through nodes: (operator, further inputs, settings)."""
    found = Tensor((B, 2, 6))
    for operator, further, settings in steps:
        (found,) = OPERATORS[operator].rule([found, *map(tensor_of, further)], settings, 1)
    return found


def test_the_batch_can_be_followed_through_what_converters_write_about_shapes():
    kept = shape_of(
        ("Shape", [], {}),
        ("Cast", [], {"to": TensorProto.INT32}),
        ("Slice", [ints(0), ints(1), ints(0)], {}),
        ("Squeeze", [ints(0)], {}),
        ("Unsqueeze", [ints(0)], {}),
        ("Cast", [], {"to": TensorProto.INT64}),
    )
    assert kept == Tensor((1,), (B,))
    (joined,) = OPERATORS["Concat"].rule([kept, tensor_of(ints(7))], {"axis": 0}, 1)
    assert joined.items == (B, 7)
    assert OPERATORS["ConstantOfShape"].rule([joined], {}, 1) == [Tensor((B, 7))]


def product_of(*numbers):
    return OPERATORS["ReduceProd"].rule([Tensor((len(numbers),), numbers), tensor_of(ints(0))], {"keepdims": 0}, 1)


def test_the_batch_can_be_followed_through_a_product():
    assert product_of(B, 9) == [Tensor((), (9 * B,))]
    assert product_of(2, 3) == [Tensor((), (6,))]
    assert product_of(2 * B + 5, 0, 3) == [Tensor((), (0,))]


@pytest.mark.parametrize(
    "numbers",
    [(1 << 20, 1 << 20), (B, B), (-2, 3), (B + 1, LARGEST_TENSOR, 2), (END, 2), (2, -END), (LARGEST_TENSOR, 2)],
)
def test_no_product_of_numbers_is_taken_for_the_batch(numbers):
    with pytest.raises(MisfitError, match="product"):
        product_of(*numbers)


@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.BOOL])
def test_numbers_that_a_cast_may_change_are_not_followed(to):
    assert shape_of(("Shape", [], {}), ("Cast", [], {"to": to})).items is None


def test_large_numbers_in_a_file_are_never_taken_for_the_batch():
    """They say "to the end" in a Slice; as an axis they are refused."""
    for number in (LARGEST_TENSOR + 1, 10**9, (1 << 31) - 1, B - 1, B, B + 1, 3 * B, (1 << 63) - 1):
        assert (literal(number), literal(-number)) == (END, -END)
        (axes,) = OPERATORS["ConstantOfShape"].rule([tensor_of(ints(number))], {}, 1)
        with pytest.raises(MisfitError, match="unbounded"):
            elements(axes)
    assert literal(LARGEST_TENSOR) == LARGEST_TENSOR


def test_elements_are_counted_for_the_worst_batch():
    assert elements(Tensor((B, 3, 4))) == 12
    assert elements(Tensor((5, 4))) == 20
    assert elements(Tensor((B + 5, 2))) == 12
    assert elements(Tensor(())) == 1
    assert elements(Tensor((B, 0, 4))) == 0


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        ((B, B), "grows faster than the batch"),
        ((B, LARGEST_TENSOR + 1), "too large"),
        ((LARGEST_TENSOR, 2), "too large"),
        ((B - 1,), "too large"),
        ((1,) * (MOST_AXES + 1), "no shape"),
        ((B, -1), "no shape"),
    ],
)
def test_what_is_too_large_or_grows_too_fast_is_a_misfit(axes, why):
    with pytest.raises(MisfitError, match=why):
        elements(Tensor(axes))


def test_products_are_counted_in_multiply_adds():
    cases = {
        Case("MatMul", [(B, 2, 3), (3, 4)]): (2 * 3 * 4, 0),
        Case("Gemm", [(B, 3), (3, 4)]): (3 * 4, 0),
        Case("LSTM", [(5, B, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}): (5 * 12 * (2 + 3), 5 * 12),
        Case("GRU", [(5, B, 2), (1, 9, 2), (1, 9, 3)], {"hidden_size": 3}): (5 * 9 * (2 + 3), 5 * 9),
        Case("RNN", [(5, B, 2), (1, 3, 2), (1, 3, 3)], {"hidden_size": 3}): (5 * 3 * (2 + 3), 5 * 3),
        Case("Add", [(B, 3), (3,)]): (0, 0),
    }
    for case, cost in cases.items():
        given = [tensor_of(entry) for entry in case.inputs]
        assert products(case.operator, given, predicted(case)) == cost, case


Case.__hash__ = object.__hash__


@pytest.mark.parametrize("seed", range(3))
def test_graphs_drawn_at_random_have_the_shapes_that_the_rules_say(seed):
    """Whatever a rule lets pass, onnxruntime either refuses or makes in that very shape."""
    draw, checked, wrong = random.Random(seed), 0, []
    for _ in range(400):
        base = draw.choice(CASES)
        inputs = [_nudged(given, draw) for given in base.inputs]
        case = Case(base.operator, inputs, base.settings, base.outputs, base.kinds)
        try:
            made = predicted(case)
            [elements(tensor) for tensor in made]
        except (MisfitError, ValueError, LookupError, TypeError):
            continue
        if any(0 in given for given in inputs if isinstance(given, tuple)):
            continue  # only Concat may take what is empty, and it has cases of its own
        for batch in SIZES:
            with contextlib.suppress(Exception):  # onnxruntime refuses it: its errors are of many kinds
                found = computed(case, batch)
                if found != [concrete(tensor.axes, batch) for tensor in made]:
                    wrong.append(f"{case}: {found}, not {made}")
                checked += 1
    assert wrong == [], f"seed {seed}"
    assert checked > 300


def _nudged(given, draw):
    """Change an axis, or a number of a list."""
    if given is None or draw.random() < 0.5:
        return given
    if isinstance(given, tuple):
        axes = list(given)
        axes[draw.randrange(len(axes))] = draw.choice((1, 2, 3, 5, B, 2 * B))
        return tuple(axes)
    values = np.array(given)
    if values.dtype == np.int64 and values.ndim:
        values[draw.randrange(values.size)] = draw.choice((-3, -2, -1, 0, 1, 2, 3, 5, 6, 10**9, -(10**9)))
    return values


def test_the_format_page_lists_the_operators_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()
    for heading, expected in (("Operators that export writes:", False), ("Operators for models to come:", True)):
        told = page.split(heading)[1].split("\n\n")[0].split()
        assert told == sorted(name for name, entry in OPERATORS.items() if bool(entry.expected) == expected)


def test_the_format_page_states_the_limits_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text().split("## Limits")[1]
    limits = [
        LARGEST_TENSOR, LARGEST_FOOTPRINT, MOST_WORK, LIMITS["node"], LIMITS["initializer"], MOST_NAMES, MOST_VALUES,
        LARGEST_WINDOW, MOST_ITEMS, LARGEST_CALL["cpu"], manifest.MOST_NAMES,
    ]  # fmt: skip
    sizes = {GRAPH_LIMIT: "512 MiB", FILE_LIMIT: "64 MiB", BUNDLE_LIMIT: "1 GiB", DESCRIBING_BYTES: "10 MiB"}
    for number in limits:
        assert f" {number:,}" in page
    for number, words in sizes.items():
        amount, unit = words.split()
        assert number == int(amount) << {"MiB": 20, "GiB": 30}[unit]
        assert words in page
