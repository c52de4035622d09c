"""Loop-language functions as readable text, for debug output and golden tests.

    scale(x: f32, y: out f32; n) over begin..end
      for i = begin .. end step 16
        let m = lane < n - i
        let a = x[i:+16 if m]
        y[i:+16 if m] = a * 2.0

`x[i:+16]` is 16 elements from i on, `x[i:+16*s]` 16 elements s apart; a type as a function converts, `bits_` keeps
bits; in `shuffle(a, b; 0 4 1 5)` lanes count through a and on through b
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.loop.ast import (
    SIGNS,
    Alloc,
    Assign,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Const,
    Declare,
    Dot,
    Fence,
    Fma,
    For,
    Function,
    Gather,
    If,
    IndexValue,
    LaneMask,
    Let,
    LetIndex,
    Load,
    Lookup,
    Nearest,
    Prefetch,
    ReduceLanes,
    Scatter,
    Select,
    Shuffle,
    Statement,
    Store,
    Type,
    Unary,
    Value,
    Var,
    While,
)


def format_function(function: Function) -> str:
    """The whole function; ends in a newline."""
    params = ", ".join(f"{p.name}: {'out ' if p.writes else ''}{p.element.value}" for p in function.params)
    dims = "; " + ", ".join(function.dims) if function.dims else ""
    lines = [f"{function.name}({params}{dims}) over begin..end", *_indented(function.body)]
    return "\n".join(lines) + "\n"


def format_value(value: Value) -> str:
    return _value(value)


def format_type(t: Type) -> str:
    return t.element.value if t.lanes == 1 else f"{t.element.value}x{t.lanes}"


# ---- statements ----------------------------------------------------------------------------------------------------


def _indented(body: tuple[Statement, ...]) -> Iterator[str]:
    for s in body:
        for line in _statement(s):
            yield f"  {line}"


def _statement(s: Statement) -> Iterator[str]:
    yield from _STATEMENTS[type(s)](s)


def _let_index(s: LetIndex) -> Iterator[str]:
    shown = _dim(s.value) if isinstance(s.value, int | Expr) else _value(s.value)
    yield f"index {s.name} = {shown}"


def _for(s: For) -> Iterator[str]:
    step = f" step {s.step}" if s.step != 1 else ""
    yield f"for {s.var} = {_dim(s.start)} .. {_dim(s.stop)}{step}{' unrolled' if s.unroll else ''}"
    yield from _indented(s.body)


def _if(s: If) -> Iterator[str]:
    cond = " and ".join(f"{_dim(c)} >= 0" for c in s.cond) if isinstance(s.cond, tuple) else _value(s.cond)
    yield f"if {cond}"
    yield from _indented(s.then)
    if s.otherwise:
        yield "else"
        yield from _indented(s.otherwise)


def _while(s: While) -> Iterator[str]:
    yield f"while {_value(s.cond)}"
    yield from _indented(s.body)


def _one(show: Callable[[Any], str]) -> Callable[[Any], Iterator[str]]:
    return lambda s: iter((show(s),))


_STATEMENTS: dict[type, Callable[[Any], Iterator[str]]] = {
    Let: _one(lambda s: f"let {s.name} = {_value(s.value)}"),
    LetIndex: _let_index,
    Declare: _one(lambda s: f"var {s.name}: {format_type(s.value.type)} = {_value(s.value)}"),
    Assign: _one(lambda s: f"{s.name} = {_value(s.value)}"),
    Store: _one(lambda s: f"{_place(s.buffer, s.base, s.value.type.lanes, s.stride, s.mask)} = {_value(s.value)}"),
    Scatter: _one(lambda s: f"{s.buffer}[{_value(s.index)}{_if_mask(s.mask)}] = {_value(s.value)}"),
    Prefetch: _one(lambda s: f"prefetch {s.buffer}[{_dim(s.base)}]" + f" to level {s.level}" * (s.level > 1)),
    Fence: _one(lambda s: " ".join(["fence", *s.kept])),
    Alloc: _one(lambda s: f"local {s.name}: {s.element.value}[{s.count}]"),
    For: _for,
    If: _if,
    While: _while,
}

# ---- values --------------------------------------------------------------------------------------------------------


def _value(v: Value) -> str:
    return _VALUES[type(v)](v)


def _operand(v: Value) -> str:
    """In brackets where an operator stands outside."""
    text = _value(v)
    infix = isinstance(v, Select | LaneMask) or (isinstance(v, Binary | Compare) and v.op in SIGNS)
    return f"({text})" if infix else text


def _dim(e: Dim) -> str:
    return str(e)


def _if_mask(mask: Value | None) -> str:
    return "" if mask is None else f" if {_value(mask)}"


def _place(buffer: str, base: Dim, lanes: int, stride: Dim, mask: Value | None) -> str:
    if lanes == 1:
        return f"{buffer}[{_dim(base)}{_if_mask(mask)}]"
    apart = "" if stride == 1 else f"*{stride}" if isinstance(stride, int) else f"*({_dim(stride)})"
    return f"{buffer}[{_dim(base)}:+{lanes}{apart}{_if_mask(mask)}]"


def _const(v: Const) -> str:
    if v.type.element is DType.BOOL:
        return "true" if v.value else "false"
    return repr(float(v.value)) if v.type.element.is_float else str(int(v.value))


def _index_value(v: IndexValue) -> str:
    lanes = "" if v.stride == 0 else f" + {v.stride}*lane" if isinstance(v.stride, int) else f" + ({v.stride})*lane"
    return f"{format_type(v.type)}({_dim(v.base)}{lanes})"


def _infix_or_call(v: Binary | Compare) -> str:
    if v.op in SIGNS:
        return f"{_operand(v.a)} {SIGNS[v.op]} {_operand(v.b)}"
    return f"{v.op}({_value(v.a)}, {_value(v.b)})"


def _unary(v: Unary) -> str:
    sign = {"neg": "-", "not": "~"}.get(v.op)
    return f"{sign}{_operand(v.a)}" if sign else f"{v.op}({_value(v.a)})"


_VALUES: dict[type, Callable[[Any], str]] = {
    Const: _const,
    Var: lambda v: v.name,
    IndexValue: _index_value,
    Load: lambda v: _place(v.buffer, v.base, v.type.lanes, v.stride, v.mask),
    Gather: lambda v: f"{v.buffer}[{_value(v.index)}{_if_mask(v.mask)}]",
    Broadcast: lambda v: f"splat{v.type.lanes}({_value(v.arg)})",
    Binary: _infix_or_call,
    Compare: _infix_or_call,
    Unary: _unary,
    Select: lambda v: f"{_operand(v.cond)} ? {_operand(v.a)} : {_operand(v.b)}",
    Fma: lambda v: f"fma({_value(v.a)}, {_value(v.b)}, {_value(v.c)})",
    Dot: lambda v: f"dot_{v.kind}({_value(v.a)}, {_value(v.b)}, {_value(v.c)})",
    Cast: lambda v: f"{format_type(v.type)}({_value(v.a)})",
    Nearest: lambda v: f"{format_type(v.type)}(nearest({_value(v.a)}, {v.low}, {v.high}) + {v.zero})",
    Lookup: lambda v: f"table {' '.join(map(str, v.table))}[{_value(v.a)}]",
    Bitcast: lambda v: f"bits_{format_type(v.type)}({_value(v.a)})",
    Shuffle: lambda v: f"shuffle({_value(v.a)}, {_value(v.b)}; {' '.join(map(str, v.lanes))})",
    ReduceLanes: lambda v: f"{v.op}_lanes({_value(v.a)})",
    LaneMask: lambda v: f"lane < {_dim(v.count)}",
}
