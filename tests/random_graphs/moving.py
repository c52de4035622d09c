"""Ops that move elements: reshaping, slicing, joining, picking."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.random_graphs.maker import BOOL, EXTENTS, F32, I64, MOST_ELEMENTS, Maker, Val, broadcast


def transpose(g: Maker) -> None:
    x = g.pick((F32, I64, BOOL))
    order = list(g.draw(st.permutations(range(x.rank))))
    attributes = {"perm": order} if order else {}
    g.node("Transpose", [x.name], x.dtype, [x.shape[i] for i in order], x.exact, **attributes)


def reshape(g: Maker) -> None:
    x = g.pick((F32, I64))
    dims = factored(g, x.size) if x.size else [0]
    given = list(dims)
    if x.size and g.chance(40) and dims:
        given[g.integer(0, len(dims) - 1)] = -1
    attributes = {} if x.size else {"allowzero": 1}
    g.node("Reshape", [x.name, g.constant(np.array(given, np.int64))], x.dtype, dims, x.exact, **attributes)


def factored(g: Maker, size: int) -> list[int]:
    """A shape of that many elements."""
    dims, rest = [], size
    for _ in range(g.integer(0, 3)):
        divisor = g.choose([d for d in range(1, min(rest, 64) + 1) if rest % d == 0])
        dims.append(divisor)
        rest //= divisor
    return [*dims, rest] if rest != 1 or not dims or g.chance(50) else dims


def squeeze(g: Maker) -> None:
    x = g.pick((F32, I64))
    ones = [i for i, extent in enumerate(x.shape) if extent == 1]
    if ones and g.chance(50):
        axes = g.choose(([ones[0]], ones))
        left = [extent for i, extent in enumerate(x.shape) if i not in axes]
        g.node("Squeeze", [x.name, g.constant(np.array(axes, np.int64))], x.dtype, left, x.exact)
        return
    if x.rank >= 5:
        return
    axis = g.integer(-x.rank - 1, x.rank)
    grown = list(x.shape)
    grown.insert(axis % (x.rank + 1), 1)
    g.node("Unsqueeze", [x.name, g.constant(np.array([axis], np.int64))], x.dtype, grown, x.exact)


def flatten(g: Maker) -> None:
    x = g.pick()
    axis = g.integer(0, x.rank)
    ends = [int(np.prod(part, dtype=np.int64)) for part in (x.shape[:axis], x.shape[axis:])]
    g.node("Flatten", [x.name], F32, ends, x.exact, axis=axis)


def slicing(g: Maker) -> None:
    x = g.pick((F32, I64), where=lambda v: v.rank > 0, make=lambda: g.shape(1))
    axes = sorted(set(g.draw(st.lists(st.integers(0, x.rank - 1), min_size=1, max_size=3))))
    starts, ends, steps, shape = [], [], [], list(x.shape)
    for axis in axes:
        extent = x.shape[axis]
        step = g.choose((1, 1, 2, 3, -1, -2))
        start, end = g.integer(-extent - 1, extent + 1), g.integer(-extent - 1, extent + 1)
        if g.chance(30):  # to the end, as exporters write it
            end = 2**31 - 1 if step > 0 else -(2**31)
        starts.append(start)
        ends.append(end)
        steps.append(step)
        shape[axis] = onnx_slice(extent, start, end, step)
    given = [g.constant(np.array(part, np.int64)) for part in (starts, ends, axes, steps)]
    g.node("Slice", [x.name, *given], x.dtype, shape, x.exact)


def onnx_slice(extent: int, start: int, end: int, step: int) -> int:
    """How many elements a slice takes, by the rules of ONNX."""
    start, end = (at + extent if at < 0 else at for at in (start, end))
    if step > 0:
        start, end = min(max(start, 0), extent), min(max(end, 0), extent)
    else:
        start, end = min(max(start, 0), extent - 1), min(max(end, -1), extent - 1)
    return max(0, -(-(end - start) // step)) if extent else 0


def concat(g: Maker) -> None:
    x = g.pick((F32, F32, I64), where=lambda v: v.rank > 0, make=lambda: g.shape(1))
    axis = g.integer(0, x.rank - 1)

    def fits(v: Val) -> bool:
        same = v.rank == x.rank and v.dtype == x.dtype
        return same and all(a == b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if i != axis)

    parts = [x]
    for _ in range(g.integer(0, 3)):
        others = [v for v in g.values if fits(v)]
        extent = g.choose((0, 1, 2, 5, 16))
        new = x.shape[:axis] + (extent,) + x.shape[axis + 1 :]
        parts.append(g.choose(others) if g.chance(60) else g.fresh(x.dtype, new))
    shape = list(x.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    if np.prod(shape, dtype=np.int64) <= 3 * MOST_ELEMENTS:
        names = [part.name for part in parts]
        g.node("Concat", names, x.dtype, shape, all(p.exact for p in parts), axis=g.choose((axis, axis - x.rank)))


def split(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank > 0 and max(v.shape) > 1, make=lambda: (*g.shape(0, 2), 5))
    axis = max(range(x.rank), key=lambda i: x.shape[i])
    first = g.integer(0, x.shape[axis])
    sizes = [first, x.shape[axis] - first]
    shapes = [(x.dtype, x.shape[:axis] + (size,) + x.shape[axis + 1 :]) for size in sizes]
    g.node_of("Split", [x.name, g.constant(np.array(sizes, np.int64))], shapes, x.exact, axis=axis)


def pad(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank > 0, make=lambda: g.shape(1))
    mode = g.choose(("constant", "constant", "reflect", "edge", "wrap"))
    most = [2 if mode in ("constant", "edge") and extent else extent - 1 for extent in x.shape]
    if mode == "edge" or mode == "wrap":
        most = [min(m, 2) if extent else 0 for m, extent in zip(most, x.shape, strict=True)]
    before = [g.integer(0, max(0, min(m, 3))) for m in most]
    after = [g.integer(0, max(0, min(m, 3))) for m in most]
    if mode == "constant" and g.chance(30):
        before = [-1 if extent > 3 else b for b, extent in zip(before, x.shape, strict=True)]
    shape = [b + extent + a for b, extent, a in zip(before, x.shape, after, strict=True)]
    if np.prod(shape, dtype=np.int64) > 3 * MOST_ELEMENTS:
        return
    value = [g.constant(np.float32(g.choose((1.5, -2.0))))] if mode == "constant" and g.chance(50) else []
    g.node("Pad", [x.name, g.constant(np.array(before + after, np.int64)), *value], F32, shape, x.exact, mode=mode)


def expand(g: Maker) -> None:
    x = g.pick((F32, I64))
    target = tuple(g.choose((2, 3)) if extent == 1 and g.chance(60) else extent for extent in x.shape)
    if g.chance(30) and x.rank < 4:
        target = (g.choose((1, 2, 3)), *target)
    shape = broadcast(x.shape, target)
    if shape is not None:
        g.node("Expand", [x.name, g.constant(np.array(target, np.int64))], x.dtype, shape, x.exact)


def tile(g: Maker) -> None:
    x = g.pick((F32, I64), where=lambda v: v.rank > 0 and v.size * 4 <= MOST_ELEMENTS, make=lambda: (3, 2))
    repeats = [g.choose((1, 1, 2)) for _ in x.shape]
    shape = [extent * r for extent, r in zip(x.shape, repeats, strict=True)]
    if np.prod(shape, dtype=np.int64) <= MOST_ELEMENTS:
        g.node("Tile", [x.name, g.constant(np.array(repeats, np.int64))], x.dtype, shape, x.exact)


def gather(g: Maker) -> None:
    x = g.pick((F32, I64), where=lambda v: v.rank > 0 and v.size > 0, make=lambda: (g.choose(EXTENTS), *g.shape(0, 2)))
    if x.size == 0:
        return
    axis = g.integer(0, x.rank - 1)
    extent = x.shape[axis]
    index_shape = g.choose(((), (1,), (3,), (2, 2), (0,)))
    indices = np.random.default_rng(g.integer(0, 99)).integers(-extent, extent, index_shape)
    shape = x.shape[:axis] + index_shape + x.shape[axis + 1 :]
    if np.prod(shape, dtype=np.int64) <= MOST_ELEMENTS:
        g.node("Gather", [x.name, g.constant(np.asarray(indices, np.int64))], x.dtype, shape, x.exact, axis=axis)


def gather_elements(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank > 0 and v.size > 0, make=lambda: (g.choose(EXTENTS), *g.shape(0, 2)))
    if x.size == 0:
        return
    axis = g.integer(0, x.rank - 1)
    shape = tuple(g.integer(1, extent) for extent in x.shape)
    indices = np.random.default_rng(g.integer(0, 99)).integers(-x.shape[axis], x.shape[axis], shape)
    g.node("GatherElements", [x.name, g.constant(np.asarray(indices, np.int64))], F32, shape, x.exact, axis=axis)


def scatter(g: Maker) -> None:
    """Into rows that differ, so that no order of writing matters."""
    x = g.pick(where=lambda v: v.rank > 0 and v.size > 0, make=lambda: (g.choose(EXTENTS), *g.shape(0, 2)))
    if x.size == 0:
        return
    count = g.integer(1, min(4, x.shape[0]))
    rows = np.random.default_rng(g.integer(0, 99)).permutation(x.shape[0])[:count].reshape(count, 1)
    updates = g.fresh(F32, (count, *x.shape[1:]))
    g.node("ScatterND", [x.name, g.constant(np.asarray(rows, np.int64)), updates.name], F32, x.shape, x.exact)


def rearrange(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank == 4 and v.size > 0 and v.shape[1] % 4 == 0, make=lambda: (1, 8, 3, 4))
    if x.size == 0 or x.shape[1] % 4:
        return
    n, c, height, width = x.shape
    g.node(
        "DepthToSpace",
        [x.name],
        F32,
        (n, c // 4, height * 2, width * 2),
        x.exact,
        blocksize=2,
        mode=g.choose(("DCR", "CRD")),
    )


def triangle(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank >= 2, make=lambda: g.shape(2))
    diagonal = g.constant(np.array(g.integer(-2, 2), np.int64))
    g.node("Trilu", [x.name, diagonal], F32, x.shape, x.exact, upper=g.integer(0, 1))


OPS = (
    transpose,
    reshape,
    squeeze,
    flatten,
    slicing,
    concat,
    split,
    pad,
    expand,
    tile,
    gather,
    gather_elements,
    scatter,
    rearrange,
    triangle,
)
