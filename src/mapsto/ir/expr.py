"""Integer expressions: the one algebra behind dims, index maps, addresses and extents.

A `Dim` is a Python int or an `Expr`. An `Expr` is a polynomial in canonical form: a sum of integer
coefficients times products of atoms. An atom is a symbol (`Sym`) or an opaque call (`Call`): floor division,
floor modulus, min, max, the two functions of broadcasting, or an element loaded from an integer tensor (a gather's
index). Because the form is canonical, equality of
expressions is equality of values for the polynomial part, and hashing works.

Symbols stand for sizes (>= 0) or loop iterators; `Ranges` says which is which: a symbol with an entry lies in
[lo, hi], both inclusive; a symbol without one is a size, at least 0.

Division and modulus round towards minus infinity (Python's rules), divisors are positive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Union

from mapsto.budget import current

Dim = Union[int, "Expr"]
Ranges = Mapping[str, tuple[Dim, Dim]]

# Products of two sums are charged where they have more terms than this: what is smaller goes by its own callers.
FREE_PRODUCTS = 32


@dataclass(frozen=True)
class Sym:
    """A named integer."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Call:
    """An opaque integer function: `floordiv`, `mod`, `min`, `max`, `equal`, `broadcast`, or `load` (an element of
    `tensor`).
    """

    fn: str
    args: tuple[Dim, ...]
    tensor: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.fn, self.args, self.tensor)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __str__(self) -> str:
        shown = [str(arg) for arg in self.args]
        if self.fn == "floordiv":
            return f"({shown[0]})//({shown[1]})"
        if self.fn == "mod":
            return f"({shown[0]})%({shown[1]})"
        if self.fn == "load":
            return f"{self.tensor}[{', '.join(shown)}]"
        return f"{self.fn}({', '.join(shown)})"


Atom = Sym | Call
Monomial = tuple[Atom, ...]


@functools.lru_cache(maxsize=200_000)
def _key(atom: Atom) -> str:
    return str(atom)


