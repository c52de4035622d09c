"""What runs along the loops of a reduction: accumulators of one value, or the partial states of a fold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mapsto.devices.generic.context import Context
from mapsto.devices.generic.numbering import state_name
from mapsto.devices.generic.operations import COMBINE, convert, identity, lift, same_lanes
from mapsto.devices.generic.scope import Code, MemoKey
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, minimum, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Fold, Iter, Op, Reduce, Reduction, Scalar, State, reduced, transform, walk
from mapsto.loop import ast as loop
from mapsto.plan.loop_forms import sum_division


class RunningReduction(ABC):
    """Variables of one reduction that are stepped at each of its points: `ways` of each take turns.

    It is made in the scope where the variables are declared, and finished there.
    in_blocks: what a block of rounds gave is settled in variables apart, so that no sum is one of very many terms.
    """

    def __init__(self, emitter: Context, lanes: int, ways: int, in_blocks: bool) -> None:
        self.emitter = emitter
        self.lanes = lanes
        self.ways = ways
        self.in_blocks = in_blocks
        self.turn = 0

    @abstractmethod
    def add(self, masked: bool = False, way: int | None = None) -> None:
        """Takes in the present point; `masked`: only in the lanes that are inside."""

    @abstractmethod
    def settle(self, lanes: bool) -> None:
        """Ends a block of rounds, inside the loop over blocks; lanes: those at work are the reduction's own."""

    @abstractmethod
    def finish(self, lanes: bool) -> None:
        """Makes one of all ways, then (if wanted) of all lanes, and remembers it as the reduction's."""

    def next_way(self, way: int | None) -> int:
        self.turn += 1
        return (self.turn - 1) % self.ways if way is None else way


def runner(
    emitter: Context, e: Reduction, lanes: int, ways: int, meant: Reduction | None = None, in_blocks: bool = False
) -> RunningReduction:
    """What runs along the loops of a reduction. `meant`: what the result is remembered as, if not as the same."""
    if isinstance(e, Fold):
        assert meant is None or isinstance(meant, Fold)
        return Partials(emitter, e, lanes, ways, meant or e, in_blocks)
    return Totals(emitter, e, lanes, ways, meant or e, in_blocks)


class RoundBlock(NamedTuple):
    """So many rounds of a loop, after which what they gave is settled."""

    iterator: str
    rounds: int


def block_of(e: Reduction, loops: Sequence[tuple[str, Dim]], inside: int = 1) -> RoundBlock | None:
    """Where a sum of floats is divided (`sum_division`). None where it has few terms, or where no order of terms
    changes what comes out.

    loops: iterators and rounds, the innermost last. inside: terms of one round of that.
    """
    found = sum_division([rounds for _, rounds in loops], inside) if _adds_floats(e) else None
    return None if found is None else RoundBlock(loops[found[0]][0], found[1])


