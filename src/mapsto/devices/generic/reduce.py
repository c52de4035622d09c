"""Reductions as loops: guards become loop bounds, long loops get several accumulators, lanes fold in a fixed tree.

The order of additions depends on extents and lanes alone, never on the share of a thread.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from mapsto.devices.generic.cost import Costs, Vector
from mapsto.devices.generic.numbering import Info
from mapsto.devices.generic.operations import combine, convert, identity, level, lift
from mapsto.devices.generic.scalar import Emitter, Lane
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, floordiv, linear, loads, maximum, minimum, mod, sym, symbols
from mapsto.kernel.ast import Cast, Const, Iter, Op, Reduce, Scalar, Where, walk
from mapsto.kernel.scalar import neutral
from mapsto.loop import ast as loop

_HALF = (DType.F16, DType.BF16)
# Bodies of more scalar operations than this hide the latency of one accumulator.
_LIGHT = 10


@dataclass
class Bounded:
    """A reduction whose guards are loop bounds as far as that is possible."""

    kind: str
    iters: tuple[Iter, ...]
    body: Scalar
    starts: dict[str, list[Dim]] = field(default_factory=dict)
    stops: dict[str, list[Dim]] = field(default_factory=dict)

    def span(self, it: Iter) -> tuple[Dim, Dim]:
        start: Dim = 0
        for s in self.starts.get(it.name, ()):
            start = maximum(start, s)
        stop = it.extent
        for s in self.stops.get(it.name, ()):
            stop = minimum(stop, s)
        return start, stop

    def is_whole(self, it: Iter) -> bool:
        return it.name not in self.starts and it.name not in self.stops


def emit_reduce(emitter: Emitter, e: Reduce) -> loop.Value:
    """The value of a reduction: in the lanes at work, or in lanes of its own folded at the end."""
    for it in e.iters:
        emitter.code.unbind(it.name)
    vector = None
    if emitter.lane is None and emitter.lanes > 1:
        vector = Costs(emitter.lanes, emitter.near, ()).reduction(e, None, {})[1]
    bounded = _bounded(emitter, e, vector)
    made = _Accumulation(emitter, bounded, vector).emit()
    return emitter.code.let(convert(made, e.dtype))


# ---- guards as bounds --------------------------------------------------------------------------------------------------


def _bounded(emitter: Emitter, e: Reduce, vector: Vector | None) -> Bounded:
    """Guards that a sequential loop's variable alone decides become its bounds."""
    conds, then = _guarded(e.body, e.kind)
    result = Bounded(e.kind, e.iters, then)
    own = [it.name for it in e.iters if vector is None or it.name != vector.iter.name]
    rest: list[Dim] = []
    for cond in conds:
        if not _becomes_bound(emitter, cond, own, {it.name for it in e.iters} - set(own), result):
            rest.append(cond)
    if rest:
        result.body = Where(tuple(rest), then, Const(neutral(e.kind, e.dtype), e.dtype))
    return result


def _guarded(e: Scalar, kind: str) -> tuple[tuple[Dim, ...], Scalar]:
    """(conditions, value under them) of a body that is neutral where they do not hold."""
    nothing = neutral(kind, e.dtype)
    if isinstance(e, Where) and isinstance(e.otherwise, Const) and e.otherwise.value == nothing:
        more, then = _guarded(e.then, kind)
        return (*e.conds, *more), then
    if kind == "sum" and isinstance(e, Cast) and e.dtype is not DType.BOOL:
        conds, then = _guarded(e.arg, kind)
        return (conds, Cast(then, e.dtype)) if conds and then.dtype is not DType.BOOL else ((), e)
    if kind == "sum" and isinstance(e, Op) and e.fn == "mul":
        left, a = _guarded(e.args[0], kind)
        right, b = _guarded(e.args[1], kind)
        return (*left, *right), Op("mul", (a, b), e.dtype)
    return (), e


def _becomes_bound(emitter: Emitter, cond: Dim, own: list[str], vector: set[str], result: Bounded) -> bool:
    expanded = emitter.code.expand(cond)
    names = symbols(expanded)
    inside = [n for n in own if n in names]
    if not inside or names & vector or emitter.varies(expanded) or loads(expanded):
        return False
    name = inside[-1]
    found = linear(expanded, name)
    if found is None or not isinstance(found[0], int) or found[0] == 0:
        return False
    coefficient, rest = found
    if coefficient > 0:
        result.starts.setdefault(name, []).append(ceildiv(-rest, coefficient))
    else:
        result.stops.setdefault(name, []).append(floordiv(rest, -coefficient) + 1)
    return True


# ---- loops -------------------------------------------------------------------------------------------------------------


