"""loop: runs a graph again and again, and hands what it yields on to its next round.

    loop(go, start...; body(state...) -> (again, next...)) {sizes, below}

    state = start; if go: do { state = next } while (again); the last state is what the node yields

Counting, rows that are read round by round and rows that are collected are no parts of it: a counter is a state, a row
is read by a `gather` at it, and written by a `scatter_nd` into a state that the plan updates in place.

sizes: pairs of size symbols, one for each size of a state that may be another one in each round: what it is called in
the body, where it stands alone as a dim of a state, and outside, where it is the size of the last state.
below: for each state, an extent that its integers are known to stay below, from 0 on (a counter), or -1.

(The standard's Loop and Scan, https://onnx.ai/onnx/operators/onnx__Loop.html, and `torch.while_loop` are made of it.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, filled
from mapsto.ir.expr import Dim, bare_symbol, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Node, Value
from mapsto.ir.region import Region
from mapsto.kernel.ast import Const, Stmt
from mapsto.ops.control import require_one, yields
from mapsto.ops.registry import Inference, Lowering, Nesting, OpSpec, RunNested, Shape, register
from mapsto.ops.shapes import BOOLS, describe, require_dtype


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, BOOLS)
    require_one(inference)
    where = describe(inference)
    if len(inference.graphs) != 1:
        raise ShapeError(f"{where}: a loop has one body, not {len(inference.graphs)}")
    (body,) = inference.graphs
    starts = [inference.value(i) for i in range(1, len(inference.inputs))]
    if not starts or not len(starts) == len(body.inputs) == len(body.outputs) - 1:
        raise ShapeError(
            f"{where}: {len(starts)} states, which the body takes as {len(body.inputs)} and hands on as "
            f"{len(body.outputs) - 1}; there must be as many of each, and one at least"
        )
    again, *nexts = yields(body, inference)
    if again.dtype is not DType.BOOL or any(d != 1 for d in again.shape):
        raise ShapeError(f"{where}: the body must say first, by one bool, whether to go on; it yields {again}")
    if len(inference.attrs["below"]) != len(starts):
        raise ShapeError(f"{where}: a bound for each of {len(starts)} states, not {len(inference.attrs['below'])}")
    first: dict[str, Dim] = {}
    for state, start in zip(body.inputs, starts, strict=True):
        _take_sizes(state, start, first, inference.attrs["sizes"], where)
    for state, start, following in zip(body.inputs, starts, nexts, strict=True):
        _same_type(state, start, following, where)
        for d, extent in zip(state.shape, start.shape, strict=True):
            inference.same(substitute(d, first), extent)
    after: dict[str, Dim] = {}
    for state, following in zip(body.inputs, nexts, strict=True):
        _take_sizes(state, following, after, inference.attrs["sizes"], where)
    for state, following in zip(body.inputs, nexts, strict=True):
        for d, extent in zip(state.shape, following.shape, strict=True):
            if _never_equal(substitute(d, after), extent):
                raise ShapeError(f"{where}: the body hands {following} on as {state}")
    last: dict[str, Dim] = {inner: sym(outer) for inner, outer in inference.attrs["sizes"]}
    return [(v.dtype, tuple(substitute(d, last) for d in v.shape)) for v in body.inputs]


def _take_sizes(
    state: Value, given: Value, sizes: dict[str, Dim], pairs: Sequence[tuple[str, str]], where: str
) -> None:
    """What the sizes of a state are, where it is given this value: those that stand alone as its dims."""
    if given.rank != state.rank:
        raise ShapeError(f"{where}: {given} is handed on as {state}, which has another rank")
    changing = {inner for inner, _ in pairs}
    for d, extent in zip(state.shape, given.shape, strict=True):
        name = bare_symbol(d)
        if name in changing:
            sizes.setdefault(name, extent)


def _same_type(state: Value, start: Value, following: Value, where: str) -> None:
    for value in (start, following):
        if value.dtype is not state.dtype:
            raise ShapeError(f"{where}: {value} is handed on as {state}, which has another element type")


def _never_equal(a: Dim, b: Dim) -> bool:
    """Whether two extents certainly differ; what is not known is the business of `require` nodes in the body."""
    difference = a - b
    if isinstance(difference, int):
        return difference != 0
    return known_at_least(difference, 1) or known_at_least(-difference, 1)


def _body(node: Node) -> tuple[Region, ...]:
    """State i starts as operand 1 + i, goes on as yield 1 + i, and is output i in the end."""
    (body,) = node.graphs
    count = len(body.inputs)
    handed = tuple(range(1, count + 1))
    return (Region(body, starts=handed, carried=handed, results=(None, *range(count))),)


def _run(inputs: Sequence[Any], attrs: Mapping[str, Any], run: RunNested) -> list[Array]:
    go, *states = inputs
    while go.reshape(()):
        go, *states = run(0, states)
    return states


def _never(contents: Sequence[Array | None]) -> bool:
    go = contents[0].reshape(-1)[0] if contents[0] is not None else None
    return isinstance(go, int) and not go


def _bounds(attrs: Mapping[str, Any]) -> Iterator[tuple[int, Dim]]:
    return ((i, extent) for i, extent in enumerate(attrs["below"]) if extent != -1)


register(OpSpec(
    "loop", "control", _infer, foldable=False, nesting=Nesting(_body, _run, idle=_never, below=_bounds)
))  # fmt: skip

# ---- blank(shape, dtype) ---------------------------------------------------------------------------------------------


def _infer_blank(inference: Inference) -> list[tuple[DType, Shape]]:
    return [(inference.attrs["dtype"], tuple(inference.attrs["shape"]))]


def _blank(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [filled(shapes[0], 0, attrs["dtype"])]


def _lower_blank(low: Lowering) -> list[Stmt]:
    dtype = low.output.dtype
    zero = 0.0 if dtype.is_float else False if dtype is DType.BOOL else 0
    return [low.stmt(low.iters(low.output.shape), Const(zero, dtype))]


# Zeros that are written over: never folded, so that they are no constant of a file.
register(OpSpec("blank", "source", _infer_blank, _blank, _lower_blank, foldable=False))