class Expr:
    """A polynomial over atoms with integer coefficients. Immutable; at least one term has an atom."""

    __slots__ = ("terms", "_extent", "_hash", "_names", "_text")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None
        self._names: frozenset[str] | None = None
        self._extent: tuple[int, int] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The symbols in it, those in arguments of calls included."""
        if self._names is None:
            self._names = frozenset(a.name for a in atoms(self) if isinstance(a, Sym))
        return self._names

    @property
    def extent(self) -> tuple[int, int]:
        """(terms and atoms in it, those in arguments of calls included; how deep calls are nested)."""
        if self._extent is None:
            size, depth = len(self.terms), 0
            for monomial, _ in self.terms:
                size += len(monomial)
                for atom in monomial:
                    for arg in atom.args if isinstance(atom, Call) else ():
                        inner, below = arg.extent if isinstance(arg, Expr) else (0, 0)
                        size, depth = size + inner, max(depth, below + 1)
            self._extent = size, depth
        return self._extent

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self._hash == other._hash and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return add(self, mul(other, -1))

    def __rsub__(self, other: Dim) -> Dim:
        return add(other, mul(self, -1))

    def __neg__(self) -> Dim:
        return mul(self, -1)

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic expression {self} is not known; compare with `==` or use `known_*`")

    def __str__(self) -> str:
        if self._text is None:
            self._text = " + ".join(_term_text(m, c) for m, c in self.terms).replace("+ -", "- ")
        return self._text

    __repr__ = __str__


def _term_text(monomial: Monomial, coefficient: int) -> str:
    body = "*".join(_key(a) for a in monomial)
    if not monomial:
        return str(coefficient)
    if coefficient == 1:
        return body
    return f"-{body}" if coefficient == -1 else f"{coefficient}*{body}"


def terms_of(e: Dim) -> tuple[tuple[Monomial, int], ...]:
    """The terms of a dim as (monomial, coefficient); an int has the empty monomial, zero has no terms."""
    if isinstance(e, Expr):
        return e.terms
    return (((), int(e)),) if e else ()


def _order(item: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    return (-len(item[0]), tuple(_key(a) for a in item[0]))


def _make(terms: Mapping[Monomial, int]) -> Dim:
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1:
        return Expr((kept[0],)) if kept[0][0] else kept[0][1]
    kept.sort(key=_order)
    return Expr(tuple(kept))


def _of_atom(atom: Atom) -> Expr:
    return Expr((((atom,), 1),))


def sym(name: str) -> Expr:
    """The symbol `name` as an expression."""
    return _of_atom(Sym(name))


def load(tensor: str, index: Iterable[Dim]) -> Expr:
    """The element of an integer tensor at `index`, as an integer."""
    return _of_atom(Call("load", tuple(index), tensor))


def add(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(b, int):
        return _add_constant(a, b)
    if isinstance(a, int):
        return _add_constant(b, a)
    total: dict[Monomial, int] = dict(terms_of(a))
    for monomial, coefficient in terms_of(b):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _make(total)


def _add_constant(e: Dim, constant: int) -> Dim:
    """The constant is the last term."""
    if not isinstance(e, Expr):
        return int(e) + constant
    terms = e.terms
    if constant == 0:
        return e
    if terms[-1][0]:
        return Expr((*terms, ((), constant)))
    total = terms[-1][1] + constant
    return Expr((*terms[:-1], ((), total))) if total else Expr(terms[:-1])


def mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int) and isinstance(a, Expr):
        if b in (0, 1):
            return a if b else 0
        return Expr(tuple((m, c * b) for m, c in a.terms))
    total: dict[Monomial, int] = {}
    products = len(terms_of(a)) * len(terms_of(b))
    if products > FREE_PRODUCTS:
        current().charge("terms", products, "a product of size expressions")
    for ma, ca in terms_of(a):
        for mb, cb in terms_of(b):
            monomial = tuple(sorted(ma + mb, key=_key)) if ma and mb else ma or mb
            total[monomial] = total.get(monomial, 0) + ca * cb
    return _make(total)


def _divide_monomial(monomial: Monomial, coefficient: int, by: Dim) -> Dim | None:
    """(coefficient * monomial) / by when that is exact, else None; `by` is one term."""
    ((divisor, scale),) = terms_of(by)
    if coefficient % scale:
        return None
    rest = list(monomial)
    for atom in divisor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return _make({tuple(rest): coefficient // scale})


def _split_exact(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """(q, r) with a == q*b + r, where q collects the terms of a that b divides exactly."""
    if len(terms_of(b)) == 1:
        quotient: Dim = 0
        rest: Dim = 0
        for monomial, coefficient in terms_of(a):
            part = _divide_monomial(monomial, coefficient, b)
            if part is None:
                whole = _partial_constant(monomial, coefficient, b)
                quotient = add(quotient, whole)
                rest = add(rest, _make({monomial: coefficient - whole * (b if isinstance(b, int) else 0)}))
            else:
                quotient = add(quotient, part)
        return quotient, rest
    # a divisor of several terms: only a literal multiple of it, or it times one monomial, is split off
    for monomial, _ in terms_of(a):
        lead = terms_of(b)[0]
        part = _divide_monomial(monomial, dict(terms_of(a))[monomial], _make({lead[0]: lead[1]}))
        if part is None:
            continue
        remainder = add(a, mul(mul(part, b), -1))
        if len(terms_of(remainder)) <= len(terms_of(a)) - len(terms_of(b)):
            more, rest = _split_exact(remainder, b) if remainder != 0 else (0, 0)
            return add(part, more), rest
    return 0, a


def _partial_constant(monomial: Monomial, coefficient: int, b: Dim) -> int:
    """Whole multiples of an int divisor in a coefficient: 37 = 2*16 + 5, so that (37*x)//16 sees 5*x."""
    if not isinstance(b, int) or monomial:
        return 0
    return coefficient // b


