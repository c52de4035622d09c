"""The most multiply-adds that one core does per second: independent accumulators, operands in registers."""

from __future__ import annotations

from benchmarks.contraction.cases import Format
from mapsto.devices.cpu.isa import Isa
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.loop.ast import (
    Assign,
    Binary,
    Const,
    Declare,
    Dot,
    Fma,
    For,
    Function,
    Let,
    Load,
    Param,
    Statement,
    Store,
    Type,
    Value,
    Var,
)

ACCUMULATORS = 12  # enough to hide the latency of two multiply-adds a cycle; 12, and two operands, fit 16 registers


def peak_function(fmt: Format, isa: Isa) -> Function:
    """end - begin rounds of `ACCUMULATORS` vector multiply-adds (dot products where the format has them)."""
    lanes = isa.lanes(fmt.accumulator)
    total = Type(fmt.accumulator, lanes)
    names = [f"acc{i}" for i in range(ACCUMULATORS)]
    a = Var("x", Type(fmt.a, lanes * fmt.interleave))
    b = Var("y", Type(fmt.b, lanes * fmt.interleave))
    head: list[Statement] = [Let("x", Load("a", 0, a.type)), Let("y", Load("b", 0, b.type))]
    head += [Declare(name, Const(0, total)) for name in names]
    body = tuple(Assign(name, _multiply(fmt, isa, a, b, Var(name, total))) for name in names)
    store = [Store("out", i * lanes, Var(name, total)) for i, name in enumerate(names)]
    params = (Param("a", fmt.a), Param("b", fmt.b), Param("out", fmt.accumulator, True))
    return Function(f"peak_{fmt.name}", params, (), (*head, For("i", sym("begin"), sym("end"), body), *store))


def _multiply(fmt: Format, isa: Isa, a: Value, b: Value, total: Value) -> Value:
    if fmt.interleave > 1:
        return Dot("bf16" if fmt.a is DType.BF16 else "u8s8", a, b, total)
    if isa.has("fma"):
        return Fma(a, b, total)
    return Binary("add", total, Binary("mul", a, b))


def multiplications_per_round(fmt: Format, isa: Isa) -> int:
    return ACCUMULATORS * isa.lanes(fmt.accumulator) * fmt.interleave
