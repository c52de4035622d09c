"""Two reductions of one row of which the second needs the first, as one fold: the mean and the squared distances from
it, the maximum and the exponentials below it. A row is then read once for both, and what lay between them is not kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mapsto.ir.expr import Dim, floordiv, product, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import (
    Const,
    Iter,
    Kernel,
    Load,
    Op,
    Reduce,
    Reduction,
    Scalar,
    Stmt,
    Tensor,
    Where,
    substitute_iters,
    transform,
    walk,
    with_value,
)
from mapsto.kernel.compose import complexity, index_loads, inline, is_map, reads
from mapsto.kernel.facts import facts
from mapsto.kernel.folds import ElementAt, exponential_sum, moments

# Values that are taken together at a point of a fold, where a row divides so; more do not fit the registers.
_TOGETHER = (8, 4)
# Vectors of a row for each time that lanes are halved at its end: from there on a pass less saves more than it takes to
# merge the states of lanes. (With 16 lanes rows of 24 vectors lost an eighth, those of 48 took as long, those of 64 and
# more gained.)
_FEWEST_VECTORS = 16
# Elements of a row over which a running mean of f32 is good enough: beside values that drift from one end to the other
# it is wrong by 1e-6 of their spread at 5e4 elements, by 4e-6 at 1e5.
_LONGEST_MEAN = 1 << 16
# Operations and loads of a statement: what reads a square of squares of a value many times over is no such pair.
_MOST_OPERATIONS = 160


@dataclass(frozen=True)
class OnePass:
    """A kernel that reads a row once where another reads it twice. `row`: elements of a row, each of `size` bytes."""

    kernel: Kernel
    row: int
    size: int
    exponentials: bool

    def pays(self, lanes: int, far_bytes: int) -> bool:
        """Whether it takes no longer, by what was measured, where so many lanes run along the row. Exponentials, of
        which one pass computes more, take longer than reading a row from anywhere but far away.
        """
        if self.exponentials:
            return self.row * self.size >= far_bytes
        return lanes * _FEWEST_VECTORS * max(math.log2(lanes), 1.0) <= self.row <= _LONGEST_MEAN


@dataclass(frozen=True)
class _Pair:
    """A fold makes both of what one value at a point gives: `first` and `second` are its results. `element`: that
    value, as the second reads it. `level`: how it reads the first.
    """

    exponentials: bool
    first: str
    second: str
    element: Scalar
    level: Load

    def fold(self, iters: tuple[Iter, ...], values: ElementAt, count: int, about: Load, result: str) -> Scalar:
        if self.exponentials:
            return exponential_sum(iters, values, count, result)
        return moments(iters, values, count, about, result)


@functools.lru_cache(maxsize=16)
def in_one_pass(kernel: Kernel) -> OnePass | None:
    """The kernel with its first such pair as a fold; None where there is none, or none over rows that divide."""
    lone = [at for at, s in enumerate(kernel.stmts) if _reduce_of(s) is not None]
    for first in lone[:-1]:
        for second in (at for at in lone if at > first):
            made = _joined(kernel, first, second)
            if made is not None:
                return made
    return None


def _reduce_of(stmt: Stmt) -> Reduce | None:
    """A statement's reduction, where it is the only one and of floats."""
    if not facts(stmt.value).reduces or stmt.index is not None or stmt.scan is not None:
        return None
    found = [node for node in walk(stmt.value) if isinstance(node, Reduction)]
    whole = found[0]
    return whole if len(found) == 1 and isinstance(whole, Reduce) and whole.dtype.is_float else None


def _joined(kernel: Kernel, first: int, second: int) -> OnePass | None:
    one, two = kernel.stmts[first], kernel.stmts[second]
    lies_between = _between(kernel, first, second)
    if lies_between is None:
        return None
    whole = _inlined(two, lies_between)
    pair = None if whole is None else _pair(one, whole)
    if whole is None or pair is None:
        return None
    reduce, before = _reduce_of(whole), _reduce_of(one)
    assert reduce is not None and before is not None
    middle = f"{one.target} about"
    own = Load(middle, tuple(sym(i.name) for i in one.iters), one.dtype)
    about = replace(pair.level, tensor=middle)
    ways = ((before.iters, before.body, own, pair.first), (reduce.iters, pair.element, about, pair.second))
    folds = [_fold(pair, *way) for way in ways]
    if folds[0] is None or folds[1] is None:
        return None
    after = folds[1]
    stmts: list[Stmt] = []
    for at, stmt in enumerate(kernel.stmts):
        if at == first:
            if not pair.exponentials:
                stmts.append(with_value(replace(one, target=middle), _amid(before.iters, before.body)))
            stmts.append(with_value(one, folds[0]))
        elif at == second:
            stmts.append(with_value(two, transform(whole.value, lambda e: after if isinstance(e, Reduce) else None)))
        elif stmt not in lies_between:
            reader = _inlined(stmt, lies_between)
            if reader is None:
                return None
            stmts.append(reader)
    row = product(i.extent for i in reduce.iters)
    assert isinstance(row, int)
    temps = [*kernel.temps]
    if not pair.exponentials:
        temps.append(Tensor(middle, one.dtype, tuple(i.extent for i in one.iters)))
    made = replace(kernel, temps=tuple(temps), stmts=tuple(stmts))
    return OnePass(made, row, one.dtype.size, pair.exponentials)