def floordiv(a: Dim, b: Dim) -> Dim:
    """Floor division; `b` is positive wherever it is evaluated."""
    if isinstance(b, int) and b <= 0:
        raise ZeroDivisionError(f"division of {a} by {b}")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    quotient, rest = _split_exact(a, b)
    if rest == 0:
        return quotient
    if isinstance(b, int) and isinstance(rest, int):
        return add(quotient, rest // b)
    inner = _sole_call(rest, "floordiv")
    if inner is not None:  # (x // m) // n == x // (m*n) for positive m, n
        return add(quotient, floordiv(inner.args[0], mul(inner.args[1], b)))
    return add(quotient, _of_atom(Call("floordiv", (rest, b))))


def mod(a: Dim, b: Dim) -> Dim:
    """Floor modulus, in [0, b); `b` is positive wherever it is evaluated."""
    if isinstance(b, int) and b <= 0:
        raise ZeroDivisionError(f"modulus of {a} by {b}")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if b == 1:
        return 0
    _, rest = _split_exact(a, b)
    if isinstance(rest, int) and isinstance(b, int):
        return rest % b
    if rest == 0:
        return 0
    inner = _sole_call(rest, "mod")
    if inner is not None and inner.args[1] == b:
        return rest
    return _of_atom(Call("mod", (rest, b)))


def _sole_call(e: Dim, fn: str) -> Call | None:
    if isinstance(e, Expr) and len(e.terms) == 1:
        monomial, coefficient = e.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], Call) and monomial[0].fn == fn:
            return monomial[0]
    return None


def _extreme(fn: str, pick: Callable[..., int], a: Dim, b: Dim) -> Dim:
    difference = add(a, mul(b, -1))
    if isinstance(difference, int):
        return a if pick(difference, 0) == difference else b
    first, second = sorted((a, b), key=str)
    return _of_atom(Call(fn, (first, second)))