class _Accumulation:
    """The loops of one reduction and its accumulators."""

    def __init__(self, emitter: Emitter, reduce: Bounded, vector: Vector | None) -> None:
        self.emitter = emitter
        self.code = emitter.code
        self.reduce = reduce
        self.vector = vector
        self.home = self.code.depth
        self.names: list[str] = []
        self.type = loop.Type(DType.F32)

    def emit(self) -> loop.Value:
        names = [it.name for it in self.reduce.iters]
        if self.vector is not None:
            names = [n for n in names if n != self.vector.iter.name] + [self.vector.iter.name]
        by_name = {it.name: it for it in self.reduce.iters}
        *outer, last = (by_name[n] for n in names)
        if self.vector is not None:
            self.emitter.lane = Lane(self.code.lane_symbol(self.vector.lanes), self.vector.lanes, sym(last.name))
        element = self.reduce.body.dtype
        lanes = self.vector.lanes if self.vector else self.emitter.lanes_of(self._info())
        self.type = loop.Type(DType.F32 if element in _HALF else element, lanes)
        with ExitStack() as loops:
            for it in outer:
                start, stop = (self.code.expand(b) for b in self.reduce.span(it))
                var = loops.enter_context(self.code.loop(start, stop, it.name, (0, it.extent - 1)))
                self.code.bind(it.name, var)
            if self.vector is not None:
                self._vector_loop(last)
            else:
                self._loop(last)
        return self._folded()

    def _info(self) -> Info:
        return self.emitter.info(Reduce(self.reduce.kind, self.reduce.iters, self.reduce.body))

    def _loop(self, it: Iter) -> None:
        """The innermost sequential loop; several accumulators take turns where it is long."""
        start, stop = (self.code.expand(b) for b in self.reduce.span(it))
        ways = self._ways(it.extent) if self.reduce.is_whole(it) else 1
        self._declare(ways)
        if ways == 1:
            with self.code.loop(start, stop, it.name, (0, it.extent - 1)) as var:
                self._accumulate(0, it, var)
            return
        whole = floordiv(it.extent, ways) * ways
        with self.code.loop(0, whole, it.name, (0, it.extent - 1), step=ways) as var:
            for way in range(ways):
                self._accumulate(way, it, var + way)
        if whole != it.extent:
            with self.code.loop(whole, it.extent, it.name, (0, it.extent - 1)) as var:
                self._accumulate(0, it, var)

    def _vector_loop(self, it: Iter) -> None:
        assert self.emitter.lane is not None and self.vector is not None
        count, lane = self.vector.lanes, sym(self.emitter.lane.symbol)
        full = floordiv(it.extent, count)
        ways = self._ways(full)
        self._declare(ways)
        whole = floordiv(full, ways) * ways
        with self.code.loop(0, whole, it.name, (0, full - 1), step=ways) as var:
            for way in range(ways):
                self._accumulate(way, it, (var + way) * count + lane)
        if whole != full:
            with self.code.loop(whole, full, it.name, (0, full - 1)) as var:
                self._accumulate(0, it, var * count + lane)
        left = mod(it.extent, count)
        if left == 0:
            return
        self.emitter.lane = replace(self.emitter.lane, tail=left)
        if isinstance(left, int):
            self._accumulate(0, it, full * count + lane, masked=True)
            return
        with self.code.branch((left - 1,)):
            self._accumulate(0, it, full * count + lane, masked=True)

    def _ways(self, trips: Dim) -> int:
        """How many accumulators: enough to hide an addition's latency where the loop is long and its body light."""
        weight = sum(isinstance(n, Op | Where) for n in walk(self.reduce.body))
        if self.reduce.kind in ("any", "all") or weight > _LIGHT:
            return 1
        if isinstance(trips, int) and trips < 16:
            return 2 if trips >= 6 else 1
        return 4

    def _declare(self, ways: int) -> None:
        for _ in range(ways):
            self.names.append(self.code.fresh("acc"))
            self.code.emit_at(self.home, loop.Declare(self.names[-1], identity(self.reduce.kind, self.type)))

    def _accumulate(self, way: int, it: Iter, at: Dim, masked: bool = False) -> None:
        """acc = acc (kind) body, at one value of the innermost iterator."""
        emitter, code = self.emitter, self.code
        code.bind(it.name, at)
        acc = loop.Var(self.names[way], self.type)
        body = self.reduce.body
        if self._is_product(body) and not masked:
            assert isinstance(body, Op)
            a, b = level([emitter.value(arg) for arg in body.args])
            lanes = self.type.lanes
            code.emit(loop.Assign(acc.name, loop.Fma(lift(a, lanes), lift(b, lanes), acc)))
            return
        value = lift(convert(emitter.value(body), self.type.element), self.type.lanes)
        if masked:
            value = loop.Select(emitter.tail_mask(), value, identity(self.reduce.kind, self.type))
        code.emit(loop.Assign(acc.name, combine(self.reduce.kind, acc, value)))

    def _is_product(self, body: Scalar) -> bool:
        return (
            self.reduce.kind == "sum"
            and isinstance(body, Op)
            and body.fn == "mul"
            and body.dtype in (DType.F32, DType.F64)
            and all(a.dtype is body.dtype for a in body.args)
        )

    def _folded(self) -> loop.Value:
        """Accumulators pairwise, then lanes."""
        values: list[loop.Value] = [loop.Var(n, self.type) for n in self.names]
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [self.code.let(combine(self.reduce.kind, a, b), "acc") for a, b in pairs]
        (value,) = values
        if self.vector is None:
            return value
        self.emitter.lane = None
        folded = loop.ReduceLanes(self.reduce.kind, value, loop.Type(self.type.element))
        return self.code.let(folded, "total")
