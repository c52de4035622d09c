"""Code under construction: open scopes, and the rule that a value is computed in the outermost scope where it can be.

A scope is the function's body, a loop's body or a branch. What does not depend on an inner loop is emitted before that
loop, once, however deep the reader is. A guarded scope (a branch, or a loop that may not run at all) holds back loads
that might leave their buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym, symbols
from mapsto.ir.expr_proofs import bounds, known_at_least
from mapsto.ir.expr_rewrite import simplify, substitute
from mapsto.loop import ast as loop

MemoKey = tuple[object, ...]


@dataclass
class Scope:
    statements: list[loop.Statement] = field(default_factory=list)
    memo: dict[MemoKey, loop.Value] = field(default_factory=dict)
    indices: dict[MemoKey, Dim] = field(default_factory=dict)
    guarded: bool = False


class Code:
    """The statements of one function, growing. `reserved`: names that loop symbols must not take."""

    def __init__(self, reserved: set[str], fresh: Callable[[str], str] | None = None) -> None:
        self.scopes = [Scope()]
        self._taken = set(reserved)
        self._counter: dict[str, int] = {}
        self._fresh = fresh
        self.depths: dict[str, int] = {}
        self.ranges: dict[str, tuple[Dim, Dim]] = {}
        self.bindings: dict[str, Dim] = {}
        self.bound_to: dict[str, frozenset[str]] = {}
        self.versions: dict[str, int] = {}
        self._version = 0

    # ---- names and statements ----

    def fresh(self, hint: str) -> str:
        if self._fresh is not None:
            return self._fresh(hint)
        count = self._counter.get(hint, 0)
        name = hint if count == 0 else f"{hint}_{count}"
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._counter[hint] = count + 1
        self._taken.add(name)
        return name

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def emit(self, statement: loop.Statement) -> None:
        self.scopes[-1].statements.append(statement)

    def emit_at(self, depth: int, statement: loop.Statement) -> None:
        self.scopes[depth].statements.append(statement)

    def let(self, value: loop.Value, hint: str = "v") -> loop.Value:
        """`value` under a name (literals and names stay as they are)."""
        if isinstance(value, loop.Var | loop.Const):
            return value
        name = self.fresh(hint)
        self.emit(loop.Let(name, value))
        return loop.Var(name, value.type)

    def local(self, hint: str, element: DType, count: int) -> str:
        """A local array of the function."""
        name = self.fresh(hint)
        self.scopes[0].statements.insert(0, loop.Alloc(name, element, count))
        return name

    @contextmanager
    def at(self, depth: int) -> Iterator[None]:
        """Emit into an outer scope for a while."""
        held = self.scopes[depth + 1 :]
        del self.scopes[depth + 1 :]
        yield
        self.scopes.extend(held)

    # ---- memory of what was computed ----

    def find(self, key: MemoKey) -> loop.Value | None:
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        return None

    def remember(self, key: MemoKey, value: loop.Value) -> None:
        self.scopes[-1].memo[key] = value

    def index(self, key: MemoKey, make: Callable[[], Dim | loop.Value], hint: str) -> Dim:
        """The named integer of this key, made in the present scope unless an open scope has it."""
        for scope in reversed(self.scopes):
            if key in scope.indices:
                return scope.indices[key]
        named = self.symbol(make(), hint)
        self.scopes[-1].indices[key] = named
        return named

    def forget(self, stale: Callable[[MemoKey], bool]) -> None:
        for scope in self.scopes:
            for key in [k for k in scope.memo if stale(k)]:
                del scope.memo[key]
            for key in [k for k in scope.indices if stale(k)]:
                del scope.indices[key]

    # ---- iterators ----

    def bind(self, name: str, value: Dim) -> None:
        """Let an iterator stand for an expression over loop symbols."""
        self._version += 1
        self._stand_for(name, value, self._version)

    @contextmanager
    def bound_again(self, name: str, value: Dim, version: int) -> Iterator[None]:
        """Inside, an iterator stands for what it did under an earlier version: what was computed then is found."""
        before = self.bindings[name], self.versions[name]
        self._stand_for(name, value, version)
        yield
        self._stand_for(name, *before)

    def _stand_for(self, name: str, value: Dim, version: int) -> None:
        self.bindings[name], self.versions[name] = value, version
        self.bound_to[name] = frozenset(symbols(value))

    def unbind(self, name: str, span: tuple[Dim, Dim]) -> None:
        """Let an iterator stand for itself, in this range."""
        self.bindings.pop(name, None)
        self.bound_to.pop(name, None)
        self.ranges[name] = span

    def assume(self, name: str, span: tuple[Dim, Dim]) -> None:
        """The range of a symbol, unless it is known already."""
        self.ranges.setdefault(name, span)

    def expand(self, e: Dim) -> Dim:
        """An expression over iterators as one over loop symbols."""
        if isinstance(e, int):
            return e
        return simplify(substitute(e, self.bindings), self.ranges)

    def depth_of(self, e: Dim) -> int:
        """The depth of the innermost symbol in an expression over loop symbols."""
        return max((self.depths.get(s, 0) for s in symbols(e)), default=0)

    def bound_depth(self, name: str) -> int:
        return self.depth_of(self.bindings[name]) if name in self.bindings else self.depths.get(name, 0)

    @property
    def guard_depth(self) -> int:
        """The innermost scope that may not be entered."""
        return max((d for d, s in enumerate(self.scopes) if s.guarded), default=0)

    def symbol(self, value: Dim | loop.Value, hint: str) -> Dim:
        """Names an integer in the present scope."""
        if isinstance(value, int):
            return value
        name = self.fresh(hint)
        self.emit(loop.LetIndex(name, value))
        self.depths[name] = self.depth
        return sym(name)

    def lane_symbol(self, lanes: int) -> str:
        """A symbol that counts lanes: the same for all vectors of one width."""
        name = f"lane{lanes}"
        while name in self._taken:
            name += "_"
        self.depths[name] = 0
        self.ranges[name] = (0, lanes - 1)
        return name

    # ---- control flow ----

    @contextmanager
    def branch(self, cond: loop.Value | tuple[Dim, ...]) -> Iterator[None]:
        """Statements run only where `cond` holds."""
        self.scopes.append(Scope(guarded=True))
        yield
        body = self.scopes.pop()
        self.emit(loop.If(cond, tuple(body.statements)))

    @contextmanager
    def loop(
        self, start: Dim, stop: Dim, hint: str, span: tuple[Dim, Dim] | None = None, step: int = 1
    ) -> Iterator[Dim]:
        """A sequential loop; yields its variable. `span`: what is known of the variable's range.

        What is hoisted out of a loop that may not run goes into a branch around it.
        """
        nonempty = self.known_less(start, stop)
        if not nonempty:
            self.scopes.append(Scope(guarded=True))
        var = self.fresh(hint)
        self.scopes.append(Scope())
        self.depths[var] = self.depth
        self.ranges[var] = span if span is not None else (start, stop - 1)
        yield sym(var)
        body = self.scopes.pop()
        self.emit(loop.For(var, start, stop, tuple(body.statements), step))
        if not nonempty:
            around = self.scopes.pop()
            alone = len(around.statements) == 1
            inner = tuple(around.statements)
            self.emit(inner[0] if alone else loop.If((stop - start - 1,), inner))

    def known_less(self, a: Dim, b: Dim) -> bool:
        low, _ = bounds(b - a - 1, self.ranges)
        return low is not None and known_at_least(low, 0)


def zero(t: loop.Type) -> loop.Const:
    return loop.Const(False if t.element is DType.BOOL else 0.0 if t.element.is_float else 0, t)
