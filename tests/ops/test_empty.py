"""Every op at extents of 0, 1 and 2 on every axis: shape rule, reference, lowering and native code agree.

An op gets its operands from a function of a few extents, which is asked for every combination. What a shape rule
refuses (the largest of no numbers has no place) is left out.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.ops.support import Array, check, reference, same, sample, tolerance_of

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import sym
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import evaluated_attrs, known_ops
from mapsto.session.compile import build

F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL
Operands = tuple[list[Array | None], dict[str, Any]]

# What has no result of its own to compare; the last two are the check of indices, which gathers and scatters make.
CONTROL = {"bind_dim", "if", "loop", "require", "fail", "bounds_check", "farthest"}


def of(dtype: DType, *shape: int) -> Array:
    return sample(np.random.default_rng(len(shape) + sum(shape)), shape, dtype)


class NoSuchCaseError(Exception):
    """Extents that make no operands."""


def places(extent: int, *shape: int) -> Array:
    """Indices into an axis; of one without elements there are none."""
    if extent == 0 and 0 not in shape:
        raise NoSuchCaseError
    return np.random.default_rng(7).integers(-extent, max(extent, 1), shape)


def pair(dtype: DType) -> Callable[..., Operands]:
    """x[a, b] with y[b] or y[1]."""
    return lambda a, b, c: ([of(dtype, a, b), of(dtype, b if c else 1)], {})


def unary(dtype: DType, **attrs: Any) -> Callable[..., Operands]:
    return lambda a, b: ([of(dtype, a, b)], attrs)


def one_each(n: int, **attrs: Any) -> dict[str, Any]:
    return {"strides": (1,) * n, "dilations": (1,) * n, **attrs}


def recurrent(gates: int, outputs: int, **attrs: Any) -> Callable[..., Operands]:
    """x W + b of [time, batch] through `hidden` cells."""

    def made(time: int, batch: int, hidden: int) -> Operands:
        x, r = of(F32, time, batch, gates * hidden), of(F32, 1, gates * hidden, hidden)
        state = of(F32, 1, batch, hidden)
        states = [state, state] if outputs == 3 else [state]
        return [x, r, None, *states], {"direction": "forward", **attrs}

    return made


def one_step(gates: int, outputs: int, **attrs: Any) -> Callable[..., Operands]:
    """x[1, batch, width] through `hidden` cells."""

    def made(batch: int, width: int, hidden: int) -> Operands:
        x, r = of(F32, 1, batch, width), of(F32, 1, gates * hidden, hidden)
        state = of(F32, 1, batch, hidden)
        states = [state, state if outputs == 3 else None]
        w, start = of(F32, 1, gates * hidden, width), of(F32, 1, gates * hidden)
        return [x, r, None, *states, None, w, start], {"direction": "forward", **attrs}

    return made


def resized(mode: str) -> Callable[..., Operands]:
    attrs = {"mode": mode, "coordinate_mode": "half_pixel", "nearest_mode": "floor", "exclude_outside": False}
    return lambda a, b, c: ([of(F32, a, b)], {**attrs, "scales": None, "sizes": (a, c)})


def padded(mode: str) -> Callable[..., Operands]:
    return lambda a, b, c: ([of(F32, a, b)], {"before": (0, c), "after": (1, 0), "mode": mode, "value": 2.0})


def windows(**attrs: Any) -> Callable[..., Operands]:
    return lambda n, c, h: ([of(F32, n, c, h)], one_each(1, kernel=(2,), pads=(1, 0), **attrs))


def scattered(name: str, reduction: str) -> Callable[..., Operands]:
    if name == "scatter_elements":
        return lambda a, b, c: ([of(F32, a, b), places(a, c, b), of(F32, c, b)], {"axis": 0, "reduction": reduction})
    return lambda a, b, n, depth: (
        [of(F32, a, b), places(min((a, b)[:depth], default=1), n, depth), of(F32, n, *(a, b)[depth:])],
        {"reduction": reduction},
    )


UNARY = (
    "neg abs sign sqrt exp log tanh sigmoid erf softplus relu reciprocal sin cos tan asin acos atan sinh cosh asinh "
    "acosh atanh floor ceil round isnan copy detach"
).split()
CASES: dict[str, list[Callable[..., Operands]]] = {
    **{name: [unary(F32)] for name in UNARY},
    "leaky_relu": [unary(F32, alpha=0.1)],
    "elu": [unary(F32, alpha=0.5)],
    "isinf": [unary(F32, detect_positive=True, detect_negative=True)],
    "not": [unary(BOOL)],
    "bitnot": [unary(I64)],
    "cast": [unary(F32, to=I64)],
    "decode": [unary(DType.F8E4M3FN), unary(DType.I4)],
    "encode": [
        unary(F32, to=DType.F8E5M2, saturate=True, rounding="up"),
        unary(DType.I8, to=DType.U2, saturate=True, rounding="up"),
    ],
    "bitcast": [unary(F32, to=DType.I32), unary(I64, to=DType.F64), unary(DType.F16, to=DType.U16)],
    "select": [lambda a, b, c: ([of(BOOL, a, 1), of(F32, a, b), of(F32, b if c else 1)], {})],
    "variadic": [
        functools.partial(
            lambda a, b, c, fn: ([of(F32, a, b), of(F32, b if c else 1), of(F32, a, 1)], {"fn": fn}),
            fn=fn,
        )
        for fn in ("add", "max")
    ],
    **{name: [pair(F32)] for name in ("add", "sub", "mul", "div", "pow", "min", "max")},
    **{name: [pair(F32), pair(I64)] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: [pair(BOOL)] for name in ("and", "or", "xor")},
    **{name: [pair(I64)] for name in ("bitand", "bitor", "bitxor")},
    **{name: [pair(DType.U8)] for name in ("shl", "shr")},
    "mod": [lambda a, b, c: ([of(F32, a, b), of(F32, b if c else 1)], {"fmod": True})],
    "matmul": [
        lambda m, k, n: ([of(F32, m, k), of(F32, k, n)], {}),
        lambda g, m, k: ([of(F32, g, m, k), of(F32, k)], {}),
        lambda k, n, g: ([of(F32, k), of(F32, g, k, n)], {}),
        lambda m, k, n: ([of(DType.I32, m, k), of(DType.I32, k, n)], {}),
    ],
    "block_matmul": [
        lambda m, k, n, block: ([of(F32, m, k), of(DType.I8, k, n), of(F32, -(-k // max(block, 1)), n)],
                                {"block": max(block, 1)}),
        lambda k, n: ([of(F32, k), of(DType.I4, k, n), of(F32, min(k, 1), n)], {"block": 4}),
    ],
    "conv": [
        lambda n, c, o, h: ([of(F32, n, c, h), of(F32, o, c, 2), of(F32, o)], one_each(1, pads=(1, 1), group=1)),
        lambda n, h, w: ([of(F32, n, 2, h, w), of(F32, 4, 1, 1, 2)], one_each(2, pads=(0, 1, 0, 1), group=2)),
    ],
    "conv_transpose": [
        lambda n, c, o, h: (
            [of(F32, n, c, h), of(F32, c, o, 2), of(F32, o)],
            {"strides": (2,), "dilations": (1,), "pads": (0, 0), "output_padding": (0,), "group": 1},
        )
    ],
    "gather": [
        lambda a, b, n: ([of(F32, a, b), places(a, n)], {"axis": 0}),
        lambda a, b, n: ([of(F32, a, b), places(b, n, 2)], {"axis": 1}),
    ],
    "gather_elements": [
        lambda a, b, n: ([of(F32, a, b), places(a, n, b)], {"axis": 0}),
        lambda a, b, n: ([of(F32, a, b), places(b, a, n)], {"axis": -1}),
    ],
    "gather_nd": [
        lambda a, b, n, depth: ([of(F32, a, b), places(min((a, b)[:depth], default=1), n, depth)], {"batch_dims": 0}),
        lambda a, b, n, depth: ([of(F32, a, b), places(b, a, n, min(depth, 1))], {"batch_dims": 1}),
        lambda a, n: ([of(F32, a), np.zeros((a, 0), np.int64)], {"batch_dims": 1}),
        lambda a, b, n: ([of(F32, a, b), np.zeros((n, 0), np.int32)], {"batch_dims": 0}),
        lambda a, b: ([of(F32, a, b), np.zeros((0,), np.int64)], {"batch_dims": 0}),
    ],
    "scatter_elements": [scattered("scatter_elements", how) for how in ("none", "add", "max")],
    "scatter_nd": [scattered("scatter_nd", how) for how in ("none", "add", "max")],
    "reshape": [
        lambda a, b, c: ([of(F32, a, b)], {"shape": (b, a)}),
        lambda a, b, c: ([of(F32, a, b, c)], {"shape": (a * b, 1, c)}),
        lambda a, b, c: ([of(F32, a, b, c)], {"shape": (a * b * c,)}),
        lambda a, b, c: ([of(F32, 0, a)], {"shape": (b, 0, c)}),
    ],
    "transpose": [lambda a, b, c: ([of(F32, a, b, c)], {"perm": (2, 0, 1)})],
    "expand": [lambda a, b: ([of(F32, 1, b)], {"shape": (2, a, b)})],
    "slice": [
        lambda a, b, n: ([of(F32, a, b)], {"starts": (0, 0), "steps": (1, 1), "shape": (min(n, a), b)}),
        lambda a, b, n: ([of(F32, a, b)], {"starts": (max(a - 1, 0), 0), "steps": (-1, 2), "shape": (a, (b + 1) // 2)}),
    ],
    "concat": [
        lambda a, b, c: ([of(F32, a, c), of(F32, b, c)], {"axis": 0}),
        lambda a, b, c: ([of(F32, a, b), of(F32, a, c), of(F32, a, b)], {"axis": 1}),
    ],
    "tile": [lambda a, b, n: ([of(F32, a, b)], {"repeats": (n, 2)})],
    "pad": [padded(mode) for mode in ("constant", "edge", "reflect", "wrap")],
    "lstm": [recurrent(4, 3), one_step(4, 3)],
    "gru": [recurrent(3, 2, linear_before_reset=False), one_step(3, 2, linear_before_reset=True)],
    "rnn": [recurrent(1, 2), one_step(1, 2)],
    "reduce": [
        functools.partial(
            lambda a, b, c, kind, axes: ([of(F32, a, b, c)], {"kind": kind, "axes": axes, "keepdims": False}),
            kind=kind, axes=axes,
        )
        for kind in ("sum", "mean", "max", "min", "prod")
        for axes in ((0,), (2,), (0, 2), (0, 1, 2))
    ],
    **{
        name: [lambda a, b: ([of(F32, a, b)], {"axis": 1, "keepdims": False, "select_last": False})]
        for name in ("argmax", "argmin")
    },
    **{
        name: [
            lambda a, b: ([of(F32, a, b)], {"axis": 0, "exclusive": True, "reverse": False}),
            lambda a, b: ([of(F32, a, b)], {"axis": 1, "exclusive": False, "reverse": True}),
        ]
        for name in ("cumsum", "cumprod")
    },
    "resize": [resized(mode) for mode in ("nearest", "linear", "cubic")],
    "nonzero": [unary(F32), lambda a: ([of(BOOL, a)], {}), lambda: ([of(F32)], {})],
    "topk": [
        lambda a, b, k: ([of(F32, a, b)], {"axis": 1, "k": min(k, b), "largest": True, "sorted": True}),
        lambda a, b, k: ([of(F32, a, b)], {"axis": 0, "k": min(k, a), "largest": False, "sorted": True}),
    ],
    "non_max_suppression": [
        lambda n, c, s, k: (
            [of(F32, n, s, 4), of(F32, n, c, s), np.array([0.5], np.float32), np.array([0.1], np.float32)],
            {"limit": k, "center": False},
        )
    ],
    "max_pool": [windows()],
    "max_pool_indices": [windows()],
    "max_pool_gradient": [
        lambda n, c, h, w: ([of(F32, n, c, 3 * h, 2 * w), of(F32, n, c, h, w)], {"kernel": (3, 2)}),
    ],
    "avg_pool": [windows(count_include_pad=False), windows(count_include_pad=True)],
}  # fmt: skip


N = sym("n")
SOURCES: dict[str, dict[str, Any]] = {
    "iota": {"shape": (N,), "start": 3, "step": 2, "dtype": I64},
    "dim_values": {"values": (N, 2 * N), "shape": (2,), "dtype": I64},
    "full": {"shape": (2, N), "value": 2.0, "dtype": F32},
    "blank": {"shape": (2, N), "dtype": F32},
    "random_uniform": {"shape": (N, 2), "low": 0.0, "high": 1.0, "seed": 1, "dtype": F32},
    "random_normal": {"shape": (N, 2), "mean": 0.0, "scale": 1.0, "seed": 1, "dtype": F32},
}


def operands(name: str) -> Iterator[Operands]:
    """All that an op is asked for and does not refuse."""
    for make in CASES[name]:
        given = make.keywords if isinstance(make, functools.partial) else {}
        count = len(inspect.signature(make).parameters) - len(given)
        for extents in itertools.product((0, 1, 2), repeat=count):
            try:
                arrays, attrs = make(*extents)
            except NoSuchCaseError:
                continue
            if accepted(name, arrays, attrs):
                yield arrays, attrs


def accepted(name: str, arrays: list[Array | None], attrs: dict[str, Any]) -> bool:
    try:
        add(Builder("asked"), name, arrays, attrs)
    except ShapeError:
        return False
    return True


def add(b: Builder, name: str, arrays: list[Array | None], attrs: dict[str, Any], prefix: str = "x") -> list[Value]:
    inputs = [
        None if a is None else b.input(f"{prefix}{k}", from_numpy(a.dtype), a.shape) for k, a in enumerate(arrays)
    ]
    return list(b.add(name, inputs, attrs))


def empty(arrays: list[Array | None]) -> bool:
    return any(a is not None and 0 in a.shape for a in arrays)


def test_every_op_is_here() -> None:
    assert set(CASES) | set(SOURCES) | CONTROL == set(known_ops())


@pytest.mark.parametrize("name", CASES)
def test_reference_and_lowering_agree(name: str) -> None:
    asked = list(operands(name))
    assert any(empty(case[0]) for case in asked) and not all(empty(case[0]) for case in asked)
    for arrays, attrs in asked:
        tolerance = max((10 * tolerance_of(from_numpy(a.dtype)) for a in arrays if a is not None), default=2e-6)
        check(name, arrays, attrs, tolerance=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_native_code_agrees(name: str, workers: Workers) -> None:
    """All cases as one graph."""
    b, feeds, expected = Builder("empties"), {}, {}
    for i, (arrays, attrs) in enumerate(operands(name)):
        with b.source(f"case{i}"):
            outputs = add(b, name, arrays, attrs, f"x{i}_")
        feeds |= {f"x{i}_{k}": a for k, a in enumerate(arrays) if a is not None}
        shapes = [tuple(int(d) for d in v.shape) for v in outputs]  # type: ignore[arg-type]
        arrays_of = reference(name, arrays, evaluated_attrs(attrs, {}), shapes)
        expected |= dict(zip((v.name for v in outputs), arrays_of, strict=True))
    graph = b.finish([b.lookup(n) for n in expected], names=[f"y{i}" for i in range(len(expected))])
    found = build(graph, workers, 2, None).run(feeds)
    for ours, (n, array) in zip(found.values(), expected.items(), strict=True):
        same(ours, array, 2e-5, n)


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_open_sizes(name: str, workers: Workers) -> None:
    b = Builder("source")
    b.input("x", F32, (N,))
    graph = b.finish([b.one(name, [], **SOURCES[name])], names=["y"])
    exe = build(graph, workers, 2, None)
    for extent in (0, 1, 2):
        feed = {"x": np.zeros(extent, np.float32)}
        attrs = evaluated_attrs(SOURCES[name], {"n": extent})
        (expected,) = reference(name, [], attrs, [attrs["shape"]])
        same(exe.run(feed)["y"], expected, 2e-6, name)
        same(run_graph(graph, feed)["y"], expected, 0, name)
