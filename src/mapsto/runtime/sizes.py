"""Many integer expressions evaluated together: each common part once, in straight-line order, and again only what a
symbol changes.

`ir.expr.evaluate` walks one expression; a program of 3000 steps has some ten thousand sizes, most of them equal or
sharing their parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.ir.expr import Atom, Call, Dim, Monomial, Sym, terms_of

_LINEAR, _SCALE, _PRODUCT, _TIMES, _FLOORDIV, _MOD, _MIN, _MAX, _EQUAL, _BROADCAST = range(10)
_FUNCTIONS = {
    "floordiv": _FLOORDIV, "mod": _MOD, "min": _MIN, "max": _MAX, "equal": _EQUAL, "broadcast": _BROADCAST,
}  # fmt: skip

_Instruction = tuple[int, int, Any, Any, int]
"""(function, target, a, b, constant): values[target] = function of places a and b, or of tuples of places.

_LINEAR   constant + sum over places a of value*weight, weights b
_SCALE    constant + value of a * number b
_PRODUCT  of the places a
_TIMES, _FLOORDIV, _MOD, _MIN, _MAX, _EQUAL, _BROADCAST  of the places a and b
"""


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

    @property
    def places(self) -> Mapping[str, int]:
        """Where in a state each symbol's value is."""
        return self._symbols

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
            self._by_symbol[symbol] = [i for i in self._code if symbol in self._reads[i[1]]]
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

    def _emit(self, fn: int, args: tuple[int, ...], a: Any, b: Any = 0, constant: int = 0) -> int:
        target = self._place(0, frozenset().union(*(self._reads[place] for place in args)))
        self._code.append((fn, target, a, b, constant))
        return target

    def _linear(self, parts: list[tuple[int, int]], constant: int) -> int:
        places, weights = zip(*parts, strict=True)
        if len(parts) > 1:
            return self._emit(_LINEAR, places, places, weights, constant)
        if weights == (1,) and constant == 0:
            return int(places[0])
        return self._emit(_SCALE, places, places[0], weights[0], constant)

    def _expr(self, expr: Dim) -> int:
        key = ("expr", expr)
        if key in self._places:
            return self._places[key]
        if isinstance(expr, int):
            place = self._place(expr, frozenset())
        else:
            terms = terms_of(expr)
            constant = sum(c for m, c in terms if not m)
            place = self._linear([(self._monomial(m), c) for m, c in terms if m], constant)
        self._places[key] = place
        return place

    def _monomial(self, monomial: Monomial) -> int:
        if len(monomial) == 1:
            return self._atom(monomial[0])
        if monomial not in self._places:
            args = tuple(self._atom(a) for a in monomial)
            place = self._emit(_TIMES, args, *args) if len(args) == 2 else self._emit(_PRODUCT, args, args)
            self._places[monomial] = place
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
        assert call.fn in _FUNCTIONS, f"{call} is no size"
        args = tuple(self._expr(a) for a in call.args)
        return self._emit(_FUNCTIONS[call.fn], args, *args)


def _execute(code: list[_Instruction], state: list[int]) -> None:
    """Runs at each new size, over every instruction: the most frequent come first."""
    for fn, target, a, b, constant in code:
        if fn == _SCALE:
            state[target] = state[a] * b + constant
        elif fn == _TIMES:
            state[target] = state[a] * state[b]
        elif fn == _LINEAR:
            state[target] = sum([state[p] * w for p, w in zip(a, b, strict=True)], constant)
        elif fn == _PRODUCT:
            state[target] = math.prod([state[p] for p in a])
        elif fn == _MIN:
            state[target] = min(state[a], state[b])
        elif fn == _MAX:
            state[target] = max(state[a], state[b])
        elif fn == _EQUAL:
            state[target] = int(state[a] == state[b])
        elif fn == _BROADCAST:
            state[target] = state[b] if state[a] == 1 else state[a]
        elif state[b] == 0:
            state[target] = 0  # the rule of `ir.expr.evaluate`: an empty extent, nothing is executed there
        else:
            state[target] = state[a] // state[b] if fn == _FLOORDIV else state[a] % state[b]
