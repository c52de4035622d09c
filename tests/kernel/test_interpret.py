"""The kernel interpreter against loops written out, and what it must refuse."""

import numpy as np
import pytest

from mapsto.errors import ExecutionError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import load, mod, sym
from mapsto.kernel import interpret
from mapsto.kernel.ast import Cast, Const, Index, Iter, Kernel, Load, Op, Reduce, Scan, Stmt, Tensor, Where
from mapsto.kernel.interpret import run_kernel

F32, I64 = DType.F32, DType.I64
i, j, k, n = (sym(s) for s in "ijkn")


def _kernel(stmts, inputs, outputs, temps=()):
    return Kernel("k", tuple(inputs), tuple(outputs), tuple(temps), tuple(stmts))


def _ramp(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_matrix_product_with_symbolic_sizes():
    product = Op("mul", (Load("a", (i, k), F32), Load("b", (k, j), F32)), F32)
    stmt = Stmt("c", F32, (Iter("i", n), Iter("j", 3)), Reduce("sum", (Iter("k", 4),), product))
    kernel = _kernel([stmt], [Tensor("a", F32, (n, 4)), Tensor("b", F32, (4, 3))], [Tensor("c", F32, (n, 3))])
    a, b = _ramp(5, 4), _ramp(4, 3)
    assert np.array_equal(run_kernel(kernel, {"a": a, "b": b}, {"n": 5})["c"], a @ b)
    assert run_kernel(kernel, {"a": a[:0], "b": b}, {"n": 0})["c"].shape == (0, 3)


def test_blocks_of_a_large_statement_agree_with_the_whole(monkeypatch):
    product = Op("mul", (Load("a", (i, k), F32), Load("b", (k, j), F32)), F32)
    stmt = Stmt("c", F32, (Iter("i", 5), Iter("j", 3)), Reduce("sum", (Iter("k", 4),), product))
    kernel = _kernel([stmt], [Tensor("a", F32, (5, 4)), Tensor("b", F32, (4, 3))], [Tensor("c", F32, (5, 3))])
    given = {"a": _ramp(5, 4), "b": _ramp(4, 3)}
    whole = run_kernel(kernel, given)["c"]
    for points in (1, 5, 13, 30):
        monkeypatch.setattr(interpret, "POINTS", points)
        assert np.array_equal(run_kernel(kernel, given)["c"], whole)


def test_nested_reductions():
    inner = Reduce("max", (Iter("k", 3),), Op("add", (Load("x", (j, k), F32), Load("y", (i,), F32)), F32))
    stmt = Stmt("out", F32, (Iter("i", 2),), Reduce("sum", (Iter("j", 4),), inner))
    kernel = _kernel([stmt], [Tensor("x", F32, (4, 3)), Tensor("y", F32, (2,))], [Tensor("out", F32, (2,))])
    x, y = _ramp(4, 3), np.array([1, 10], np.float32)
    expected = [(x.max(axis=1) + v).sum() for v in y]
    assert run_kernel(kernel, {"x": x, "y": y})["out"].tolist() == expected


def test_reduction_of_a_value_free_of_its_iterators():
    stmt = Stmt("out", F32, (Iter("i", 2),), Reduce("sum", (Iter("k", 3),), Load("y", (i,), F32)))
    kernel = _kernel([stmt], [Tensor("y", F32, (2,))], [Tensor("out", F32, (2,))])
    assert run_kernel(kernel, {"y": np.array([1, 5], np.float32)})["out"].tolist() == [3, 15]


def _padded(conds):
    stmt = Stmt("out", F32, (Iter("i", 4),), Where(conds, Load("x", (i - 1,), F32), Const(7.0, F32)))
    return _kernel([stmt], [Tensor("x", F32, (2,))], [Tensor("out", F32, (4,))])


def test_guards_keep_loads_inside():
    assert run_kernel(_padded((i - 1, 2 - i)), {"x": _ramp(2)})["out"].tolist() == [7, 0, 1, 7]


def test_a_load_outside_is_an_error():
    with pytest.raises(ExecutionError, match=r"reads x at i - 1 = 2, outside of axis 0 with 2 elements"):
        run_kernel(_padded((i - 1,)), {"x": _ramp(2)})


def test_a_store_outside_is_an_error():
    stmt = Stmt("out", F32, (Iter("i", 4),), Const(1.0, F32), index=(i + 1,))
    with pytest.raises(ExecutionError, match="writes out"):
        run_kernel(_kernel([stmt], [], [Tensor("out", F32, (4,))]), {})


def test_what_nothing_writes_stays_poisoned():
    stmt = Stmt("out", F32, (Iter("i", 2),), Const(1.0, F32), index=(2 * i,))
    out = run_kernel(_kernel([stmt], [], [Tensor("out", F32, (4,))]), {})["out"]
    assert out[[0, 2]].tolist() == [1, 1] and np.isnan(out[[1, 3]]).all()


def test_a_value_of_another_type_is_an_error():
    stmt = Stmt("out", F32, (Iter("i", 2),), Index(i))
    with pytest.raises(ExecutionError, match="the value is int64"):
        run_kernel(_kernel([stmt], [], [Tensor("out", F32, (2,))]), {})


def test_an_input_of_another_shape_is_an_error():
    with pytest.raises(ExecutionError, match="x is float32"):
        run_kernel(_padded(()), {"x": _ramp(3)})


def test_indices_that_are_loaded():
    stmt = Stmt("out", F32, (Iter("i", 3),), Load("x", (mod(load("at", (i,)), 4),), F32))
    kernel = _kernel([stmt], [Tensor("x", F32, (4,)), Tensor("at", I64, (3,))], [Tensor("out", F32, (3,))])
    assert run_kernel(kernel, {"x": _ramp(4), "at": np.array([2, -1, 0])})["out"].tolist() == [2, 3, 0]


def test_updates_of_the_target_run_in_order():
    copy = Stmt("out", F32, (Iter("i", 3),), Load("x", (i,), F32))
    place = load("at", (j,))
    add = Op("add", (Load("out", (place,), F32), Load("u", (j,), F32)), F32)
    kernel = _kernel(
        [copy, Stmt("out", F32, (Iter("j", 4),), add, index=(place,))],
        [Tensor("x", F32, (3,)), Tensor("at", I64, (4,)), Tensor("u", F32, (4,))],
        [Tensor("out", F32, (3,))],
    )
    given = {"x": _ramp(3), "at": np.array([1, 1, 2, 1]), "u": np.array([10, 20, 30, 40], np.float32)}
    assert run_kernel(kernel, given)["out"].tolist() == [0, 71, 32]


@pytest.mark.parametrize(
    "scan,expected",
    [
        (Scan("i"), [1, 3, 6]),
        (Scan("i", exclusive=True), [0, 1, 3]),
        (Scan("i", reverse=True), [6, 5, 3]),
        (Scan("i", exclusive=True, reverse=True), [5, 3, 0]),
        (Scan("i", "prod"), [1, 2, 6]),
        (Scan("i", "max"), [1, 2, 3]),
    ],
)
def test_scan(scan, expected):
    stmt = Stmt("out", F32, (Iter("i", 3),), Load("x", (i,), F32), scan=scan)
    kernel = _kernel([stmt], [Tensor("x", F32, (3,))], [Tensor("out", F32, (3,))])
    assert run_kernel(kernel, {"x": np.array([1, 2, 3], np.float32)})["out"].tolist() == expected


def test_temporaries_pass_values_on():
    first = Stmt("t", F32, (Iter("i", 3),), Op("mul", (Load("x", (i,), F32), Const(2.0, F32)), F32))
    second = Stmt("out", I64, (Iter("i", 3),), Cast(Load("t", (2 - i,), F32), I64))
    kernel = _kernel([first, second], [Tensor("x", F32, (3,))], [Tensor("out", I64, (3,))], [Tensor("t", F32, (3,))])
    assert run_kernel(kernel, {"x": _ramp(3)})["out"].tolist() == [4, 2, 0]
