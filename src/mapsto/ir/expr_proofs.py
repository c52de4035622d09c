"""What is proved of integer expressions: bounds from the ranges of iterators, and inequalities for all sizes.

`Ranges` says which symbols are iterators: one with an entry lies in [lo, hi], both inclusive; one without is a size, at
least 0. A proof that is not found within its steps counts as none: False and None mean "not proved".
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from mapsto.ir.expr import (
    Atom,
    Call,
    Dim,
    Expr,
    Monomial,
    Sym,
    add,
    floordiv,
    loads,
    maximum,
    minimum,
    mul,
    of_atom,
    of_terms,
    symbols,
    terms_of,
)

Ranges = Mapping[str, tuple[Dim, Dim]]


@functools.lru_cache(maxsize=200_000)
def known_at_least(e: Dim, least: int) -> bool:
    """Whether `e >= least` for every value of its size symbols (each at least 0); False where it is not proved."""
    return e >= least if isinstance(e, int) else _Proof().holds(e, least)


# The most expressions that one proof looks at. What takes more counts as not proved: a sum of n minima could be taken
# apart in 3^n ways.
_PROOF_STEPS = 500


class _Proof:
    """One proof that an expression is at least some number, with what it has found out on the way."""

    def __init__(self) -> None:
        self.found: dict[tuple[Dim, int], bool] = {}

    def holds(self, e: Dim, least: int) -> bool:
        if isinstance(e, int):
            return e >= least
        key = (e, least)
        if key not in self.found:
            if len(self.found) >= _PROOF_STEPS:
                return False
            self.found[key] = False  # while it is being looked at; no proof leans on itself
            self.found[key] = self._plainly(e, least) or any(
                all(self.holds(case, 0) for case in cases) for cases in _bounding_cases(add(e, -least))
            )
        return self.found[key]

    def _plainly(self, e: Expr, least: int) -> bool:
        """Whether every term but the constant is at least 0, and the constant at least `least`."""
        constant = e.terms[-1][1] if not e.terms[-1][0] else 0
        if constant < least or any(coefficient < 0 for monomial, coefficient in e.terms if monomial):
            return False
        return all(self._nonnegative(atom) for monomial, _ in e.terms for atom in monomial)

    def _nonnegative(self, atom: Atom) -> bool:
        if isinstance(atom, Sym) or atom.fn in ("mod", "equal"):
            return True
        if atom.fn == "floordiv":
            return self.holds(atom.args[0], 0)
        if atom.fn == "max":
            return any(self.holds(arg, 0) for arg in atom.args)
        return atom.fn in ("min", "broadcast") and all(self.holds(arg, 0) for arg in atom.args)


def _bounding_cases(e: Dim) -> Iterable[tuple[Dim, ...]]:
    """Ways to show that `e` is at least 0: each a tuple of expressions, free of one call of `e`, that must all be.

    c*max(a, b) >= c*a and >= c*b; -c*min(a, b) >= -c*a and >= -c*b; either, and broadcast(a, b), is one of its
    arguments in any case.
    a - n + 1 <= n*floor(a/n) <= a.
    """
    for monomial, coefficient in terms_of(e):
        if len(monomial) != 1 or not isinstance(monomial[0], Call):
            continue
        call = monomial[0]
        rest = add(e, of_terms({monomial: -coefficient}))
        if call.fn in ("min", "max", "broadcast"):
            first, second = (add(rest, mul(arg, coefficient)) for arg in call.args)
            if call.fn != "broadcast" and (coefficient > 0) == (call.fn == "max"):
                yield (first,)
                yield (second,)
            yield (first, second)
        elif call.fn == "floordiv" and isinstance(call.args[1], int):
            a, n = call.args[0], call.args[1]
            assert isinstance(n, int)
            bound = a if coefficient < 0 else add(a, 1 - n)
            yield (add(mul(rest, n), mul(bound, coefficient)),)


def equal(a: Dim, b: Dim) -> Dim:
    """1 where a == b, else 0; a number where that is proved either way."""
    difference = add(a, mul(b, -1))
    if isinstance(difference, int):
        return int(difference == 0)
    if known_at_least(difference, 1) or known_at_least(mul(difference, -1), 1):
        return 0
    first, second = sorted((a, b), key=str)
    return of_atom(Call("equal", (first, second)))


def bounds(e: Dim, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    """(lowest, highest) value of `e` as expressions over sizes alone; None where no bound is known."""
    low: Dim | None = 0
    high: Dim | None = 0
    for monomial, coefficient in terms_of(e):
        lo, hi = _monomial_bounds(monomial, ranges)
        if coefficient < 0:
            lo, hi = hi, lo
        low = None if low is None or lo is None else add(low, mul(lo, coefficient))
        high = None if high is None or hi is None else add(high, mul(hi, coefficient))
    return low, high


def _monomial_bounds(monomial: Monomial, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    low: Dim | None = 1
    high: Dim | None = 1
    for atom in monomial:
        lo, hi = _atom_bounds(atom, ranges)
        if len(monomial) > 1 and (lo is None or not known_at_least(lo, 0)):
            return None, None
        low = None if low is None or lo is None else mul(low, lo)
        high = None if high is None or hi is None else mul(high, hi)
    return low, high


def _atom_bounds(atom: Atom, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    if isinstance(atom, Sym):
        if atom.name in ranges:
            return ranges[atom.name]
        own = of_atom(atom)
        return own, own
    if not any(s in ranges for s in symbols(of_atom(atom))) and not loads(of_atom(atom)):
        own = of_atom(atom)
        return own, own
    if atom.fn == "equal":
        return 0, 1
    if atom.fn in ("load", "broadcast"):
        return None, None
    (a_lo, a_hi), (b_lo, b_hi) = (bounds(arg, ranges) for arg in atom.args)
    if atom.fn == "mod":
        return 0, None if b_hi is None else add(b_hi, -1)
    if atom.fn == "floordiv":
        if b_lo is None or b_lo != b_hi:
            return (0 if a_lo is not None and known_at_least(a_lo, 0) else None), None
        return (None if a_lo is None else floordiv(a_lo, b_lo)), (None if a_hi is None else floordiv(a_hi, b_lo))
    if atom.fn == "min":
        return (
            None if a_lo is None or b_lo is None else minimum(a_lo, b_lo)
        ), b_hi if a_hi is None else a_hi if b_hi is None else minimum(a_hi, b_hi)
    return b_lo if a_lo is None else a_lo if b_lo is None else maximum(a_lo, b_lo), (
        None if a_hi is None or b_hi is None else maximum(a_hi, b_hi)
    )


def known_in(e: Dim, extent: Dim, ranges: Ranges) -> bool:
    """Whether 0 <= e < extent is proved under `ranges`."""
    low, high = bounds(e, ranges)
    if low is None or high is None or not known_at_least(low, 0):
        return False
    return known_at_least(add(add(extent, -1), mul(high, -1)), 0)