# ---- what lies between ---------------------------------------------------------------------------------------------


def _between(kernel: Kernel, first: int, second: int) -> list[Stmt] | None:
    """The maps by which the second reduction reads the first; None where somebody else reads the first as well (beside
    infinite elements a fold's mean is not theirs), or one of the maps is not the kernel's own.
    """
    temps = {t.name for t in kernel.temps}
    made = kernel.stmts[first].target
    found: list[Stmt] = []
    for stmt in kernel.stmts[first + 1 : second]:
        if reads(stmt) & {made, *(s.target for s in found)} and is_map(stmt) and stmt.target in temps:
            found.append(stmt)
    names = {made, *(s.target for s in found)}
    targets = [s.target for s in kernel.stmts]
    if made not in temps or any(targets.count(name) != 1 for name in names):
        return None
    needed = names & _reached(kernel.stmts[second], found)
    found = [s for s in found if s.target in needed]
    readers = [s for s in kernel.stmts if made in reads(s) and s not in found and s is not kernel.stmts[second]]
    indexed = any(index_loads(s) & names for s in kernel.stmts)
    return None if readers or indexed else found


def _reached(stmt: Stmt, maps: Sequence[Stmt]) -> set[str]:
    """What a statement reads, directly or by way of maps."""
    found = set(reads(stmt))
    for producer in reversed(maps):
        if producer.target in found:
            found |= reads(producer)
    return found


def _inlined(stmt: Stmt, maps: Sequence[Stmt]) -> Stmt | None:
    """The statement with the maps in the places of their loads; None where it would be too large."""
    for producer in reversed(maps):
        if producer.target in reads(stmt):
            stmt = inline(stmt, producer)
            if complexity(stmt) > _MOST_OPERATIONS:
                return None
    return stmt


# ---- which pair it is ----------------------------------------------------------------------------------------------


def _pair(one: Stmt, two: Stmt) -> _Pair | None:
    """The pair that two statements are, the second as a function of the first's target."""
    before, after = _reduce_of(one), _reduce_of(two)
    if before is None or after is None or after.kind != "sum" or len(before.iters) != len(after.iters):
        return None
    if any(isinstance(node, Where) for e in (before.body, after.body) for node in walk(e)):
        return None
    body = after.body
    if before.kind == "sum" and _is_mean(one, before) and isinstance(body, Op) and body.fn == "mul":
        distance, pair = body.args[0], (False, "mean", "squares")
        if body.args[1] != distance:
            return None
    elif before.kind == "max" and one.value is before and isinstance(body, Op) and body.fn == "exp":
        distance, pair = body.args[0], (True, "max", "sum")
    else:
        return None
    if not isinstance(distance, Op) or distance.fn != "sub":
        return None
    element, level = distance.args
    if not isinstance(level, Load) or level.tensor != one.target or len(level.index) != len(one.iters):
        return None
    there: dict[str, Dim] = {i.name: e for i, e in zip(one.iters, level.index, strict=True)}
    there |= {a.name: sym(b.name) for a, b in zip(before.iters, after.iters, strict=True)}
    same = all(substitute(a.extent, there) == b.extent for a, b in zip(before.iters, after.iters, strict=True))
    if not same or substitute_iters(before.body, there) != element or element.dtype is not one.dtype:
        return None
    return _Pair(*pair, element, level)


def _amid(iters: tuple[Iter, ...], element: Scalar) -> Scalar:
    """The middle one of the first, a central and the last element of a row: one far from all others is not it."""
    last: dict[str, Dim] = {it.name: it.extent - 1 for it in iters}
    middle: dict[str, Dim] = {name: floordiv(at, 2) for name, at in last.items()}
    first: dict[str, Dim] = dict.fromkeys(last, 0)
    a, b, c = (substitute_iters(element, place) for place in (first, middle, last))

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, a.dtype)

    return op("max", op("min", a, b), op("min", op("max", a, b), c))


def _is_mean(stmt: Stmt, reduce: Reduce) -> bool:
    """Whether a statement is a sum over a known number of elements, divided by that number."""
    count = product(i.extent for i in reduce.iters)
    if not isinstance(count, int) or not isinstance(stmt.value, Op) or stmt.value.fn != "div":
        return False
    total, number = stmt.value.args
    return total is reduce and isinstance(number, Const) and number.value == count


# ---- the fold ------------------------------------------------------------------------------------------------------


def _fold(pair: _Pair, iters: tuple[Iter, ...], element: Scalar, about: Load, result: str) -> Scalar | None:
    """The fold over elements of which some, equally far apart, are taken together; None where the row does not divide.

    The outermost iterator that divides is split, so that neighbours stay neighbours.
    """
    if not all(isinstance(it.extent, int) and it.extent > 0 for it in iters):
        return None
    for count in _TOGETHER:
        for at, it in enumerate(iters):
            assert isinstance(it.extent, int)
            if it.extent % count == 0 and it.extent > count:
                part = Iter(it.name, it.extent // count)
                return pair.fold((*iters[:at], part, *iters[at + 1 :]), _parts(element, part), count, about, result)
    return None


def _parts(element: Scalar, part: Iter) -> ElementAt:
    """The values of a point: as far apart as the part is long."""
    return lambda at: substitute_iters(element, {part.name: sym(part.name) + at * part.extent})
