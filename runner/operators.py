"""The operators that a graph may be built from, and what a node of each costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.shapes import (
    Given,
    Rule,
    Tensor,
    broadcasting,
    cast,
    concat,
    cut,
    elements,
    expand,
    filled,
    gather,
    gemm,
    identity,
    matmul,
    pad,
    product,
    recurrent,
    reduce,
    reshape,
    same,
    shape,
    split,
    squeeze,
    there,
    transpose,
    unsqueeze,
)


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator is dealt with.

    Attributes:
        rule: what it makes of its inputs.
        settings: the attributes that it may have.
        expected: why it is allowed though export does not write it today; None where it does.
    """

    rule: Rule
    settings: frozenset[str] = frozenset()
    expected: str | None = None


RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
"""Operators that run over the steps."""


def products(operator: str, given: Given, made: Sequence[Tensor]) -> tuple[int, int]:
    """Return the multiply-adds of a node a window, and the elements that its kernel needs beside inputs and outputs."""
    if operator in {"MatMul", "MatMulInteger", "Gemm"}:
        return elements(made[0]) * there(given, 0).axes[-1], 0
    if operator in RECURRENT:
        (steps, batch, width), (directions, rows, units) = there(given, 0).axes, there(given, 2).axes
        gates = elements(Tensor((steps, batch, directions, rows)))
        return gates * (width + units), gates
    return 0, 0


def _all(names: str, rule: Rule, settings: str = "", expected: str | None = None) -> dict[str, Operator]:
    return dict.fromkeys(names.split(), Operator(rule, frozenset(settings.split()), expected))


OPERATORS: dict[str, Operator] = {
    **_all("Add Div Equal Less Max Min Mul Pow Sub Where", broadcasting),
    **_all("IsInf IsNaN Neg Not QuantizeLinear Reciprocal Sigmoid Sqrt Tanh", same),
    **_all("Clip Elu Erf Exp Relu Selu Softmax Softplus Softsign", same),
    **_all("Identity", identity),
    **_all("Cast", cast, "to"),
    **_all("Shape", shape),
    **_all("ConstantOfShape", filled, "value"),
    **_all("Expand", expand),
    **_all("Reshape", reshape),
    **_all("Squeeze", squeeze),
    **_all("Unsqueeze", unsqueeze),
    **_all("Transpose", transpose, "perm"),
    **_all("Concat", concat, "axis"),
    **_all("Split", split, "axis"),
    **_all("Slice", cut),
    **_all("Gather", gather, "axis"),
    **_all("Pad", pad),
    **_all("ReduceMax ReduceMean ReduceSum", reduce, "keepdims noop_with_empty_axes"),
    **_all("ReduceProd", product, "keepdims noop_with_empty_axes"),
    **_all("MatMul MatMulInteger", matmul),
    **_all("Gemm", gemm),
    **_all("LSTM", recurrent(gates=4, states=2), "activations direction hidden_size"),
    **_all("GRU", recurrent(gates=3, states=1), "hidden_size linear_before_reset"),
    **_all("RNN", recurrent(gates=1, states=1), "hidden_size"),
    **_all("Abs Log", same, expected="scaling and imputation inside a model"),
    **_all("And Greater GreaterOrEqual LessOrEqual Or", broadcasting, expected="imputation inside a model"),
}
"""What a graph may be built from: arithmetic on its own tensors, whose size follows from the file. Nothing here reads
files, loops or calls out. It is what export writes, as tests/export/test_operators.py sees, and may write next."""
