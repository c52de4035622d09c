"""Sums of very many floats: their error does not grow with the number of terms, whatever runs along and wherever the
loops are; against sums in f64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.importers.models import model, node
from tests.instruction_sets import instruction_sets

import mapsto
from mapsto.devices.generic import running
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Const, Fold, Iter, Load, Op, Reduce, Running, State

Wide = Callable[[np.ndarray], np.ndarray]
NODES: dict[str, tuple[list[object], Wide]] = {
    "a row's mean": ([node("ReduceMean", ["x"], ["y"], axes=[1])], lambda x: x.mean(1, keepdims=True)),
    "a column's mean": (
        [node("Transpose", ["x"], ["t"]), node("ReduceMean", ["t"], ["y"], axes=[0])],
        lambda x: x.mean(1)[None],
    ),
    "all": ([node("ReduceSum", ["x"], ["s"]), node("Neg", ["s"], ["y"])], lambda x: -x.sum(keepdims=True)),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=1)], lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "variance": (
        [
            node("ReduceMean", ["x"], ["m"], axes=[1]),
            node("Sub", ["x", "m"], ["d"]),
            node("Mul", ["d", "d"], ["q"]),
            node("ReduceMean", ["q"], ["y"], axes=[1]),
        ],
        lambda x: x.var(1, keepdims=True),
    ),
}

ISAS = [isa.name for isa in instruction_sets()]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["fixed", "open"])
@pytest.mark.parametrize("what", NODES)
def test_of_three_million(what: str, form: str, isa: str) -> None:
    nodes, wide = NODES[what]
    x = np.random.default_rng(0).random((2, 3_000_001)).astype(np.float32)
    shape = [2, x.shape[1]] if form == "fixed" else ["rows", "columns"]
    chosen = {"isa": isa}
    exe = mapsto.compile(model(nodes, {"x": shape}, opset=17), threads=1, cache=False, **chosen)
    for part in (x, x[:, :4097]) if form == "open" else (x,):
        part = np.ascontiguousarray(part)
        np.testing.assert_allclose(exe(part), wide(part.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("form", ["fixed", "open"])
def test_of_a_large_window(form: str) -> None:
    """Nested loops, in lanes of channels and without lanes."""
    x = np.random.default_rng(0).random((1, 24, 1100, 1000)).astype(np.float32)
    shape = list(x.shape) if form == "fixed" else ["n", "c", "h", "w"]
    exe = mapsto.compile(model([node("GlobalAveragePool", ["x"], ["y"])], {"x": shape}), threads=1, cache=False)
    np.testing.assert_allclose(exe(x), x.mean((2, 3), np.float64, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [25_088, 20_011, "k"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_over_many_channels(dtype: type, k: int | str, isa: str) -> None:
    """Whole blocks, a last one that is shorter, a number that only a run knows; halves by way of a local array."""
    rng, size = np.random.default_rng(0), k if isinstance(k, int) else 30_001
    a, b = rng.random((5, size)).astype(dtype), rng.random((size, 40)).astype(dtype)
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), s) for n, s in
             (("a", [5, k]), ("b", [k, 40]))]  # fmt: skip
    casts = [node("MatMul", ["a", "b"], ["m"]), node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)]
    chosen = {"isa": isa}
    found = mapsto.compile(model(casts, given, opset=17), threads=1, cache=False, **chosen)(a, b)
    np.testing.assert_allclose(
        found, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-6 if a.itemsize == 4 else 1e-3
    )


@pytest.mark.parametrize("channels", [2048, 515])
def test_convolutions_of_many_terms(channels: int) -> None:
    """Blocks of channels with windows inside them; channels beyond the last whole block."""
    rng = np.random.default_rng(0)
    x, w = rng.random((1, channels, 5, 5)).astype(np.float32), rng.random((24, channels, 3, 3)).astype(np.float32)
    conv = model([node("Conv", ["x", "w"], ["y"], strides=[2, 2])], {"x": list(x.shape)}, constants={"w": w}, opset=17)
    parts = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), (3, 3), (1, 2))[:, ::2, ::2]
    wide = np.einsum("chwij,ocij->ohw", parts, w.astype(np.float64))
    np.testing.assert_allclose(mapsto.compile(conv, threads=1, cache=False)(x)[0], wide, rtol=1e-6)


def test_where_a_sum_is_divided() -> None:
    n, x = sym("n"), Load("x", (sym("i"),), DType.F32)
    total = Reduce("sum", (Iter("i", n),), x)
    block_of = running.block_of
    assert block_of(total, [("i", n)]) == ("i", 1024)
    assert block_of(total, [("i", 4096)]) is None
    assert block_of(total, [("i", 4097)]) == ("i", 1024)
    assert block_of(total, [("i", 1000), ("j", 10)], 7) == ("i", 14)  # 70 terms a round of i
    assert block_of(total, [("i", 5000), ("j", 2000)]) == ("j", 1024)
    assert block_of(total, [("i", n), ("j", 1000), ("k", 2)]) == ("j", 512)
    assert block_of(total, [("i", 10**6), ("j", 2000)], 10**4) == ("j", 1)
    assert block_of(Reduce("max", total.iters, x), [("i", n)]) is None
    assert block_of(Reduce("sum", total.iters, Load("x", (sym("i"),), DType.I32)), [("i", n)]) is None
    s = State("s", DType.F32)
    adds = Running("s", Const(0.0, DType.F32), Op("add", (s, x), DType.F32), s)
    assert block_of(Fold(total.iters, (adds,), s), [("i", n)]) == ("i", 1024)
