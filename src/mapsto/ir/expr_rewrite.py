"""Integer expressions rewritten: symbols and loads replaced, and calls that the ranges of iterators decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mapsto.ir.expr import (
    Atom,
    Call,
    Dim,
    Expr,
    Monomial,
    Sym,
    add,
    broadcast,
    floordiv,
    load,
    maximum,
    minimum,
    mod,
    mul,
    of_atom,
    of_terms,
    split_exact,
    terms_of,
)
from mapsto.ir.expr_proofs import Ranges, bounds, equal, known_at_least, known_in

_BUILD: dict[str, Callable[[Dim, Dim], Dim]] = {
    "floordiv": floordiv, "mod": mod, "min": minimum, "max": maximum, "equal": equal, "broadcast": broadcast,
}  # fmt: skip


def rebuild(
    e: Dim, leaf: Callable[[Atom], Dim | None], call: Callable[[Call, tuple[Dim, ...]], Dim | None] | None = None
) -> Dim:
    """Rewrite an expression from its atoms up.

    `leaf(atom)` may replace any atom (None: keep it); `call(atom, args)` may replace a call after its arguments were
    rewritten.
    """
    if isinstance(e, int):
        return e
    total: dict[Monomial, int] = {}
    for monomial, coefficient in e.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = mul(term, _rebuild_atom(atom, leaf, call))
        for key, count in terms_of(term):
            total[key] = total.get(key, 0) + count
    return of_terms(total)


def _rebuild_atom(
    atom: Atom, leaf: Callable[[Atom], Dim | None], call: Callable[[Call, tuple[Dim, ...]], Dim | None] | None
) -> Dim:
    replaced = leaf(atom)
    if replaced is not None:
        return replaced
    if isinstance(atom, Sym):
        return of_atom(atom)
    args = tuple(rebuild(arg, leaf, call) for arg in atom.args)
    if call is not None:
        result = call(atom, args)
        if result is not None:
            return result
    if atom.fn == "load":
        return load(atom.tensor, args)
    return _BUILD[atom.fn](args[0], args[1])


def substitute(e: Dim, values: Mapping[str, Dim]) -> Dim:
    """Replace symbols by name."""
    if isinstance(e, int) or not values or e.names.isdisjoint(values):
        return e
    return rebuild(e, lambda atom: values.get(atom.name) if isinstance(atom, Sym) else None)


def rename_loads(e: Dim, names: Mapping[str, str]) -> Dim:
    """Replace the names of loaded tensors."""
    if isinstance(e, int):
        return e
    return rebuild(
        e, lambda a: None, lambda c, args: load(names.get(c.tensor, c.tensor), args) if c.fn == "load" else None
    )


def simplify(e: Dim, ranges: Ranges) -> Dim:
    """Rewrite divisions, moduli, min and max that the ranges decide: with 0 <= r < b, (q*b + r)//b == q and (q*b +
    r)%b == r.
    """
    if isinstance(e, int):
        return e
    return rebuild(e, lambda atom: None, lambda call, args: _simplify_call(call, args, ranges))


def rejoined(e: Dim) -> Dim:
    """x where an expression has it as n * (x//n) + x mod n, as the index of an axis that was cut in two has it."""
    if isinstance(e, int):
        return e
    for monomial, coefficient in e.terms:
        for atom in monomial:
            if not isinstance(atom, Call) or atom.fn != "mod":
                continue
            x, n = atom.args
            scale = of_terms({_without(monomial, atom): coefficient})
            parts = add(mul(scale, of_atom(atom)), mul(scale, mul(n, floordiv(x, n))))
            left = add(e, mul(parts, -1))
            if len(terms_of(left)) == len(e.terms) - len(terms_of(parts)):
                return rejoined(add(left, mul(scale, x)))
    return e


def _without(monomial: Monomial, atom: Atom) -> Monomial:
    """A product without one of its factors."""
    at = monomial.index(atom)
    return (*monomial[:at], *monomial[at + 1 :])


def _simplify_call(call: Call, args: tuple[Dim, ...], ranges: Ranges) -> Dim | None:
    if call.fn in ("load", "equal", "broadcast"):
        return None
    a, b = args
    if call.fn in ("floordiv", "mod"):
        quotient, rest = split_exact(a, b)
        if not isinstance(rest, int) and known_in(rest, b, ranges):
            return quotient if call.fn == "floordiv" else rest
        if isinstance(rest, int) and rest != 0 and known_at_least(add(b, -1 - rest), 0) and rest > 0:
            return quotient if call.fn == "floordiv" else rest
        return _split_range(call.fn, quotient, rest, b, ranges)
    low, high = bounds(add(a, mul(b, -1)), ranges)
    if low is not None and known_at_least(low, 0):
        return b if call.fn == "min" else a
    if high is not None and known_at_least(mul(high, -1), 0):
        return a if call.fn == "min" else b
    return None


def _split_range(fn: str, quotient: Dim, rest: Dim, b: Dim, ranges: Ranges) -> Dim | None:
    """(k*u + v) // (k*m) == u // m when 0 <= v < k: a merged axis divided by a multiple of its inner part."""
    if not isinstance(b, int) or isinstance(rest, int):
        return None
    for k in sorted({abs(c) for m, c in rest.terms if m and abs(c) > 1 and b % abs(c) == 0}, reverse=True):
        inner, outer = _partition_multiples(rest, k)
        if k == b or outer == 0 or not known_in(inner, k, ranges):
            continue
        coarse = simplify(floordiv(outer, b // k), ranges) if fn == "floordiv" else None
        if fn == "floordiv":
            assert coarse is not None
            return add(quotient, coarse)
        return add(mul(simplify(mod(outer, b // k), ranges), k), inner)
    return None


def _partition_multiples(e: Expr, k: int) -> tuple[Dim, Dim]:
    """(inner, outer) with e == outer*k + inner."""
    inner: Dim = 0
    outer: Dim = 0
    for monomial, coefficient in e.terms:
        if coefficient % k == 0:
            outer = add(outer, of_terms({monomial: coefficient // k}))
        else:
            inner = add(inner, of_terms({monomial: coefficient}))
    return inner, outer
