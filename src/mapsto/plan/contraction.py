"""Recognises contractions by their form: a sum of products of two loads, whatever op it came from.

    target[batch, row, col] = around( sum[red] A[batch, row, red] * B[batch, col, red] )

An iterator is told by where it occurs: in A and B and the target it is a batch (or group) iterator, in A and the target
a row, in B and the target a column, in A and B a reduction. `window` reductions occur in A together with a row (y+i);
the channel reduction does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import (
    Call,
    Dim,
    Monomial,
    add,
    atoms,
    floordiv,
    linear,
    loads,
    mul,
    sole_atom,
    sym,
    symbols,
    terms_of,
)
from mapsto.ir.expr_proofs import Ranges, bounds
from mapsto.ir.expr_rewrite import simplify, substitute
from mapsto.kernel.ast import (
    Cast,
    Const,
    Iter,
    Load,
    Op,
    Reduce,
    Reduction,
    Scalar,
    Stmt,
    Where,
    ranges_of,
    simplify_scalar,
    substitute_iters,
    transform,
    walk,
)
from mapsto.kernel.blocks import integer_of
from mapsto.kernel.products import accumulator_of, widens
from mapsto.plan.traits import Traits


@dataclass(frozen=True)
class Contraction:
    """A sum of products, taken apart. `guards` are the conditions (each >= 0) under which A is read; elsewhere it
    counts as zero. `traits`: of the maker that it is formed for. `slides`: the channels are a reduction along A's last
    dim that a row slides along. `scale`: what B's elements, which are integers then, are multiplied by, one for
    `block` channels of each column (`kernel.blocks`).
    """

    target: str
    dtype: DType
    iters: tuple[Iter, ...]
    index: tuple[Dim, ...]
    shape: tuple[Dim, ...]
    a: Load
    b: Load
    guards: tuple[Dim, ...]
    batch: tuple[Iter, ...]
    rows: tuple[Iter, ...]
    cols: tuple[Iter, ...]
    reds: tuple[Iter, ...]
    traits: Traits
    slides: bool = False
    scale: Load | None = None
    block: int = 0

    @property
    def operands(self) -> tuple[Load, ...]:
        """A, B, and B's scales where there are some."""
        return (self.a, self.b) if self.scale is None else (self.a, self.b, self.scale)

    @property
    def ranges(self) -> Ranges:
        return ranges_of(self.iters + self.reds)

    @property
    def windows(self) -> tuple[Iter, ...]:
        """The reductions but the channel's: those that share an index expression of A with a row (taps), and what
        else there is.
        """
        channels = self.channels
        return tuple(r for r in self.reds if r not in channels)

    @property
    def channels(self) -> tuple[Iter, ...]:
        """The reduction that is to lie innermost in A: the last dim's where that is long enough, else the
        longest. One that a row slides along, where that was chosen."""
        if self.slides:
            return tuple(r for r in self.reds if r.name in symbols(self.a.index[-1]))
        rows = {i.name for i in self.rows}
        free = [r for r in self.reds if not any(r.name in symbols(e) and symbols(e) & rows for e in self.a.index)]
        last = [r for r in free if self.a.index[-1:] == (sym(r.name),) and self._is_long(r.extent)]
        if last or len(free) <= 1:
            return tuple(last or free)
        known = [r for r in free if isinstance(r.extent, int)] or free
        return (max(known, key=lambda r: r.extent if isinstance(r.extent, int) else 0),)

    def _is_long(self, extent: Dim) -> bool:
        return not isinstance(extent, int) or extent >= self.traits.least_channels

    def multiplications(self) -> Dim:
        total: Dim = 1
        for i in self.iters + self.reds:
            total = mul(total, i.extent)
        return total

    @property
    def channel_dim(self) -> int | None:
        """The dim of A that holds the channel reduction; None where there is not exactly one."""
        names = {i.name for i in self.channels}
        dims = [d for d, e in enumerate(self.a.index) if symbols(e) & names]
        return dims[0] if len(dims) == 1 else None

    @property
    def column_dim(self) -> int | None:
        """The dim of the target that holds the columns."""
        names = {i.name for i in self.cols}
        dims = [d for d, e in enumerate(self.index) if symbols(e) & names]
        return dims[0] if len(dims) == 1 else None

    def border(self, a_shape: tuple[Dim, ...]) -> tuple[tuple[int, int], ...] | None:
        """How far A is read before and past each of its dims; None where that is not a constant."""
        found = []
        for e, extent in zip(self.a.index, a_shape, strict=True):
            low, high = bounds(e, self.ranges)
            past = None if high is None else _greatest(add(high, mul(add(extent, -1), -1)))
            if not self.guards:
                found.append((0, 0))
                continue
            if not isinstance(low, int) or past is None:
                return None
            found.append((max(0, -low), max(0, past)))
        return tuple(found)


