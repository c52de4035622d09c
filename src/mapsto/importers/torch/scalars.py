"""Arithmetic on sizes between the calls of a graph: Python's operators and torch's own functions on symbolic numbers.
Integers stay dims, floats are tensors of one f64, truth values tensors of one bool.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, floordiv, mod
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.shapes import dim_max, dim_min


def as_float(b: Builder, number: Any) -> Value:
    """A number of a run as a tensor of one f64."""
    if isinstance(number, Value):
        return number if number.dtype is DType.F64 else b.one("cast", [number], to=DType.F64)
    if isinstance(number, Expr):
        return b.one("cast", [b.known(number)], to=DType.F64)
    return b.constant(float(number), "number", DType.F64)


def _arithmetic(whole: Callable[[Any, Any], Any], op: str) -> Callable[..., Any]:
    def step(b: Builder, x: Any, y: Any) -> Any:
        if isinstance(x, Value) or isinstance(y, Value):
            return b.one(op, [as_float(b, x), as_float(b, y)])
        return whole(x, y)

    return step


def _divided(b: Builder, x: Any, y: Any) -> Any:
    if not any(isinstance(v, (Value, Expr)) for v in (x, y)):
        return x / y
    return b.one("div", [as_float(b, x), as_float(b, y)])


def _floor_divided(b: Builder, x: Any, y: Any) -> Any:
    if any(isinstance(v, (Value, float)) for v in (x, y)):
        return b.one("floor", [b.one("div", [as_float(b, x), as_float(b, y)])])
    return floordiv(x, y)


def _power(b: Builder, x: Any, y: Any) -> Any:
    if isinstance(y, int) and y >= 0 and not isinstance(x, Value):
        return functools.reduce(operator.mul, [x] * y, 1)
    if not any(isinstance(v, (Value, Expr)) for v in (x, y)):
        return x**y
    return b.one("pow", [as_float(b, x), as_float(b, y)])


def _rounded(op: str, plain: Callable[[float], int]) -> Callable[..., Any]:
    def step(b: Builder, x: Any) -> Any:
        if isinstance(x, Value):
            return b.bind(b.one("cast", [b.one(op, [x]) if op else x], to=DType.I64), "n")
        return x if isinstance(x, (int, Expr)) else plain(x)

    return step


def _compared(op: str, plain: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def step(b: Builder, x: Any, y: Any) -> Any:
        if isinstance(x, Value) or isinstance(y, Value):
            return b.one(op, [as_float(b, x), as_float(b, y)])
        if isinstance(x, Expr) or isinstance(y, Expr):
            return b.one(op, [b.known(x), b.known(y)])
        return plain(x, y)

    return step


def _joint(op: str, plain: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def step(b: Builder, x: Any, y: Any) -> Any:
        if isinstance(x, Value) or isinstance(y, Value):
            return b.one(op, [v if isinstance(v, Value) else b.constant(bool(v)) for v in (x, y)])
        return plain(x, y)

    return step


def _negated(b: Builder, x: Any) -> Any:
    return b.one("neg", [x]) if isinstance(x, Value) else -x


def _function(op: str, plain: Callable[[float], float]) -> Callable[..., Any]:
    def step(b: Builder, x: Any) -> Any:
        return b.one(op, [as_float(b, x)]) if isinstance(x, (Value, Expr)) else plain(x)

    return step


def _extreme(pick: Callable[[Dim, Dim], Dim], op: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def step(b: Builder, x: Any, y: Any) -> Any:
        if isinstance(x, Value) or isinstance(y, Value):
            return b.one(op, [as_float(b, x), as_float(b, y)])
        return pick(x, y) if isinstance(x, Expr) or isinstance(y, Expr) else plain(x, y)

    return step


def _not(b: Builder, x: Any) -> Any:
    return b.one("not", [x]) if isinstance(x, Value) else not x


def _identity(b: Builder, x: Any, *_: Any) -> Any:
    return x


def _sum(b: Builder, parts: Any) -> Any:
    return functools.reduce(functools.partial(_arithmetic(operator.add, "add"), b), parts)


_add, _sub, _mul = (
    (_arithmetic(f, n)) for f, n in ((operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul"))
)

SCALARS: Mapping[Any, Callable[..., Any]] = {
    operator.add: _add,
    operator.sub: _sub,
    operator.mul: _mul,
    operator.floordiv: _floor_divided,
    operator.truediv: _divided,
    operator.mod: lambda b, x, y: mod(x, y),
    operator.neg: _negated,
    operator.pow: _power,
    math.ceil: _rounded("ceil", math.ceil),
    math.floor: _rounded("floor", math.floor),
    math.trunc: _rounded("", math.trunc),
    round: _rounded("round", round),
    int: _rounded("", int),
    float: as_float,
    torch.sym_max: _extreme(dim_max, "max", max),
    torch.sym_min: _extreme(dim_min, "min", min),
    torch.sym_float: as_float,
    torch.sym_int: _rounded("", int),
    torch.sym_not: _not,
    torch.sym_sum: _sum,
    torch.sym_sqrt: _function("sqrt", math.sqrt),
    math.sqrt: _function("sqrt", math.sqrt),
    operator.eq: _compared("eq", operator.eq),
    operator.ne: _compared("ne", operator.ne),
    operator.lt: _compared("lt", operator.lt),
    operator.le: _compared("le", operator.le),
    operator.gt: _compared("gt", operator.gt),
    operator.ge: _compared("ge", operator.ge),
    operator.and_: _joint("and", operator.and_),
    operator.or_: _joint("or", operator.or_),
}
