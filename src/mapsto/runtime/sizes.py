"""Many integer expressions evaluated together: each common part once, in straight-line order, and again only what a
symbol changes.

`ir.expr.evaluate` walks one expression; a program of 3000 steps has some ten thousand sizes, most of them equal or
sharing their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.ir.expr import Atom, Call, Dim, Monomial, Sym, terms_of

_LINEAR, _PRODUCT, _FLOORDIV, _MOD, _MIN, _MAX = range(6)


@dataclass(frozen=True)
class _Instruction:
    """values[target] = fn(values[args]); `_LINEAR` adds `constant` and weighs its arguments with `weights`."""

    fn: int
    target: int
    args: tuple[int, ...]
    weights: tuple[int, ...] = ()
    constant: int = 0


class SizeTape:
    """Straight-line code for a set of expressions; a symbol without a value counts as 0."""

    def __init__(self, exprs: Iterable[Dim]) -> None:
        self._initial: list[int] = []  # constants and places for results
        self._places: dict[Atom | Monomial | tuple[str, Dim], int] = {}
        self._code: list[_Instruction] = []
        self._reads: list[frozenset[str]] = []  # place -> symbols that its value depends on
        self._symbols: dict[str, int] = {}
        self.index: dict[Dim, int] = {}
        """Where the value of an expression is in the result of `evaluate`."""
        roots: list[int] = []
        for expr in exprs:
            if expr not in self.index:
                self.index[expr] = len(roots)
                roots.append(self._expr(expr))
        self._roots = roots
        self._by_symbol: dict[str, list[_Instruction]] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._symbols)

    def start(self, values: Mapping[str, int]) -> list[int]:
        """The state of the tape for these values of the symbols; `result` reads it."""
        state = list(self._initial)
        for name, place in self._symbols.items():
            state[place] = values.get(name, 0)
        _execute(self._code, state)
        return state

    def changed(self, state: list[int], symbol: str, value: int) -> list[int]:
        """A new state in which `symbol` has another value."""
        if symbol not in self._symbols:
            return state
        if symbol not in self._by_symbol:
            self._by_symbol[symbol] = [i for i in self._code if symbol in self._reads[i.target]]
        state = list(state)
        state[self._symbols[symbol]] = value
        _execute(self._by_symbol[symbol], state)
        return state

    def result(self, state: list[int]) -> np.ndarray:
        """All values, at the places that `index` names. Raises ExecutionError for one beyond 64 bits."""
        try:
            return np.array([state[root] for root in self._roots], np.int64)
        except OverflowError:
            raise ExecutionError("the sizes of this run do not fit into 64 bits") from None

    # -- building ------------------------------------------------------------------------------------------------------

    def _place(self, initial: int, reads: frozenset[str]) -> int:
        self._initial.append(initial)
        self._reads.append(reads)
        return len(self._initial) - 1

    def _emit(self, fn: int, args: tuple[int, ...], weights: tuple[int, ...] = (), constant: int = 0) -> int:
        target = self._place(0, frozenset().union(*(self._reads[a] for a in args)))
        self._code.append(_Instruction(fn, target, args, weights, constant))
        return target

    def _expr(self, expr: Dim) -> int:
        key = ("expr", expr)
        if key in self._places:
            return self._places[key]
        if isinstance(expr, int):
            place = self._place(expr, frozenset())
        else:
            terms = terms_of(expr)
            constant = sum(c for m, c in terms if not m)
            parts = tuple((self._monomial(m), c) for m, c in terms if m)
            if len(parts) == 1 and parts[0][1] == 1 and constant == 0:
                place = parts[0][0]
            else:
                place = self._emit(_LINEAR, tuple(p for p, _ in parts), tuple(c for _, c in parts), constant)
        self._places[key] = place
        return place

    def _monomial(self, monomial: Monomial) -> int:
        if len(monomial) == 1:
            return self._atom(monomial[0])
        if monomial not in self._places:
            self._places[monomial] = self._emit(_PRODUCT, tuple(self._atom(a) for a in monomial))
        return self._places[monomial]

    def _atom(self, atom: Atom) -> int:
        if atom in self._places:
            return self._places[atom]
        if isinstance(atom, Sym):
            place = self._symbols[atom.name] = self._place(0, frozenset({atom.name}))
        else:
            place = self._call(atom)
        self._places[atom] = place
        return place

    def _call(self, call: Call) -> int:
        functions = {"floordiv": _FLOORDIV, "mod": _MOD, "min": _MIN, "max": _MAX}
        assert call.fn in functions, f"{call} is no size"
        return self._emit(functions[call.fn], tuple(self._expr(a) for a in call.args))


def _execute(code: list[_Instruction], state: list[int]) -> None:
    for instruction in code:
        fn, args = instruction.fn, instruction.args
        if fn == _LINEAR:
            total = instruction.constant
            for place, weight in zip(args, instruction.weights, strict=True):
                total += weight * state[place]
        elif fn == _PRODUCT:
            total = 1
            for place in args:
                total *= state[place]
        else:
            total = _binary(fn, state[args[0]], state[args[1]])
        state[instruction.target] = total


def _binary(fn: int, a: int, b: int) -> int:
    if fn == _MIN:
        return min(a, b)
    if fn == _MAX:
        return max(a, b)
    if b == 0:
        return 0  # the rule of `ir.expr.evaluate`: an empty extent, nothing is executed there
    return a // b if fn == _FLOORDIV else a % b
