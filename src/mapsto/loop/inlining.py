"""A function as a part of another one: its statements, with names of their own, over ranges and buffers of the other.

Local arrays live as long as the function that they are in, so they are handed out to stand at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, add, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Binary,
    Broadcast,
    Declare,
    Fence,
    For,
    Function,
    Gather,
    IndexValue,
    Let,
    LetIndex,
    Load,
    Prefetch,
    Scatter,
    Statement,
    Store,
    Type,
    Value,
    Var,
    fields_of,
)


@dataclass(frozen=True)
class PartOf:
    """Where a parameter of an inlined function lies: from an element of a buffer on."""

    buffer: str
    start: Dim = 0


def inlined(
    function: Function,
    span: tuple[Dim, Dim],
    operands: Mapping[str, PartOf],
    sizes: Mapping[str, Dim],
    fresh: Callable[[str], str],
) -> tuple[list[Alloc], list[Statement]]:
    """A function's local arrays, and what it does over [begin, end) = span. operands: by its parameters; sizes: by its
    dims, in symbols that are known where it is to stand. fresh gives names that the other function has not.
    """
    work = _Inlining(operands, fresh, {"begin": span[0], "end": span[1], **sizes})
    body = [work.statement(s) for s in function.body]
    return work.arrays, [s for s in body if s is not None]


class _Inlining:
    def __init__(self, operands: Mapping[str, PartOf], fresh: Callable[[str], str], known: Mapping[str, Dim]) -> None:
        self.operands, self.fresh = operands, fresh
        self.symbols = dict(known)
        self.names: dict[str, str] = {}  # of variables and local arrays
        self.arrays: list[Alloc] = []

    def statement(self, s: Statement) -> Statement | None:
        """The statement in the other function's names; None for a local array."""
        if isinstance(s, Alloc):
            self.arrays.append(Alloc(self.named(s.name), s.element, s.count))
            return None
        if isinstance(s, LetIndex):
            return LetIndex(self.indexed(s.name), self.any(s.value))
        if isinstance(s, For):
            start, stop = self.any(s.start), self.any(s.stop)
            return For(self.indexed(s.var), start, stop, self.block(s.body), s.step, s.unroll)
        if isinstance(s, Let | Declare | Assign):
            return type(s)(self.named(s.name), self.any(s.value))
        if isinstance(s, Fence):
            return Fence(tuple(map(self.named, s.kept)))
        return cast(Statement, self.any(s))

    def block(self, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        return tuple(s for each in body if (s := self.statement(each)) is not None)

    def named(self, name: str) -> str:
        if name not in self.names:
            self.names[name] = self.fresh(name)
        return self.names[name]

    def indexed(self, name: str) -> str:
        """A symbol that is defined here (a loop may define the same one as another loop)."""
        own = self.fresh(name)
        self.symbols[name] = sym(own)
        return own

    def any(self, node: Any) -> Any:
        """A value, an index expression, or a statement with nothing to name."""
        if isinstance(node, Expr):
            return substitute(node, self.symbols)
        if isinstance(node, tuple):
            if node and _is_statement(node[0]):
                return self.block(node)
            return tuple(map(self.any, node))
        if isinstance(node, Var):
            return Var(self.named(node.name), node.type)
        if isinstance(node, Load | Store | Prefetch | Gather | Scatter):
            return self.access(node)
        names = fields_of(type(node))
        if not names:
            return node
        return type(node)(**{name: self.any(getattr(node, name)) for name in names})

    def access(self, node: Load | Store | Prefetch | Gather | Scatter) -> Value | Statement:
        found = {name: self.any(getattr(node, name)) for name in fields_of(type(node))}
        part = self.operands.get(node.buffer)
        if part is None:
            found["buffer"] = self.named(node.buffer)
        else:
            found["buffer"] = part.buffer
            if part.start != 0 and "base" in found:
                found["base"] = add(found["base"], part.start)
            elif part.start != 0:
                found["index"] = _moved(found["index"], part.start)
        return cast("Value | Statement", type(node)(**found))


def _moved(index: Value, start: Dim) -> Value:
    """Lanes of places, so many elements on."""
    by = IndexValue(start, Type(DType.I64))
    return Binary("add", index, Broadcast(by, index.type) if index.type.lanes > 1 else by)


def _is_statement(node: object) -> bool:
    return isinstance(node, Statement)