def absorb(c: Contraction, producer: Stmt) -> Contraction | None:
    """The contraction reading what `producer` (which only moves elements) reads, instead of its target; None where
    that does not stay linear.

    A flattened reduction is taken apart again: sum over k of A[k//49, k//7%7, k%7] becomes a sum over three iterators.
    """
    source = producer.value
    if not isinstance(source, Load) or producer.index is not None or (c.guards and not _turns(c, producer, source)):
        return None
    at = {i.name: e for i, e in zip(producer.iters, c.a.index, strict=True)}
    index = tuple(simplify(substitute(e, at), c.ranges) for e in source.index)
    b_index, reds = c.b.index, list(c.reds)
    for red in c.reds:
        parts = _split(red, index)
        if parts is None:
            return None
        if len(parts) == 1:
            continue
        whole: Dim = 0
        for part in parts:
            whole = add(mul(whole, part.extent), sym(part.name))
        reds[reds.index(red) : reds.index(red) + 1] = parts
        ranges = ranges_of((*c.iters, *reds))
        index = tuple(simplify(substitute(e, {red.name: whole}), ranges) for e in index)
        b_index = tuple(simplify(substitute(e, {red.name: whole}), ranges) for e in b_index)
    names = {i.name for i in (*c.iters, *reds)}
    if any(_has_call(e, names) for e in (*index, *b_index)):
        return None
    a, b = Load(source.tensor, index, source.dtype), replace(c.b, index=b_index)
    made = replace(c, a=a, b=b, reds=tuple(reds))
    if (c.slides and not _slides(made)) or (c.scale is not None and made.reds != c.reds):
        return None
    return made if is_usable(made) and a.dtype == c.a.dtype else None


def _turns(c: Contraction, producer: Stmt, source: Load) -> bool:
    """Whether a producer gives its operand's dims another order and no more, for a contraction that walks A as it lies:
    what guards say of A's dims holds of the operand's then.
    """
    places = [sym(i.name) for i in producer.iters]
    return c.slides and len(source.index) == len(places) and sorted(map(str, source.index)) == sorted(map(str, places))


def _has_call(e: Dim, names: set[str]) -> bool:
    return any(isinstance(a, Call) and any(symbols(arg) & names for arg in a.args) for a in atoms(e))


