"""Numpy interpreter of kernels: the oracle for lowerings, fusion and compiled code.

A statement is evaluated for all its points at once. Every iterator is an axis of the arrays; a reduction's iterators
are put in front of those around it, so numpy's broadcasting from the right lines everything up. Statements with very
many points are run in slices of their outer iterators.

Targets start poisoned, so that an element that no statement writes is seen. A load out of bounds is an error unless a
guard rules it out. Floating sums and products accumulate in f64 and are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.ir.dtypes import Array, DType, filled, from_numpy
from mapsto.ir.expr import Call, Dim, Sym, evaluate, sym, terms_of
from mapsto.kernel.ast import (
    Cast,
    Const,
    Fold,
    Index,
    Iter,
    Kernel,
    Load,
    Op,
    Reduce,
    Reduction,
    Scalar,
    State,
    Stmt,
    Where,
    bodies,
    children,
    walk,
)
from mapsto.kernel.scalar import apply, convert, neutral, widen

# The most points of a statement (its reductions included) that are evaluated at once.
POINTS = 1 << 22
# Points of a fold that one partial state steps over.
NEIGHBOURS = 16


def poisoned(dtype: DType, shape: Sequence[int]) -> Array:
    """A tensor of NaN, or of the highest integer; of a storage type all bits are set."""
    if dtype.is_float:
        return np.full(tuple(shape), math.nan, dtype=dtype.numpy)
    if dtype.is_storage:
        return filled(shape, 0xFF, dtype)
    return filled(shape, True if dtype is DType.BOOL else np.iinfo(dtype.numpy).max, dtype)


def run_kernel(kernel: Kernel, inputs: Mapping[str, Array], sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Runs a kernel on input tensors by name, with values for its size symbols; gives the outputs by name.

    Raises ExecutionError where an element outside of a tensor is read or written.
    """
    sizes = sizes or {}
    tensors: dict[str, Array] = {}
    for tensor in kernel.inputs:
        shape = tuple(evaluate(d, sizes) for d in tensor.shape)
        given = np.asarray(inputs[tensor.name])
        if given.shape != shape or from_numpy(given.dtype) is not tensor.dtype:
            raise ExecutionError(
                f"kernel {kernel.name}: {tensor.name} is {given.dtype}{list(given.shape)}, "
                f"not {tensor.dtype}{list(shape)}"
            )
        tensors[tensor.name] = given
    for tensor in (*kernel.outputs, *kernel.temps):
        if tensor.name not in tensors:
            tensors[tensor.name] = poisoned(tensor.dtype, [evaluate(d, sizes) for d in tensor.shape])
    for stmt in kernel.stmts:
        run_statement(stmt, tensors, sizes)
    return {tensor.name: tensors[tensor.name] for tensor in kernel.outputs}


def run_statement(stmt: Stmt, tensors: MutableMapping[str, Array], sizes: Mapping[str, int]) -> None:
    """Runs one statement; its target is in `tensors` and is written in place."""
    extents = [evaluate(i.extent, sizes) for i in stmt.iters]
    if any(e <= 0 for e in extents):
        return
    if _reads(stmt.value, stmt.target):  # an update of what is there: point by point
        blocks: Iterator[tuple[range, ...]] = (
            tuple(range(at, at + 1) for at in point) for point in np.ndindex(*extents)
        )
    else:
        whole = stmt.scan is not None
        blocks = iter([tuple(range(e) for e in extents)]) if whole else _blocks(extents, _weight(stmt.value, sizes))
    for block in blocks:
        _run_block(stmt, tensors, sizes, block)


def _reads(value: Scalar, target: str) -> bool:
    return any(isinstance(node, Load) and node.tensor == target for node in walk(value))


def _weight(value: Scalar, sizes: Mapping[str, int]) -> int:
    """The most points that an element's nested reductions have."""
    if isinstance(value, Reduction):
        own = math.prod(max(evaluate(i.extent, sizes), 1) for i in value.iters)
        return own * max(_weight(body, sizes) for body in bodies(value))
    return max((_weight(c, sizes) for c in children(value)), default=1)


