"""Integer expressions: the one algebra behind dims, index maps, addresses and extents.

A `Dim` is a Python int or an `Expr`. An `Expr` is a polynomial in canonical form: a sum of integer
coefficients times products of atoms. An atom is a symbol (`Sym`) or an opaque call (`Call`): floor division,
floor modulus, min, max, the two functions of broadcasting, or an element loaded from an integer tensor (a gather's
index). Because the form is canonical, equality of expressions is equality of values for the polynomial part, and
hashing works.

Symbols stand for sizes (>= 0) or loop iterators. What is proved of their values stands in `expr_proofs`, what is
rewritten for their sake in `expr_rewrite`; here are the data and the arithmetic that keeps the form canonical.

Division and modulus round towards minus infinity (Python's rules), divisors are positive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar, Union

from mapsto.budget import current

T = TypeVar("T")
Dim = Union[int, "Expr"]

# Products of two sums are charged where they have more terms than this: what is smaller goes by its own callers.
FREE_PRODUCTS = 32


class Sym:
    """A named integer. There is one of each name, so that comparing and hashing two, which is most of what arithmetic
    on expressions does, is looking whether they are the same.
    """

    __slots__ = ("name",)
    name: str
    _all: ClassVar[dict[str, Sym]] = {}

    def __new__(cls, name: str) -> Sym:
        found = cls._all.get(name)
        if found is None:
            made = object.__new__(cls)
            made.name = name
            found = cls._all.setdefault(name, made)  # of two threads at once, one has it
        return found

    def __reduce__(self) -> tuple[type[Sym], tuple[str]]:
        return Sym, (self.name,)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Sym({self.name!r})"


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

    def __reduce__(self) -> tuple[type[Call], tuple[str, tuple[Dim, ...], str]]:
        return Call, (self.fn, self.args, self.tensor)  # its hash is this process's own

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

    def __reduce__(self) -> tuple[type[Expr], tuple[tuple[tuple[Monomial, int], ...]]]:
        return Expr, (self.terms,)  # its hash is this process's own

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


@functools.lru_cache(maxsize=200_000)
def _place(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    return (-len(monomial), tuple([_key(a) for a in monomial]))


def _order(item: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    return _place(item[0])


def of_terms(terms: Mapping[Monomial, int]) -> Dim:
    """The sum of coefficients times monomials whose atoms are sorted."""
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1:
        return Expr((kept[0],)) if kept[0][0] else kept[0][1]
    kept.sort(key=_order)
    return Expr(tuple(kept))


def of_atom(atom: Atom) -> Expr:
    """An atom as an expression."""
    return Expr((((atom,), 1),))


@functools.lru_cache(maxsize=10_000)
def sym(name: str) -> Expr:
    """The symbol `name` as an expression."""
    return of_atom(Sym(name))


def load(tensor: str, index: Iterable[Dim]) -> Expr:
    """The element of an integer tensor at `index`, as an integer."""
    return of_atom(Call("load", tuple(index), tensor))


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
    return of_terms(total)


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
    return of_terms(total)


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
    return of_terms({tuple(rest): coefficient // scale})


def split_exact(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """(q, r) with a == q*b + r, where q collects the terms of a that b divides exactly."""
    if len(terms_of(b)) == 1:
        quotient: Dim = 0
        rest: Dim = 0
        for monomial, coefficient in terms_of(a):
            part = _divide_monomial(monomial, coefficient, b)
            if part is None:
                whole = _partial_constant(monomial, coefficient, b)
                quotient = add(quotient, whole)
                rest = add(rest, of_terms({monomial: coefficient - whole * (b if isinstance(b, int) else 0)}))
            else:
                quotient = add(quotient, part)
        return quotient, rest
    # a divisor of several terms: only a literal multiple of it, or it times one monomial, is split off
    for monomial, _ in terms_of(a):
        lead = terms_of(b)[0]
        part = _divide_monomial(monomial, dict(terms_of(a))[monomial], of_terms({lead[0]: lead[1]}))
        if part is None:
            continue
        remainder = add(a, mul(mul(part, b), -1))
        if len(terms_of(remainder)) <= len(terms_of(a)) - len(terms_of(b)):
            more, rest = split_exact(remainder, b) if remainder != 0 else (0, 0)
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
    quotient, rest = split_exact(a, b)
    if rest == 0:
        return quotient
    if isinstance(b, int) and isinstance(rest, int):
        return add(quotient, rest // b)
    inner = _sole_call(rest, "floordiv")
    if inner is not None:  # (x // m) // n == x // (m*n) for positive m, n
        return add(quotient, floordiv(inner.args[0], mul(inner.args[1], b)))
    return add(quotient, of_atom(Call("floordiv", (rest, b))))


def mod(a: Dim, b: Dim) -> Dim:
    """Floor modulus, in [0, b); `b` is positive wherever it is evaluated."""
    if isinstance(b, int) and b <= 0:
        raise ZeroDivisionError(f"modulus of {a} by {b}")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if b == 1:
        return 0
    _, rest = split_exact(a, b)
    if isinstance(rest, int) and isinstance(b, int):
        return rest % b
    if rest == 0:
        return 0
    inner = _sole_call(rest, "mod")
    if inner is not None and inner.args[1] == b:
        return rest
    return of_atom(Call("mod", (rest, b)))


def sole_atom(e: Dim) -> Atom | None:
    """The atom that an expression consists of."""
    if isinstance(e, Expr) and len(e.terms) == 1:
        monomial, coefficient = e.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            return monomial[0]
    return None


def bare_symbol(e: Dim) -> str | None:
    """The name of the symbol that an expression consists of."""
    atom = sole_atom(e)
    return atom.name if isinstance(atom, Sym) else None


def _sole_call(e: Dim, fn: str) -> Call | None:
    atom = sole_atom(e)
    return atom if isinstance(atom, Call) and atom.fn == fn else None


def _extreme(fn: str, pick: Callable[..., int], a: Dim, b: Dim) -> Dim:
    difference = add(a, mul(b, -1))
    if isinstance(difference, int):
        return a if pick(difference, 0) == difference else b
    first, second = sorted((a, b), key=str)
    return of_atom(Call(fn, (first, second)))


def minimum(a: Dim, b: Dim) -> Dim:
    return _extreme("min", min, a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    return _extreme("max", max, a, b)


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
        result = of_atom(Call("broadcast", (extent, result)))
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


def split_sum(e: Dim, term: Callable[[tuple[Atom, ...], int], T | int]) -> tuple[list[T], int]:
    """The terms of an expression, each as `term` makes it of a monomial and its coefficient: those that are no numbers,
    in order, and the sum of those that are.
    """
    found: list[T] = []
    constant = 0
    for monomial, coefficient in terms_of(e):
        value = term(monomial, coefficient)
        if isinstance(value, int):
            constant += value
        else:
            found.append(value)
    return found, constant


class Linear(NamedTuple):
    """coefficient*name + rest, both free of the name."""

    coefficient: Dim
    rest: Dim


def linear(e: Dim, name: str) -> Linear | None:
    """The expression as one that is linear in a name; None where it is not."""
    coefficient: Dim = 0
    rest: Dim = 0
    target = Sym(name)
    for monomial, c in terms_of(e):
        count = monomial.count(target)
        others = tuple(a for a in monomial if a != target)
        if count > 1 or any(isinstance(a, Call) and name in symbols(of_atom(a)) for a in others):
            return None
        if count == 1:
            coefficient = add(coefficient, of_terms({others: c}))
        else:
            rest = add(rest, of_terms({monomial: c}))
    return Linear(coefficient, rest)


class HalfLine(NamedTuple):
    """The integers from `start` on, or those before `stop`; the other one is None."""

    start: Dim | None
    stop: Dim | None


def half_line(coefficient: Dim, rest: Dim) -> HalfLine | None:
    """Where coefficient*n + rest >= 0; None where the coefficient is 0 or no number."""
    if not isinstance(coefficient, int) or coefficient == 0:
        return None
    if coefficient > 0:
        return HalfLine(ceildiv(-rest, coefficient), None)
    return HalfLine(None, floordiv(rest, -coefficient) + 1)