def minimum(a: Dim, b: Dim) -> Dim:
    return _extreme("min", min, a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    return _extreme("max", max, a, b)


def equal(a: Dim, b: Dim) -> Dim:
    """1 where a == b, else 0."""
    difference = add(a, mul(b, -1))
    if isinstance(difference, int):
        return int(difference == 0)
    if known_at_least(difference, 1) or known_at_least(mul(difference, -1), 1):
        return 0
    first, second = sorted((a, b), key=str)
    return _of_atom(Call("equal", (first, second)))


def broadcast(a: Dim, b: Dim) -> Dim:
    """The extent that two extents broadcast to: the other one where one is 1. They are taken to fit: equal, or one of
    them 1; so the order of many does not matter, nor how often one is named.
    """
    extents = sorted({*broadcast_extents(a), *broadcast_extents(b)} - {1}, key=str)
    number = next((e for e in extents if isinstance(e, int)), None)
    if number is not None or not extents:
        return 1 if number is None else number
    *rest, result = extents
    for extent in reversed(rest):
        result = _of_atom(Call("broadcast", (extent, result)))
    return result


def broadcast_extents(e: Dim) -> tuple[Dim, ...]:
    """The extents that were broadcast together to give `e`; itself where it is no broadcast."""
    call = _sole_call(e, "broadcast")
    return (e,) if call is None else tuple(part for arg in call.args for part in broadcast_extents(arg))


def equality(a: Dim, b: Dim) -> Dim:
    """An expression that is at least 0 exactly where a == b."""
    difference = add(a, mul(b, -1))
    return minimum(difference, mul(difference, -1))


def ceildiv(a: Dim, b: Dim) -> Dim:
    return floordiv(add(a, add(b, -1)), b)


def round_up(a: Dim, b: int) -> Dim:
    return mul(ceildiv(a, b), b)


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for dim in dims:
        total = mul(total, dim)
    return total


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
    total: Dim = 0
    for monomial, coefficient in e.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = mul(term, _rebuild_atom(atom, leaf, call))
        total = add(total, term)
    return total


def _rebuild_atom(
    atom: Atom, leaf: Callable[[Atom], Dim | None], call: Callable[[Call, tuple[Dim, ...]], Dim | None] | None
) -> Dim:
    replaced = leaf(atom)
    if replaced is not None:
        return replaced
    if isinstance(atom, Sym):
        return _of_atom(atom)
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


def atoms(e: Dim) -> Iterable[Atom]:
    """Every atom, the arguments of calls included."""
    if isinstance(e, Expr):
        for monomial, _ in e.terms:
            for atom in monomial:
                yield atom
                if isinstance(atom, Call):
                    for arg in atom.args:
                        yield from atoms(arg)


def symbols(e: Dim) -> set[str]:
    return set(e.names) if isinstance(e, Expr) else set()


def loads(e: Dim) -> set[str]:
    """Names of the tensors that an expression loads from."""
    return {a.tensor for a in atoms(e) if isinstance(a, Call) and a.fn == "load"}


def evaluate(
    e: Dim, values: Mapping[str, int], load_element: Callable[[str, tuple[int, ...]], int] | None = None
) -> int:
    """The number that an expression stands for. Raises KeyError for a symbol without a value."""
    if isinstance(e, int):
        return e
    total = 0
    for monomial, coefficient in e.terms:
        term = coefficient
        for atom in monomial:
            term *= _evaluate_atom(atom, values, load_element)
        total += term
    return total


def _evaluate_atom(
    atom: Atom, values: Mapping[str, int], load_element: Callable[[str, tuple[int, ...]], int] | None
) -> int:
    if isinstance(atom, Sym):
        return int(values[atom.name])
    args = tuple(evaluate(arg, values, load_element) for arg in atom.args)
    if atom.fn == "load":
        assert load_element is not None, f"{atom} cannot be evaluated without its tensor"
        return int(load_element(atom.tensor, args))
    if atom.fn in ("floordiv", "mod") and args[1] == 0:
        return 0  # an empty extent: nothing is executed at this index
    return int(_EVALUATE[atom.fn](*args))


_EVALUATE: dict[str, Callable[..., int]] = {
    "floordiv": int.__floordiv__, "mod": int.__mod__, "min": min, "max": max, "equal": lambda a, b: int(a == b),
    "broadcast": lambda a, b: b if a == 1 else a,
}  # fmt: skip


def linear(e: Dim, name: str) -> tuple[Dim, Dim] | None:
    """(coefficient, rest) with e == coefficient*name + rest, both free of `name`; None where e is not linear in it."""
    coefficient: Dim = 0
    rest: Dim = 0
    target = Sym(name)
    for monomial, c in terms_of(e):
        count = monomial.count(target)
        others = tuple(a for a in monomial if a != target)
        if count > 1 or any(isinstance(a, Call) and name in symbols(_of_atom(a)) for a in others):
            return None
        if count == 1:
            coefficient = add(coefficient, _make({others: c}))
        else:
            rest = add(rest, _make({monomial: c}))
    return coefficient, rest


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
        own = _of_atom(atom)
        return own, own
    if not any(s in ranges for s in symbols(_of_atom(atom))) and not loads(_of_atom(atom)):
        own = _of_atom(atom)
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
        rest = add(e, _make({monomial: -coefficient}))
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


def known_in(e: Dim, extent: Dim, ranges: Ranges) -> bool:
    """Whether 0 <= e < extent is proved under `ranges`."""
    low, high = bounds(e, ranges)
    if low is None or high is None or not known_at_least(low, 0):
        return False
    return known_at_least(add(add(extent, -1), mul(high, -1)), 0)


def simplify(e: Dim, ranges: Ranges) -> Dim:
    """Rewrite divisions, moduli, min and max that the ranges decide: with 0 <= r < b, (q*b + r)//b == q and (q*b +
    r)%b == r.
    """
    if isinstance(e, int):
        return e
    return rebuild(e, lambda atom: None, lambda call, args: _simplify_call(call, args, ranges))


def _simplify_call(call: Call, args: tuple[Dim, ...], ranges: Ranges) -> Dim | None:
    if call.fn in ("load", "equal", "broadcast"):
        return None
    a, b = args
    if call.fn in ("floordiv", "mod"):
        quotient, rest = _split_exact(a, b)
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
            outer = add(outer, _make({monomial: coefficient // k}))
        else:
            inner = add(inner, _make({monomial: coefficient}))
    return inner, outer