@contextmanager
def in_blocks(
    code: Code, block: RoundBlock | None, iterator: str, start: Dim, stop: Dim, settle: Callable[[], None],
    ways: int = 1,
) -> Iterator[tuple[Dim, Dim]]:  # fmt: skip
    """Bounds of the loop over an iterator: its own, or, where it is divided, those of a block, inside a loop over
    blocks at the end of which `settle` is called. ways: rounds that one turn of the loop takes.
    """
    if block is None or block.iterator != iterator:
        yield start, stop
        return
    length = max(block.rounds // ways, 1) * ways
    with code.loop(start, stop, f"{iterator}_block", step=length) as first:
        yield first, minimum(first + length, stop)
        settle()


def _adds_floats(e: Reduction) -> bool:
    if isinstance(e, Reduce):
        return e.kind == "sum" and e.dtype.is_float
    return any(
        isinstance(node, Op) and node.fn == "add" and node.dtype.is_float for r in e.running for node in walk(r.step)
    )


class Totals(RunningReduction):
    """Accumulators of one value.

    The maximum of floats is taken by the processor's own instruction, which loses NaNs; whether there was one is kept
    apart.
    """

    def __init__(self, emitter: Context, e: Reduce, lanes: int, ways: int, meant: Reduction, in_blocks: bool) -> None:
        super().__init__(emitter, lanes, ways, in_blocks)
        self.kind, self.body, self.meant = e.kind, e.body, meant
        self.type = loop.Type(DType.F32 if e.dtype.is_half else e.dtype, lanes)
        self.names = [emitter.code.fresh("acc") for _ in range(ways)]
        self.settled = emitter.code.fresh("settled")
        for name in (*self.names, self.settled) if in_blocks else self.names:
            emitter.code.emit(loop.Declare(name, identity(self.kind, self.type)))
        self.op = COMBINE[self.kind]
        self.nan: loop.Var | None = None
        if self.kind in ("max", "min") and self.type.element.is_float:
            self.op = f"{self.kind}num"
            self.nan = loop.Var(emitter.code.fresh("nan"), loop.Type(DType.BOOL, lanes))
            emitter.code.emit(loop.Declare(self.nan.name, loop.Const(False, self.nan.type)))

    def add(self, masked: bool = False, way: int | None = None) -> None:
        """acc = acc (kind) body at the present point."""
        emitter, code, lanes, body = self.emitter, self.emitter.code, self.lanes, self.body
        acc = loop.Var(self.names[self.next_way(way)], self.type)
        if self._is_product() and not masked:
            assert isinstance(body, Op)
            a, b = same_lanes([emitter.value(arg) for arg in body.args])
            code.emit(loop.Assign(acc.name, loop.Fma(lift(a, lanes), lift(b, lanes), acc)))
            return
        value = lift(convert(emitter.value(body), self.type.element), lanes)
        if masked:
            value = loop.Select(emitter.tail_mask(), value, identity(self.kind, self.type))
        if self.nan is not None:
            value = code.let(value)
            is_nan = loop.Compare("ne", value, value)
            code.emit(loop.Assign(self.nan.name, loop.Binary("or", self.nan, is_nan)))
        code.emit(loop.Assign(acc.name, loop.Binary(self.op, acc, value)))

    def _is_product(self) -> bool:
        if self.kind != "sum" or not isinstance(self.body, Op) or self.body.fn != "mul":
            return False
        dtype = self.body.dtype
        return dtype in (DType.F32, DType.F64) and all(a.dtype is dtype for a in self.body.args)

    def finish(self, lanes: bool) -> None:
        code = self.emitter.code
        value = code.let(convert(self._total(lanes), self.meant.dtype))
        code.remember(self.emitter.key(self.emitter.info(self.meant)), value)

    def settle(self, lanes: bool) -> None:
        code = self.emitter.code
        code.emit(loop.Assign(self.settled, self._with_settled()))
        for name in self.names:
            code.emit(loop.Assign(name, identity(self.kind, self.type)))

    def _with_settled(self) -> loop.Value:
        """Accumulators pairwise, and what was settled before."""
        code = self.emitter.code
        values: list[loop.Value] = [loop.Var(n, self.type) for n in self.names]
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [code.let(loop.Binary(self.op, a, b), "acc") for a, b in pairs]
        (value,) = values
        return loop.Binary(self.op, loop.Var(self.settled, self.type), value) if self.in_blocks else value

    def _total(self, lanes: bool) -> loop.Value:
        """Accumulators, then (if wanted) lanes."""
        code = self.emitter.code
        value = code.let(self._with_settled(), "acc")
        nan: loop.Value | None = self.nan
        if lanes:
            op = self.op if self.nan is not None else self.kind
            value = code.let(loop.ReduceLanes(op, value, loop.Type(self.type.element)), "total")
            nan = None if nan is None else code.let(loop.ReduceLanes("any", nan, loop.Type(DType.BOOL)), "nan")
        if nan is None:
            return value
        return code.let(loop.Select(nan, loop.Const(math.nan, value.type), value), "total")


# ---- folds ---------------------------------------------------------------------------------------------------------


class Partials(RunningReduction):
    """Partial states of a fold. They are merged in a fixed tree: ways pairwise, then halves of lanes.

    `meant`: the fold whose result this is, in the names of the place that reads it.
    """

    def __init__(self, emitter: Context, e: Fold, lanes: int, ways: int, meant: Fold, in_blocks: bool) -> None:
        super().__init__(emitter, lanes, ways, in_blocks)
        self.fold, self.meant = e, meant
        self.types = [loop.Type(r.dtype, lanes) for r in e.running]
        self.states = [self._declared() for _ in range(ways)]
        self.settled = self._declared() if in_blocks else []

    def _declared(self) -> list[loop.Value]:
        code = self.emitter.code
        made: list[loop.Value] = []
        for (r, t), start in zip(zip(self.fold.running, self.types, strict=True), self._starts(), strict=True):
            name = code.fresh(r.name)
            code.emit(loop.Declare(name, start))
            made.append(loop.Var(name, t))
        return made

    def _starts(self) -> list[loop.Value]:
        """The states before the first point."""
        return [lift(self.emitter.value(r.start), self.lanes) for r in self.fold.running]

    def add(self, masked: bool = False, way: int | None = None) -> None:
        """All states stepped at the present point."""
        emitter, code = self.emitter, self.emitter.code
        old = self.states[self.next_way(way)]
        with emitter.defining(named_states(self.fold, old)):
            new = self._values([r.step for r in self.fold.running])
        if masked:
            mask = emitter.tail_mask()
            new = [code.let(loop.Select(mask, a, b)) for a, b in zip(new, old, strict=True)]
        self._assign(old, new)

    def _values(self, exprs: Sequence[Scalar]) -> list[loop.Value]:
        """States' next values; each is named, as variables that it reads are assigned after it."""
        emitter, code = self.emitter, self.emitter.code
        return [
            code.let(lift(convert(emitter.value(e), r.dtype), self.lanes))
            for e, r in zip(exprs, self.fold.running, strict=True)
        ]

    def settle(self, lanes: bool) -> None:
        emitter = self.emitter
        with emitter.in_lanes(None if lanes else emitter.lane):
            self._assign(self.settled, self._with_settled())
            for way in self.states:
                self._assign(way, self._starts())

    def _assign(self, variables: Sequence[loop.Value], values: Sequence[loop.Value]) -> None:
        for var, value in zip(variables, values, strict=True):
            assert isinstance(var, loop.Var)
            self.emitter.code.emit(loop.Assign(var.name, value))

    def _with_settled(self) -> list[loop.Value]:
        """Ways pairwise, and what was settled before."""
        code = self.emitter.code
        states = [[code.let(v) for v in way] for way in self.states]
        while len(states) > 1:
            states = [self._merged(a, b) for a, b in zip(states[::2], states[1::2], strict=True)]
        (whole,) = states
        return self._merged([code.let(v) for v in self.settled], whole) if self.in_blocks else whole

    def finish(self, lanes: bool) -> None:
        emitter, code = self.emitter, self.emitter.code
        with emitter.in_lanes(None if lanes else emitter.lane):
            whole = self._with_settled()
            if lanes:
                whole = self._lanes_merged(whole)
            for key, value in zip(_keys(emitter, self.meant), whole, strict=True):
                code.remember(key, value)

    def _merged(self, a: Sequence[loop.Value], b: Sequence[loop.Value]) -> list[loop.Value]:
        with self.emitter.defining(named_states(self.fold, a, b)):
            return self._values([r.merge for r in self.fold.running])

    def _lanes_merged(self, states: list[loop.Value]) -> list[loop.Value]:
        """Halves with halves, by way of a local array for each state."""
        code = self.emitter.code
        arrays = [code.local(r.name, r.dtype, self.lanes) for r in self.fold.running]
        whole = self.lanes
        while self.lanes > 1:
            self.lanes //= 2
            for array, value in zip(arrays, states, strict=True):
                code.emit(loop.Store(array, 0, value))
            first, second = (
                [
                    code.let(loop.Load(array, side * self.lanes, loop.Type(r.dtype, self.lanes)))
                    for array, r in zip(arrays, self.fold.running, strict=True)
                ]
                for side in (0, 1)
            )
            states = self._merged(first, second)
        self.lanes = whole
        return states


def named_states(e: Fold, states: Sequence[loop.Value], others: Sequence[loop.Value] = ()) -> dict[str, loop.Value]:
    """Values of a fold's states (and of those of a second partial state) by the names that they are read by."""
    return {
        state_name(State(r.name, r.dtype, other)): value
        for other, values in ((False, states), (True, others))
        for r, value in zip(e.running, values, strict=False)
    }


def states_of(emitter: Context, e: Fold) -> list[loop.Value] | None:
    """What the fold's states are in the end, if a loop that was emitted gave them."""
    found = [emitter.code.find(key) for key in _keys(emitter, e)]
    return None if any(v is None for v in found) else [v for v in found if v is not None]


def _keys(emitter: Context, e: Fold) -> list[MemoKey]:
    """One for each state; folds that differ in their results alone share them."""
    info = emitter.info(first_result(e))
    return [(info.number, r.name, emitter.key(info)) for r in e.running]


def first_result(e: Fold) -> Fold:
    """The fold whose result is its first state, over iterators named by their position: what stands for all that run
    alike.
    """
    first = e.running[0]
    renamed = _numbered(Fold(e.iters, e.running, State(first.name, first.dtype)), {}, 0)
    assert isinstance(renamed, Fold)
    return renamed


def _numbered(e: Reduction, names: Mapping[str, Dim], depth: int) -> Reduction:
    """A reduction over iterators named by how deep they are, and those of reductions inside as well."""
    own = {it.name: sym(f"{depth + k} deep") for k, it in enumerate(e.iters)}
    inner: dict[str, Dim] = {**names, **own}
    iters = tuple(Iter(str(own[it.name]), substitute(it.extent, names)) for it in e.iters)

    def leaf(node: Scalar) -> Scalar | None:
        return _numbered(node, inner, depth + len(own)) if isinstance(node, Reduction) else None

    return reduced(e, iters, lambda part: transform(part, leaf, lambda d: substitute(d, inner)))