def _split(red: Iter, index: tuple[Dim, ...]) -> list[Iter] | None:
    """The iterators that a flattened one was made of, from the divisors in index expressions; [red] where it is not
    divided, None where it cannot be.
    """
    divisors = {1}
    for e in index:
        for atom in atoms(e):
            if not isinstance(atom, Call) or red.name not in symbols(atom.args[0]):
                continue
            found = _divisor(atom, red.name)
            if found is None:
                return None
            divisors.add(found)
    chain = sorted(divisors, reverse=True)
    if any(a % b for a, b in itertools.pairwise(chain)) or (isinstance(red.extent, int) and red.extent % chain[0]):
        return None
    extents: list[Dim] = [floordiv(red.extent, chain[0]), *(a // b for a, b in itertools.pairwise(chain))]
    if len(chain) == 1:
        return [red]
    parts = [Iter(f"{red.name}_{n}", extent) for n, extent in enumerate(extents)]
    return [p for p in parts if p.extent != 1] or [red]


def _divisor(atom: Call, name: str) -> int | None:
    """By what an iterator is divided or wrapped: d of i//d and i%d, d*m of (i//d)%m."""
    inner, by = atom.args[0], atom.args[1] if len(atom.args) > 1 else None
    if atom.fn not in ("floordiv", "mod") or not isinstance(by, int):
        return None
    if linear(inner, name) is not None:
        return by
    nested = sole_atom(inner)
    if not isinstance(nested, Call) or nested.fn != "floordiv":
        return None
    outer = _divisor(nested, name)
    return None if outer is None else outer * by


def _greatest(e: Dim) -> int | None:
    """The greatest value that an expression may have, over all sizes: x/k - (k-1)/k <= x//k <= x/k in rationals; None
    where sizes remain.
    """
    bound = _rational_bound(e, True)
    constant = bound.pop((), Fraction(0))
    return math.floor(constant) if not any(bound.values()) else None


def _rational_bound(e: Dim, upper: bool) -> dict[Monomial, Fraction]:
    total: dict[Monomial, Fraction] = {}
    for monomial, scale in terms_of(e):
        part = {monomial: Fraction(1)}
        atom = monomial[0] if len(monomial) == 1 else None
        if isinstance(atom, Call) and atom.fn == "floordiv" and isinstance(atom.args[1], int):
            divisor = atom.args[1]
            above = upper == (scale > 0)
            part = {m: v / divisor for m, v in _rational_bound(atom.args[0], above).items()}
            if not above:
                part[()] = part.get((), Fraction(0)) - Fraction(divisor - 1, divisor)
        for m, v in part.items():
            total[m] = total.get(m, Fraction(0)) + v * scale
    return total


ACCUMULATOR = ""  # no value has the empty name: among inputs it stands for an absent one


def is_accumulator(e: Scalar) -> bool:
    """Whether an epilogue is the sum as it is."""
    return isinstance(e, Load) and e.tensor == ACCUMULATOR


def is_usable(c: Contraction) -> bool:
    """Whether the contraction template takes this form (else the generic lowering does)."""
    if (accumulator_of(c.a.dtype, c.b.dtype) if c.scale is None else c.a.dtype) is not c.dtype:
        return False
    if len(c.cols) != 1 or len(c.channels) != 1 or c.channel_dim is None or c.column_dim is None:
        return False
    columns, channels, traits = c.cols[0].extent, c.channels[0].extent, c.traits
    if any(i.extent == 0 for i in (*c.iters, *c.reds)):
        return False
    if isinstance(columns, int) and columns < traits.least_columns:
        return False
    if c.batch and isinstance(columns, int) and isinstance(channels, int):
        if columns * channels < traits.least_of_a_group:
            return False
    return all(_is_bound(g, c) for g in c.guards)


def _is_bound(guard: Dim, c: Contraction) -> bool:
    """Whether a guard only says that an index of A lies inside its dim: e >= 0 or extent-1-e >= 0."""
    for e in c.a.index:
        rest = add(guard, e)
        if guard == e or not symbols(rest) & {i.name for i in c.iters + c.reds}:
            return True
    return False


def recognise(
    stmt: Stmt, shape: tuple[Dim, ...], constants: Collection[str], traits: Traits
) -> tuple[Contraction, Scalar] | None:
    """(contraction, value around it) of a statement, or None. In the value, `Load(ACCUMULATOR, iterators)` stands for
    the sum.
    """
    if stmt.scan is not None:
        return None
    whole, stmt = stmt, _split_groups(stmt)
    sums = [node for node in walk(stmt.value) if isinstance(node, Reduction)]
    if len(sums) != 1:
        return None
    (reduce,) = sums
    if not isinstance(reduce, Reduce) or reduce.kind != "sum":
        return None
    found = _in_blocks(stmt, reduce, constants, shape, traits) or _of_loads(stmt, reduce, constants, shape, traits)
    if found is None:
        return None
    # around the sum are the iterators of the statement as it came in: a split of groups is the contraction's own matter
    index = found.index if whole is stmt else whole.index or tuple(sym(i.name) for i in whole.iters)
    read = Load(ACCUMULATOR, index, reduce.dtype)
    around = transform(whole.value, lambda node: read if isinstance(node, Reduce) else None)
    return found, around


def _of_loads(
    stmt: Stmt, reduce: Reduce, constants: Collection[str], shape: tuple[Dim, ...], traits: Traits
) -> Contraction | None:
    """Where both factors are loads."""
    factors = _factors(reduce.body)
    if factors is None:
        return None
    if _prefer_first_packed(*factors, constants, stmt):
        factors = factors[::-1]
    found = _classified(stmt, reduce, *factors, shape, traits)
    if found is None or not is_usable(found):
        # the other operand may be what the template can multiply by; a single row is done by loops as well
        other = _classified(stmt, reduce, *factors[::-1], shape, traits)
        if other is not None and is_usable(other) and any(i.extent != 1 for i in other.rows):
            found = other
    if found is not None and found.b.tensor not in constants and _slides(found):
        sliding = replace(found, slides=True, rows=_longest_last(found.rows))
        found = sliding if is_usable(sliding) else found
    return found


def _in_blocks(
    stmt: Stmt, reduce: Reduce, constants: Collection[str], shape: tuple[Dim, ...], traits: Traits
) -> Contraction | None:
    """Where one factor is a constant integer with a scale for each block of the channels (`kernel.blocks`)."""
    if not isinstance(reduce.body, Op) or reduce.body.fn != "mul":
        return None
    for a, weight in (reduce.body.args, reduce.body.args[::-1]):
        if not isinstance(a, Load) or not isinstance(weight, Op) or weight.fn != "mul":
            continue
        b, scale = integer_of(weight.args[0]), weight.args[1]
        if b is None or not isinstance(scale, Load) or b.tensor not in constants:
            continue
        c = _classify(stmt, reduce, a, b, (), shape, traits)
        block = None if c is None or scale.tensor not in constants else _block_of(c, scale)
        if c is not None and block is not None:
            return replace(c, scale=scale, block=block)
    return None


def _block_of(c: Contraction, scale: Load) -> int | None:
    """Of how many channels each scale is, where it is read by column and block; None where it is not."""
    if c.batch or len(c.reds) != 1 or len(c.cols) != 1 or len(scale.index) != 2:
        return None
    (k,), (n,), (at, column) = c.reds, c.cols, scale.index
    if c.b.index != (sym(k.name), sym(n.name)) or column != sym(n.name) or not isinstance(k.extent, int):
        return None
    if at == 0:
        return k.extent
    found = sole_atom(at)
    divides = isinstance(found, Call) and found.fn == "floordiv" and found.args[0] == sym(k.name)
    block = found.args[1] if divides and isinstance(found, Call) else None
    return block if isinstance(block, int) else None


def _slides(c: Contraction) -> bool:
    """Whether A's last dim is summed over along rows that are a few places apart, as in the gradient of a convolution's
    weights: images times images, shifted by the taps. Then A is walked as it lies, along that dim, and no other
    reduction need lie innermost.
    """
    last = c.a.index[-1] if c.a.index else 0
    reds = [r for r in c.reds if r.name in symbols(last)]
    rows = [i for i in c.rows if i.name in symbols(last)]
    if len(reds) != 1 or len(rows) != 1 or any(reds[0].name in symbols(e) for e in c.a.index[:-1]):
        return False
    step, few, many = linear(last, reds[0].name), rows[0].extent, reds[0].extent
    if step is None or step.coefficient != 1 or not isinstance(few, int) or not isinstance(many, int):
        return False
    return 1 < few < many and len(c.rows) > 1


def _longest_last(rows: tuple[Iter, ...]) -> tuple[Iter, ...]:
    """In the order of tiles, which are of the last one."""
    longest = max(rows, key=lambda i: i.extent if isinstance(i.extent, int) else math.inf)
    return (*(i for i in rows if i is not longest), longest)


def _classified(
    stmt: Stmt, reduce: Reduce, a: _Factor, b: _Factor, shape: tuple[Dim, ...], traits: Traits
) -> Contraction | None:
    """The contraction with this B, if there is one."""
    (a_load, guards), (b_load, b_guards) = a, b
    if b_guards or loads_in(a_load) or loads_in(b_load):
        return None
    return _classify(stmt, reduce, a_load, b_load, guards, shape, traits)


def loads_in(load: Load) -> bool:
    return any(loads(e) for e in load.index)


_Factor = tuple[Load, tuple[Dim, ...]]
"""A load, and the guards under which it is read."""


def _factors(body: Scalar) -> tuple[_Factor, _Factor] | None:
    if not isinstance(body, Op) or body.fn != "mul":
        return None
    first, second = (_guarded_load(arg) for arg in body.args)
    return None if first is None or second is None else (first, second)


def _guarded_load(e: Scalar) -> _Factor | None:
    """(load, guards under which it is read) of a factor that is zero elsewhere; an exact widening cast is looked
    through.
    """
    if isinstance(e, Load):
        return e, ()
    if isinstance(e, Cast):
        inner = _guarded_load(e.arg)
        return inner if inner is not None and widens(inner[0].dtype, e.dtype) else None
    if isinstance(e, Where) and isinstance(e.otherwise, Const) and e.otherwise.value == 0:
        inner = _guarded_load(e.then)
        return None if inner is None else (inner[0], e.conds + inner[1])
    return None


def _prefer_first_packed(a: _Factor, b: _Factor, constants: Collection[str], stmt: Stmt) -> bool:
    """Whether the first factor should be the packed operand: a constant is (it costs nothing at run time), else what
    holds the last dim.
    """
    (first, first_guards), (second, second_guards) = a, b
    if first_guards or second_guards:
        return bool(second_guards)
    if (first.tensor in constants) != (second.tensor in constants):
        return first.tensor in constants
    if not stmt.iters:
        return False
    last = stmt.iters[-1].name
    return last in _names(first) and last not in _names(second)


def _names(load: Load) -> set[str]:
    return set().union(*(symbols(e) for e in load.index)) if load.index else set()


def _classify(
    stmt: Stmt, reduce: Reduce, a: Load, b: Load, guards: tuple[Dim, ...], shape: tuple[Dim, ...], traits: Traits
) -> Contraction | None:
    in_a, in_b = _names(a), _names(b)
    index: tuple[Dim, ...] = tuple(sym(i.name) for i in stmt.iters) if stmt.index is None else stmt.index
    batch = tuple(i for i in stmt.iters if i.name in in_a and i.name in in_b)
    rows = tuple(i for i in stmt.iters if i.name in in_a and i.name not in in_b)
    cols = tuple(i for i in stmt.iters if i.name in in_b and i.name not in in_a)
    idle = [i for i in stmt.iters if i.name not in in_a and i.name not in in_b]
    if (
        any(i.extent != 1 for i in idle)
        or not cols
        or not all(r.name in in_a and r.name in in_b for r in reduce.iters if r.extent != 1)
    ):
        return None
    used = tuple(i for i in stmt.iters if i not in idle)
    single = [r for r in reduce.iters if r.extent == 1 and r.name not in in_a | in_b]
    zero: dict[str, Dim] = dict.fromkeys((i.name for i in (*idle, *single)), 0)
    reds = tuple(r for r in reduce.iters if r.name not in zero)
    placed = tuple(substitute(e, zero) for e in index)
    return Contraction(stmt.target, reduce.dtype, used, placed, shape, a, b, guards, batch, rows, cols, reds, traits)


def _split_groups(stmt: Stmt) -> Stmt:
    """o -> g*(O/G) + o' where an operand reads by o // (O/G), as a grouped convolution does; the target's index says
    so.
    """
    for position, it in enumerate(stmt.iters):
        divisor = _group_divisor(stmt.value, it)
        if divisor is None or not isinstance(it.extent, int) or it.extent % divisor:
            continue
        outer, inner = Iter(f"{it.name}.group", it.extent // divisor), Iter(f"{it.name}.in_group", divisor)
        replaced = {it.name: add(mul(sym(outer.name), divisor), sym(inner.name))}
        index = stmt.index or tuple(sym(i.name) for i in stmt.iters)
        iters = (*stmt.iters[:position], outer, inner, *stmt.iters[position + 1 :])
        value = simplify_scalar(substitute_iters(stmt.value, replaced), ranges_of(iters))
        return replace(
            stmt,
            iters=iters,
            value=value,
            index=tuple(simplify(substitute(e, replaced), ranges_of(iters)) for e in index),
        )
    return stmt


def _group_divisor(value: Scalar, it: Iter) -> int | None:
    for node in walk(value):
        if not isinstance(node, Load):
            continue
        for e in node.index:
            for atom in atoms(e):
                if (
                    isinstance(atom, Call)
                    and atom.fn == "floordiv"
                    and isinstance(atom.args[1], int)
                    and symbols(atom.args[0]) == {it.name}
                ):
                    return atom.args[1]
    return None
