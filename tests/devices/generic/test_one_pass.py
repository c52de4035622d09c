"""Which kernels read a row once for two reductions: a mean and the squares about it, and no others."""

from __future__ import annotations

import pytest

from mapsto.devices.generic.one_pass import in_one_pass
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Const, Fold, Iter, Kernel, Load, Op, Reduce, Scalar, Stmt, Tensor, walk

F32 = DType.F32
ROWS, ROW = Iter("i", 4), 64
AT, R = sym("i"), sym("r")


def op(fn: str, *args: Scalar) -> Scalar:
    return Op(fn, args, F32)


def total(body: Scalar) -> Scalar:
    return Reduce("sum", (Iter("r", ROW),), body)


def stmt(target: str, value: Scalar) -> Stmt:
    return Stmt(target, F32, (ROWS,), value)


X, MEAN = Load("x", (AT, R), F32), Load("m", (AT,), F32)
APART = op("sub", X, MEAN)
SQUARES = op("mul", APART, APART)


def variance(count: float = ROW, squares: Scalar = SQUARES, more: tuple[Stmt, ...] = ()) -> Kernel:
    """m = sum x / count; v = sum of squares; whatever else reads them."""
    own = (stmt("m", op("div", total(X), Const(count, F32))), stmt("v", total(squares)))
    made = [s.target for s in more]
    outputs = tuple(Tensor(name, F32, (4,)) for name in ("v", *made))
    return Kernel("k", (Tensor("x", F32, (4, ROW)),), outputs, (Tensor("m", F32, (4,)),), (*own, *more))


def test_a_variance_is_one_fold() -> None:
    made = in_one_pass(variance())
    assert made is not None and made.row == ROW
    assert sum(isinstance(node, Fold) for s in made.kernel.stmts for node in walk(s.value)) == 2


@pytest.mark.parametrize("count", [ROW - 1, ROW + 1, 1.0])
def test_a_sum_divided_by_another_number_is_no_mean(count: float) -> None:
    assert in_one_pass(variance(count)) is None


@pytest.mark.parametrize(
    "squares",
    [
        op("mul", APART, op("sub", MEAN, X)),
        op("mul", APART, X),
        op("mul", op("sub", Load("x", (AT, R), F32), Load("m", (AT + 0 * R,), F32)), op("abs", APART)),
        op("mul", op("sub", Load("z", (AT, R), F32), MEAN), op("sub", Load("z", (AT, R), F32), MEAN)),
    ],
)
def test_what_is_no_square_of_the_same_elements_about_their_mean(squares: Scalar) -> None:
    assert in_one_pass(variance(squares=squares)) is None


def test_a_mean_that_something_else_reads_is_not_taken_from_a_fold() -> None:
    """Beside infinite elements a fold's mean is another one."""
    assert in_one_pass(variance(more=(stmt("y", op("neg", MEAN)),))) is None
    assert in_one_pass(variance(more=(stmt("y", op("neg", Load("x", (AT, 0), F32))),))) is not None
