"""Ops that bring many elements together: reductions, normalisations, products."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.random_graphs.maker import EXTENTS, F32, I32, I64, MOST_ELEMENTS, Maker, data

REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare")


def reduction(g: Maker) -> None:
    x = g.pick((F32, F32, F32, I64), where=lambda v: v.size > 0)
    if x.size == 0:
        return
    op = g.choose(REDUCTIONS if x.dtype == F32 else ("ReduceSum", "ReduceMax", "ReduceMin"))
    axes = sorted(set(g.draw(st.lists(st.integers(0, x.rank - 1), max_size=x.rank)))) if x.rank else []
    if op == "ReduceProd" and np.prod([x.shape[a] for a in axes] or x.shape, dtype=np.int64) > 16:
        op = "ReduceMax"
    keep = g.integer(0, 1)
    reduced = axes or list(range(x.rank))
    shape = [1 if i in reduced else extent for i, extent in enumerate(x.shape) if keep or i not in reduced]
    given = [g.constant(np.array([a - x.rank if g.chance(30) else a for a in axes], np.int64))] if axes else []
    exact = x.exact and (x.dtype.kind == "i" or op in ("ReduceMax", "ReduceMin"))
    g.node(op, [x.name, *given], x.dtype, shape, exact, keepdims=keep)


def arg_extreme(g: Maker) -> None:
    x = g.pick(where=lambda v: v.exact and v.rank > 0 and v.size > 0, make=lambda: (5, 3))
    if x.size == 0:
        return
    axis, keep = g.integer(0, x.rank - 1), g.integer(0, 1)
    shape = [1 if i == axis else extent for i, extent in enumerate(x.shape) if keep or i != axis]
    last = {"select_last_index": 1} if g.chance(25) else {}
    g.node(g.choose(("ArgMax", "ArgMin")), [x.name], I64, shape, True, axis=axis, keepdims=keep, **last)


def top_k(g: Maker) -> None:
    x = g.pick(where=lambda v: v.exact and v.rank > 0 and v.size > 0, make=lambda: (3, 9))
    if x.size == 0:
        return
    axis = g.integer(0, x.rank - 1)
    k = g.integer(0, min(x.shape[axis], 6))
    shape = x.shape[:axis] + (k,) + x.shape[axis + 1 :]
    inputs = [x.name, g.constant(np.array([k], np.int64))]
    g.node_of("TopK", inputs, [(F32, shape), (I64, shape)], True, axis=axis, largest=g.integer(0, 1), sorted=1)


def cumulative_sum(g: Maker) -> None:
    x = g.pick((F32, I64), where=lambda v: v.rank > 0, make=lambda: g.shape(1))
    axis = g.constant(np.array(g.integer(0, x.rank - 1), np.int64))
    attributes = {"exclusive": g.integer(0, 1), "reverse": g.integer(0, 1)}
    g.node("CumSum", [x.name, axis], x.dtype, x.shape, x.exact and x.dtype.kind == "i", **attributes)


def softmax(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank > 0, make=lambda: g.shape(1))
    g.node(
        g.choose(("Softmax", "Softmax", "LogSoftmax")),
        [x.name],
        F32,
        x.shape,
        False,
        axis=g.integer(-x.rank, x.rank - 1),
    )


def normalisation(g: Maker) -> None:
    """Of exact values: the quotient by the deviation of nearly equal numbers is noise."""
    x = g.pick(where=lambda v: v.exact and v.rank > 1 and v.size > 0, make=lambda: (2, 3, 16))
    if x.size == 0:
        return
    if g.chance(50):
        axis = g.integer(1, x.rank - 1)
        scale, bias = g.add_constant(F32, x.shape[axis:]), g.add_constant(F32, x.shape[axis:])
        inputs = [x.name, scale.name, *([bias.name] if g.chance(70) else [])]
        g.node("LayerNormalization", inputs, F32, x.shape, False, axis=g.choose((axis, axis - x.rank)))
        return
    channels = (x.shape[1],)
    parts = [g.add_constant(F32, channels).name for _ in range(3)]
    variance = g.constant(np.abs(data(F32, channels, g.integer(0, 99))) + np.float32(0.5))
    g.node("BatchNormalization", [x.name, *parts, variance], F32, x.shape, False)


def matmul(g: Maker) -> None:
    a = g.pick((F32, F32, F32, I32), where=lambda v: v.rank > 0, make=lambda: g.shape(1, 3))
    k = a.shape[-1]
    n = g.choose((1, 3, 8, 16, 17, 33))
    shape: tuple[int, ...] = (k, n)
    if g.chance(20):
        shape = (k,)
    elif a.rank > 2 and g.chance(60):
        shape = tuple(1 if g.chance(30) else d for d in a.shape[:-2]) + (k, n)
    if k * n > MOST_ELEMENTS:
        return
    b = g.fresh(a.dtype, shape)
    try:
        result = np.matmul(np.zeros(a.shape, np.int8), np.zeros(b.shape, np.int8)).shape
    except ValueError:
        return
    if np.prod(result, dtype=np.int64) <= MOST_ELEMENTS:
        g.node("MatMul", [a.name, b.name], a.dtype, result, a.exact and a.dtype.kind == "i")


def gemm(g: Maker) -> None:
    a = g.pick(where=lambda v: v.rank == 2 and v.size > 0, make=lambda: (g.choose(EXTENTS), g.choose(EXTENTS)))
    if a.size == 0:
        return
    turned, other = g.integer(0, 1), g.integer(0, 1)
    m, k = a.shape[::-1] if turned else a.shape
    n = g.choose((1, 5, 16, 17))
    b = g.fresh(F32, (n, k) if other else (k, n))
    inputs = [a.name, b.name]
    if g.chance(60):
        inputs.append(g.fresh(F32, g.choose(((n,), (m, n), (m, 1), (1,), ()))).name)
    scales = {"alpha": g.choose((1.0, 0.5)), "beta": g.choose((1.0, 2.0))}
    g.node("Gemm", inputs, F32, (m, n), False, transA=turned, transB=other, **scales)


def einsum(g: Maker) -> None:
    a = g.pick(where=lambda v: v.rank == 3 and v.size > 0, make=lambda: (2, g.choose(EXTENTS), g.choose((1, 3, 8))))
    if a.size == 0:
        return
    batch, rows, inner = a.shape
    b = g.fresh(F32, (batch, g.choose((1, 4, 9)), inner))
    if rows * b.shape[1] * batch <= MOST_ELEMENTS:
        g.node("Einsum", [a.name, b.name], F32, (batch, rows, b.shape[1]), False, equation="bik,bjk->bij")


OPS = (reduction, reduction, arg_extreme, top_k, cumulative_sum, softmax, normalisation, matmul, matmul, gemm, einsum)