def _blocks(extents: Sequence[int], weight: int) -> Iterator[tuple[range, ...]]:
    """Slices of the iteration space of at most about POINTS points, outer iterators split first."""
    if not extents:
        yield ()
        return
    rest = math.prod(extents[1:]) * weight
    step = max(1, POINTS // max(rest, 1))
    for start in range(0, extents[0], step):
        own = range(start, min(start + step, extents[0]))
        if rest <= POINTS or len(extents) == 1:
            yield (own, *(range(e) for e in extents[1:]))
            continue
        for inner in _blocks(extents[1:], weight):
            yield (own, *inner)


@dataclass(frozen=True)
class _Scope:
    """Iterators and sizes by name (arrays and ints), the number of axes in use, the active guard, the tensors; states
    of the folds around by (name, whether of the second partial state).
    """

    values: Mapping[str, Any]
    axes: int
    active: Any
    tensors: Mapping[str, Array]
    sizes: Mapping[str, int]
    where: str
    states: Mapping[tuple[str, bool], Array] = field(default_factory=dict)

    def inside(self, iters: Sequence[Iter]) -> _Scope:
        values, axes = dict(self.values), self.axes
        for i in reversed(iters):
            extent = max(evaluate(i.extent, self.sizes), 0)
            values[i.name] = np.arange(extent, dtype=np.int64).reshape(extent, *(1,) * axes)
            axes += 1
        return replace(self, values=values, axes=axes)


def _run_block(
    stmt: Stmt, tensors: MutableMapping[str, Array], sizes: Mapping[str, int], block: Sequence[range]
) -> None:
    values: dict[str, Any] = dict(sizes)
    rank = len(block)
    for k, (i, points) in enumerate(zip(stmt.iters, block, strict=True)):
        values[i.name] = np.asarray(points, dtype=np.int64).reshape(-1, *(1,) * (rank - 1 - k))
    scope = _Scope(values, rank, True, tensors, sizes, f"statement of {stmt.target}")
    shape = tuple(len(points) for points in block)
    result = np.broadcast_to(_evaluate(stmt.value, scope), shape)
    if from_numpy(result.dtype) is not stmt.dtype:
        raise ExecutionError(f"{scope.where}: the value is {result.dtype}, the target {stmt.dtype}")
    if stmt.scan is not None:
        names = [i.name for i in stmt.iters]
        result = _scanned(result, names.index(stmt.scan.iter), stmt.scan.kind, stmt.scan.exclusive, stmt.scan.reverse)
    index = stmt.index if stmt.index is not None else [sym(i.name) for i in stmt.iters]
    target = tensors[stmt.target]
    place = [np.broadcast_to(np.asarray(_integer(e, scope)), shape) for e in index]
    _check_bounds(place, target.shape, True, f"{scope.where} writes {stmt.target}", index)
    target[tuple(place)] = result  # where places repeat, numpy keeps the last


# ---- values ----------------------------------------------------------------------------------------------------------


def _evaluate(value: Scalar, scope: _Scope) -> Array:
    if isinstance(value, Const):
        if value.dtype.is_storage:
            return filled((), value.value, value.dtype)
        return np.asarray(value.value).astype(value.dtype.numpy)
    if isinstance(value, Index):
        return convert(np.asarray(_integer(value.expr, scope), dtype=np.int64), value.dtype)
    if isinstance(value, Load):
        return _loaded(value, scope)
    if isinstance(value, Op):
        return apply(value.fn, [_evaluate(a, scope) for a in value.args], value.dtype)
    if isinstance(value, Cast):
        return convert(_evaluate(value.arg, scope), value.dtype)
    if isinstance(value, Where):
        holds: Any = True
        for cond in value.conds:
            holds = holds & (np.asarray(_integer(cond, scope)) >= 0)
        then = _evaluate(value.then, replace(scope, active=scope.active & holds))
        return np.asarray(
            np.where(holds, then, _evaluate(value.otherwise, replace(scope, active=scope.active & ~np.asarray(holds))))
        )
    if isinstance(value, State):
        return scope.states[value.name, value.other]
    return _folded(value, scope) if isinstance(value, Fold) else _reduced(value, scope)


def _reduced(value: Reduce, scope: _Scope) -> Array:
    inner = scope.inside(value.iters)
    body = _evaluate(value.body, inner)
    extents = tuple(max(evaluate(i.extent, scope.sizes), 0) for i in value.iters)
    tail = body.shape[len(body.shape) - scope.axes :] if body.ndim >= scope.axes else body.shape
    padded = (1,) * (scope.axes - len(tail)) + tail
    body = np.broadcast_to(body, (*extents, *padded))
    return fold(value.kind, body, tuple(range(len(extents))))


def fold(kind: str, body: Array, axes: tuple[int, ...]) -> Array:
    """A reduction over axes, in the body's type."""
    dtype = from_numpy(body.dtype)
    wide = widen(body)
    with np.errstate(all="ignore"):
        if kind in ("max", "min"):
            start = wide.dtype.type(neutral(kind, from_numpy(wide.dtype)))
            return convert(
                np.asarray((np.maximum if kind == "max" else np.minimum).reduce(wide, axis=axes, initial=start)), dtype
            )
        if kind in ("any", "all"):
            return np.asarray((np.any if kind == "any" else np.all)(wide, axis=axes))
        accumulator = np.float64 if dtype.is_float else body.dtype
        return convert(np.asarray((np.sum if kind == "sum" else np.prod)(wide, axis=axes, dtype=accumulator)), dtype)


# ---- folds -----------------------------------------------------------------------------------------------------------

_States = list[Array]  # of each running value


def _folded(value: Fold, scope: _Scope) -> Array:
    """Partial states of a few neighbouring points each, stepped all at once, then merged in order, neighbour with
    neighbour.
    """
    extents = [max(evaluate(i.extent, scope.sizes), 0) for i in value.iters]
    states = [_evaluate(r.start, scope) for r in value.running]
    if math.prod(extents):
        states = _stepped(value, extents, states, scope)
        while len(states[0]) > 1:
            states = _merged(value, states, scope)
        states = [s[0] for s in states]
    return _evaluate(value.result, _with_states(scope, value, states))


def _stepped(value: Fold, extents: Sequence[int], start: _States, scope: _Scope) -> _States:
    """The states after the steps of each chunk of neighbours, chunks along a new first axis."""
    points = math.prod(extents)
    firsts = np.arange(0, points, NEIGHBOURS, dtype=np.int64)
    shape = (len(firsts), *(1,) * scope.axes)
    states = [np.broadcast_to(s, shape) for s in start]
    for k in range(min(NEIGHBOURS, points)):
        inside = (firsts + k < points).reshape(shape)
        at = np.unravel_index(np.minimum(firsts + k, points - 1), extents)
        values = dict(scope.values)
        values |= {i.name: np.asarray(a, np.int64).reshape(shape) for i, a in zip(value.iters, at, strict=True)}
        here = replace(_with_states(scope, value, states), values=values, axes=scope.axes + 1)
        stepped = [_evaluate(r.step, here) for r in value.running]
        states = [np.where(inside, new, old) for new, old in zip(stepped, states, strict=True)]
    return states


def _merged(value: Fold, states: _States, scope: _Scope) -> _States:
    """Half as many partial states, each of two neighbours; a last one without a neighbour stays as it is."""
    pairs = len(states[0]) // 2
    first, second = ([s[side : 2 * pairs : 2] for s in states] for side in (0, 1))
    here = _with_states(replace(scope, axes=scope.axes + 1), value, first, second)
    both = [np.atleast_1d(_evaluate(r.merge, here)) for r in value.running]
    rest = [s[2 * pairs :] for s in states]
    shapes = [np.broadcast_shapes(b.shape[1:], r.shape[1:]) for b, r in zip(both, rest, strict=True)]
    return [
        np.concatenate([np.broadcast_to(part, (count, *shape)) for part, count in ((b, pairs), (r, len(r)))])
        for b, r, shape in zip(both, rest, shapes, strict=True)
    ]


def _with_states(scope: _Scope, value: Fold, states: _States, others: _States | None = None) -> _Scope:
    known = dict(scope.states)
    for at, r in enumerate(value.running):
        known[r.name, False] = states[at]
        if others is not None:
            known[r.name, True] = others[at]
    return replace(scope, states=known)


def _scanned(values: Array, axis: int, kind: str, exclusive: bool, reverse: bool) -> Array:
    dtype = from_numpy(values.dtype)
    function: Any = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[kind]
    wide = widen(values)
    if dtype.is_float and kind in ("sum", "prod"):
        wide = wide.astype(np.float64)
    wide = np.flip(wide, axis=axis) if reverse else wide
    with np.errstate(all="ignore"):
        total = function.accumulate(wide, axis=axis)
    if exclusive:
        first = np.full_like(np.take(total, [0], axis=axis), neutral(kind, dtype))
        total = np.concatenate([first, np.take(total, np.arange(total.shape[axis] - 1), axis=axis)], axis=axis)
    return convert(np.flip(total, axis=axis) if reverse else total, dtype)


def _loaded(value: Load, scope: _Scope) -> Array:
    tensor = scope.tensors[value.tensor]
    if from_numpy(tensor.dtype) is not value.dtype:
        raise ExecutionError(f"{scope.where} reads {value.tensor} as {value.dtype}; it is {tensor.dtype}")
    return _elements(tensor, value.tensor, [_integer(e, scope) for e in value.index], value.index, scope)


def _elements(tensor: Array, name: str, index: Sequence[Any], shown: Sequence[Dim], scope: _Scope) -> Array:
    if len(index) != tensor.ndim:
        raise ExecutionError(f"{scope.where} reads {name} of rank {tensor.ndim} at {len(index)} indices")
    place = np.broadcast_arrays(*index) if index else []
    _check_bounds(place, tensor.shape, scope.active, f"{scope.where} reads {name}", shown)
    if tensor.size == 0:
        shape = place[0].shape if place else ()
        return np.zeros(shape, dtype=tensor.dtype)
    return np.asarray(tensor[tuple(np.clip(at, 0, extent - 1) for at, extent in zip(place, tensor.shape, strict=True))])


def _check_bounds(place: Sequence[Array], shape: Sequence[int], active: Any, what: str, shown: Sequence[Dim]) -> None:
    for axis, (at, extent) in enumerate(zip(place, shape, strict=True)):
        outside = np.asarray(((at < 0) | (at >= extent)) & active)
        if outside.any():
            worst = np.broadcast_to(at, outside.shape)[outside][0]
            raise ExecutionError(f"{what} at {shown[axis]} = {worst}, outside of axis {axis} with {extent} elements")


# ---- integer expressions over arrays ---------------------------------------------------------------------------------


def _integer(e: Dim, scope: _Scope) -> Any:
    if isinstance(e, int):
        return e
    total: Any = 0
    for monomial, coefficient in terms_of(e):
        term: Any = coefficient
        for atom in monomial:
            term = term * (scope.values[atom.name] if isinstance(atom, Sym) else _call(atom, scope))
        total = total + term
    return total


def _call(call: Call, scope: _Scope) -> Any:
    args = [np.asarray(_integer(a, scope), dtype=np.int64) for a in call.args]
    if call.fn == "load":
        found = _elements(scope.tensors[call.tensor], call.tensor, args, call.args, scope)
        return found.astype(np.int64)
    a, b = args
    if call.fn == "min":
        return np.minimum(a, b)
    if call.fn == "max":
        return np.maximum(a, b)
    if call.fn == "equal":
        return np.asarray(a == b, dtype=np.int64)
    if call.fn == "broadcast":
        return np.where(a == 1, b, a)
    divisor = np.where(b == 0, 1, b)  # only an empty extent makes a divisor 0
    result = np.floor_divide(a, divisor) if call.fn == "floordiv" else np.mod(a, divisor)
    return np.where(b == 0, 0, result)
