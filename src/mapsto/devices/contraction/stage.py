"""A's elements on their way into the multiply: from memory to a local array, in the wider type of the multiply.

Of each of a tile's rows the next channels (a *piece*) are converted by whole vectors, and lie row after row in the
array. A conversion is paid once for all columns of a panel, and A stays narrow in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mapsto.devices.contraction.form import ContractionForm
from mapsto.devices.contraction.tile import PIECE
from mapsto.devices.contraction.tile_plan import TilePlan
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, minimum, mul, sym
from mapsto.loop import ast as loop

_ARRAY = "staged"
_LONE_PIECE = 64  # bytes of a row that shares nothing: a burst of stores longer than a core's queue is waited for
_STRAIGHT = 32  # vectors that are brought without a loop around them


@dataclass(frozen=True)
class Piece:
    """`count` rounds of a loop `name` (1: none) over `groups` dot groups each, from `first` on."""

    name: str
    count: Dim
    first: Dim
    groups: Dim


def array(plan: TilePlan) -> tuple[loop.Statement, ...]:
    """The local array, where there is one."""
    form = plan.form
    if form.staged is None:
        return ()
    return (loop.Alloc(_ARRAY, form.staged, (max(plan.tiling.sizes) - 1) * _pitch(form) + _most(form)),)


def is_staged(form: ContractionForm, stride: Dim | None, group: int) -> bool:
    """Whether a loop over dot groups, so far apart in A, takes them from the local array."""
    return form.staged is not None and group == form.interleave and stride == form.interleave


def pieces(form: ContractionForm, groups: Dim, name: str) -> Iterator[Piece]:
    """A loop over dot groups, cut into pieces that the array holds."""
    most = _most(form) // form.interleave
    if not isinstance(groups, int):
        first = mul(sym(name), most)
        yield Piece(name, ceildiv(groups, most), first, minimum(most, groups - first))
        return
    whole, rest = divmod(groups, most)
    if whole:
        yield Piece(name, whole, mul(sym(name), most) if whole > 1 else 0, most)
    if rest:
        yield Piece(name, 1, whole * most, rest)


def filled(plan: TilePlan, start: Dim, rows: int, count: Dim, fresh: Callable[[str], str]) -> Iterator[loop.Statement]:
    """Fills the array with `count` elements of each row, of which the first one's begin at `start`; nothing past them
    is read.
    """
    form, stride = plan.form, plan.form.rows[-1].a
    if isinstance(count, int) and isinstance(stride, int) and _pitch(form) == stride <= count:
        yield from _run(plan, [start], (rows - 1) * stride + count, fresh)
    else:
        yield from _run(plan, [add(start, mul(row, stride)) for row in range(rows)], count, fresh)


def _run(plan: TilePlan, starts: Sequence[Dim], count: Dim, fresh: Callable[[str], str]) -> Iterator[loop.Statement]:
    """`count` neighbours from each of some places on, to places a row apart."""
    form, lanes = plan.form, plan.core.lanes(plan.form.multiplied)
    done: Dim = 0
    while done != count:
        name = fresh("c")
        rounds = floordiv(count - done, lanes)
        if isinstance(rounds, int) and rounds * len(starts) <= _STRAIGHT:
            for number in range(rounds):
                yield from _moved(form, starts, add(done, number * lanes), lanes)
        else:
            body = tuple(_moved(form, starts, add(done, mul(sym(name), lanes)), lanes))
            yield loop.For(name, 0, rounds, body)
        done = add(done, mul(rounds, lanes))
        if lanes == 1:
            return
        lanes = lanes // 2 if isinstance(count, int) else 1


def _moved(form: ContractionForm, starts: Sequence[Dim], to: Dim, lanes: int) -> Iterator[loop.Statement]:
    """A vector of each row."""
    assert form.staged is not None
    for row, start in enumerate(starts):
        value = loop.Load(form.a.name, add(start, to), loop.Type(form.a.element, lanes))
        yield loop.Store(_ARRAY, add(row * _pitch(form), to), loop.Cast(value, loop.Type(form.staged, lanes)))


def group(form: ContractionForm, row: int, number: Dim) -> loop.Value:
    """A dot group of a row from the array: one element, or the 32 bits that hold two."""
    assert form.staged is not None
    at = add(row * _pitch(form), mul(number, form.interleave))
    if form.interleave == 1:
        return loop.Load(_ARRAY, at, loop.Type(form.staged))
    return loop.Bitcast(loop.Load(_ARRAY, at, loop.Type(form.staged, form.interleave)), loop.Type(DType.I32))


def lone_group(form: ContractionForm, at: Dim, group: int) -> loop.Value:
    """A group of 16-bit pairs straight from memory, element by element; what is beyond `group` is 0."""
    assert form.staged is DType.I16
    word = loop.Type(DType.I32)
    low = loop.Binary(
        "and", loop.Cast(loop.Load(form.a.name, at, loop.Type(form.a.element)), word), loop.Const(0xFFFF, word)
    )
    if group == 1:
        return low
    high = loop.Cast(loop.Load(form.a.name, add(at, 1), loop.Type(form.a.element)), word)
    return loop.Binary("or", low, loop.Binary("shl", high, loop.Const(16, word)))


def _most(form: ContractionForm) -> int:
    """Elements of a row that the array holds at once."""
    assert form.staged is not None
    return (PIECE if _near(form) else _LONE_PIECE) // form.staged.size


def _pitch(form: ContractionForm) -> int:
    """Elements from one row to the next in the array."""
    near = _near(form)
    return near if near is not None else _most(form)


def _near(form: ContractionForm) -> int | None:
    """The distance of rows of which a piece may overlap the next, as neighbouring windows do. They lie in the array as
    in memory: what they share is converted once.
    """
    assert form.staged is not None
    stride = form.rows[-1].a
    near = isinstance(stride, int) and 0 < stride < PIECE // form.staged.size and stride % form.interleave == 0
    return stride if near and isinstance(stride, int) else None
