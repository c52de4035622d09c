"""A straight line of `Let`s that grows as formulas are written with Python's operators.

Every operation becomes a named value at once, so a value used twice is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.loop.ast import (
    Assign,
    Binary,
    Bitcast,
    Cast,
    Compare,
    Const,
    Declare,
    Fma,
    If,
    Let,
    ReduceLanes,
    Select,
    Statement,
    Type,
    Unary,
    Value,
    Var,
    While,
)

LanesOrNumber = Union["Lanes", float, int]
_INTEGER_OF = {DType.F64: DType.I64, DType.F32: DType.I32, DType.F16: DType.I16, DType.BF16: DType.I16}
_FLOAT_OF = {DType.I64: DType.F64, DType.I32: DType.F32}


@dataclass
class Block:
    """Where the statements go. `fresh(hint)` returns a name that nothing else has."""

    fresh: Callable[[str], str]
    statements: list[Statement] = field(default_factory=list)

    def add(self, *statements: Statement) -> None:
        self.statements += statements

    def name(self, value: Value, hint: str = "m") -> Lanes:
        """`value` under a name; constants and names stay as they are."""
        if not isinstance(value, (Var, Const)):
            named = Var(self.fresh(hint), value.type)
            self.statements.append(Let(named.name, value))
            value = named
        return Lanes(self, value)

    def const(self, value: float | int, t: Type) -> Lanes:
        return Lanes(self, Const(_representable(value, t.element), t))

    def where_any(
        self, cond: Lanes, defaults: tuple[Lanes, ...], compute: Callable[[], tuple[Lanes, ...]]
    ) -> tuple[Lanes, ...]:
        """`compute()` in the lanes where `cond` holds, `defaults` elsewhere; skipped when `cond` holds nowhere."""
        results = [Var(self.fresh("slow"), default.type) for default in defaults]
        outer, self.statements = self.statements, []
        chosen = [cond.select(slow, default) for slow, default in zip(compute(), defaults, strict=True)]
        inner, self.statements = self.statements, outer
        some: Value = cond.value
        if cond.type.lanes > 1:
            some = ReduceLanes("any", cond.value, Type(DType.BOOL))
        assigns = (Assign(r.name, c.value) for r, c in zip(results, chosen, strict=True))
        self.statements += [Declare(r.name, d.value) for r, d in zip(results, defaults, strict=True)]
        self.statements.append(If(some, (*inner, *assigns)))
        return tuple(Lanes(self, r) for r in results)

    def while_any(
        self, start: tuple[Lanes, ...], more: Callable[..., Value], step: Callable[..., tuple[Lanes, ...]]
    ) -> tuple[Lanes, ...]:
        """Repeats `step` of all the variables, from `start` on, while the mask `more` of them is on in some lane."""
        names = [Var(self.fresh("turn"), v.type) for v in start]
        variables = tuple(Lanes(self, name) for name in names)
        outer, self.statements = self.statements, []
        following = step(*variables)
        inner, self.statements = self.statements, outer
        some = more(*variables)
        if some.type.lanes > 1:
            some = ReduceLanes("any", some, Type(DType.BOOL))
        assigns = (Assign(name.name, v.value) for name, v in zip(names, following, strict=True))
        self.statements += [Declare(name.name, v.value) for name, v in zip(names, start, strict=True)]
        self.statements.append(While(some, (*inner, *assigns)))
        return variables


def _representable(value: float | int, element: DType) -> float | int:
    if element.is_float:
        return float(np.asarray(value, np.float64).astype(element.numpy))
    if element is DType.BOOL:
        return bool(value)
    bits = 8 * element.size
    value = int(value) & ((1 << bits) - 1)  # patterns with the top bit set are written as unsigned
    return value - (1 << bits) if element.is_signed and value >> (bits - 1) else value


@dataclass(frozen=True)
class Lanes:
    """A named value in a block. Python numbers in an expression take its type."""

    block: Block
    value: Value

    @property
    def type(self) -> Type:
        return self.value.type

    def lift(self, other: LanesOrNumber) -> Lanes:
        return other if isinstance(other, Lanes) else self.block.const(other, self.type)

    def _binary(self, op: str, other: LanesOrNumber) -> Lanes:
        return self.block.name(Binary(op, self.value, self.lift(other).value))

    def _unary(self, op: str) -> Lanes:
        return self.block.name(Unary(op, self.value))

    def _compare(self, op: str, other: LanesOrNumber) -> Lanes:
        return self.block.name(Compare(op, self.value, self.lift(other).value))

    # ---- arithmetic ----

    def __add__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("add", other)

    __radd__ = __add__

    def __sub__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("sub", other)

    def __rsub__(self, other: LanesOrNumber) -> Lanes:
        return self.lift(other) - self

    def __mul__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("div", other)

    def __rtruediv__(self, other: LanesOrNumber) -> Lanes:
        return self.lift(other) / self

    def __neg__(self) -> Lanes:
        return self._unary("neg")

    def __abs__(self) -> Lanes:
        return self._unary("abs")

    def fma(self, factor: LanesOrNumber, addend: LanesOrNumber) -> Lanes:
        """self*factor + addend, rounded once."""
        return self.block.name(Fma(self.value, self.lift(factor).value, self.lift(addend).value))

    def sqrt(self) -> Lanes:
        return self._unary("sqrt")

    def rint(self) -> Lanes:
        return self._unary("rint")

    def floor(self) -> Lanes:
        return self._unary("floor")

    def remainder(self, other: LanesOrNumber) -> Lanes:
        """C's remainder: the dividend's sign."""
        return self._binary("rem", other)

    def copysign(self, other: Lanes) -> Lanes:
        return self._binary("copysign", other)

    def horner(self, coefficients: Sequence[float]) -> Lanes:
        """The polynomial with these coefficients, lowest degree first."""
        total = self.block.const(coefficients[-1], self.type)
        for coefficient in reversed(coefficients[:-1]):
            total = total.fma(self, coefficient)
        return total

    # ---- order and choice ----

    def __lt__(self, other: LanesOrNumber) -> Lanes:
        return self._compare("lt", other)

    def __le__(self, other: LanesOrNumber) -> Lanes:
        return self._compare("le", other)

    def __gt__(self, other: LanesOrNumber) -> Lanes:
        return self._compare("gt", other)

    def __ge__(self, other: LanesOrNumber) -> Lanes:
        return self._compare("ge", other)

    def equals(self, other: LanesOrNumber) -> Lanes:
        return self._compare("eq", other)

    def differs(self, other: LanesOrNumber) -> Lanes:
        return self._compare("ne", other)

    def select(self, then: Lanes, otherwise: LanesOrNumber) -> Lanes:
        """Of a mask: `then` where it is on."""
        return self.block.name(Select(self.value, then.value, then.lift(otherwise).value))

    def at_least(self, low: float) -> Lanes:
        """max(low, self) in the form that passes NaN through and is one instruction (x86 `maxps low, self`)."""
        bound = self.lift(low)
        return (bound > self).select(bound, self)

    def at_most(self, high: float) -> Lanes:
        bound = self.lift(high)
        return (bound < self).select(bound, self)

    # ---- bits ----

    def __and__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("and", other)

    def __or__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("or", other)

    def __xor__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("xor", other)

    def __invert__(self) -> Lanes:
        return self._unary("not")

    def __lshift__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("shl", other)

    def __rshift__(self, other: LanesOrNumber) -> Lanes:
        return self._binary("shr", other)

    def bits(self) -> Lanes:
        """The bits of floats as signed integers."""
        return self.block.name(Bitcast(self.value, Type(_INTEGER_OF[self.type.element], self.type.lanes)))

    def bitcast(self, element: DType) -> Lanes:
        """The same bits as another type of the same size."""
        return self.block.name(Bitcast(self.value, Type(element, self.type.lanes)))

    def as_float(self) -> Lanes:
        """Integer bits as floats of that size."""
        return self.block.name(Bitcast(self.value, Type(_FLOAT_OF[self.type.element], self.type.lanes)))

    def cast(self, element: DType) -> Lanes:
        """Numeric conversion."""
        return self.block.name(Cast(self.value, Type(element, self.type.lanes)))
