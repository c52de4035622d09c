"""Scalar expressions as loop code: each value in the outermost scope that knows its operands, in one lane or in many.

A value that does not vary from lane to lane is computed once, as a scalar, and repeated where it meets vectors.
Guards that vary from lane to lane become masks; guards that do not become branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mapsto.devices.generic.exactness import is_rounded
from mapsto.devices.generic.normal import decided
from mapsto.devices.generic.numbering import Info, Numbering
from mapsto.devices.generic.operations import apply, convert, level, lift, number
from mapsto.devices.generic.places import Places, lane_count
from mapsto.devices.generic.scope import Code, Key, zero
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, linear, loads, symbols
from mapsto.kernel.ast import Cast, Const, Index, Load, Op, Reduce, Scalar, Where
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class Operand:
    """Where a tensor's elements are. `per_lane`: a local array that keeps one vector for each element."""

    buffer: str
    dtype: DType
    per_lane: bool = False


@dataclass(frozen=True)
class Lane:
    """The vector dimension at work: `symbol` counts the lanes of `iterator`; lanes from `tail` on are past its end.

    `iterator` and `tail` are expressions over iterators. `fills`: the iterator whose padded targets get zeros in the
    tail.
    `mask`: the lanes that are inside, where somebody else knows them.
    """

    symbol: str
    count: int
    iterator: Dim
    tail: Dim | None = None
    fills: str = ""
    mask: loop.Value | None = None

    @property
    def is_partial(self) -> bool:
        """Whether some lanes may be past the end."""
        return self.tail is not None or self.mask is not None


@dataclass(frozen=True)
class Mask:
    """A guard that varies from lane to lane."""

    value: loop.Value
    depth: int
    key: int


class Emitter:
    """Emits scalar expressions into `code`.

    `known`: tensors whose element at the present point is a value already. `lanes`: how many lanes a reduction may take
    for itself where none are at work around it. `near`: tensors that a function keeps in registers or local arrays.
    `rounded`: those whose elements hold rounding that is not defined (`exactness`). `floor`: the outermost scope that
    anything is emitted into.
    """

    def __init__(self, code: Code, operands: Mapping[str, Operand], lanes: int = 1) -> None:
        self.code = code
        self.operands = dict(operands)
        self.info = Numbering()
        self.places = Places(self)
        self.known: dict[str, loop.Value] = {}
        self.known_depth: dict[str, int] = {}
        self.lane: Lane | None = None
        self.mask: Mask | None = None
        self.internal: frozenset[str] = frozenset()
        self.row_depth = 0
        self.floor = 0
        self.writing: frozenset[str] = frozenset()
        self.lanes = lanes
        self.near: frozenset[str] = frozenset()
        self.rounded: frozenset[str] = frozenset()
        self._masks = 0

    # ---- where a value belongs ----

    def tensor_depth(self, tensor: str) -> int:
        """The outermost scope where a tensor's elements can be read."""
        if tensor in self.known:
            return self.known_depth[tensor]
        if tensor in self.writing:
            return self.code.depth
        return self.row_depth if tensor in self.internal else 0

    def depth_of(self, info: Info) -> int:
        depth = max([self.floor, *(self.code.bound_depth(s) for s in info.symbols)])
        for tensor in info.tensors:
            depth = max(depth, self.tensor_depth(tensor))
        if info.unsafe:
            depth = max(depth, self.code.guard_depth, self.mask.depth if self.mask else 0)
        if info.tensors and self.lane is not None and self.lane.tail is not None and self.is_varying(info):
            # a padded load has no mask: it must stay where there is a tail at all
            depth = max(depth, self.code.depth_of(self.code.expand(self.lane.tail)), self.code.guard_depth)
        return min(depth, self.code.depth)

    def key(self, info: Info) -> Key:
        versions = tuple(self.code.versions.get(s, 0) for s in sorted(info.symbols))
        mask = self.mask.key if self.mask is not None and info.unsafe else 0
        return (info.number, versions, mask)

    def is_varying(self, info: Info) -> bool:
        """Whether some iterator of the expression is the one that the lanes are of."""
        if self.lane is None:
            return False
        none: frozenset[str] = frozenset()
        lane = self.lane.symbol
        return lane in info.symbols or any(lane in self.code.bound_to.get(s, none) for s in info.symbols)

    def lanes_of(self, info: Info) -> int:
        """How many lanes a value has at most."""
        wide = [self.known[t].type.lanes for t in info.tensors if t in self.known]
        if self.lane is not None and (
            self.is_varying(info) or any(t in self.operands and self.operands[t].per_lane for t in info.tensors)
        ):
            wide.append(self.lane.count)
        return max(wide, default=1)

    def forget(self, tensor: str) -> None:
        """What was read of a tensor before is out of date."""
        stale = {i.number for i in self.info.all() if tensor in i.tensors}

        def is_stale(key: Key) -> bool:
            return key[0] in stale or (key[0] == "loaded" and tensor in key[1])  # type: ignore[operator]

        self.code.forget(is_stale)

    def define(self, tensor: str, value: loop.Value) -> None:
        """From now on `value` is the tensor's element at the present point."""
        self.forget(tensor)
        self.known[tensor] = value
        self.known_depth[tensor] = self.code.depth

    # ---- values ----

    def value(self, e: Scalar) -> loop.Value:
        if isinstance(e, Const):
            return number(e.value, loop.Type(e.dtype))
        info = self.info(e)
        key = self.key(info)
        found = self.code.find(key)
        if found is not None:
            return found
        with self.code.at(self.depth_of(info)):
            result = self._emit(e)
            self.code.remember(key, result)
        return result

    def _emit(self, e: Scalar) -> loop.Value:
        if isinstance(e, Load):
            return self._load(e)
        if isinstance(e, Op) and e.fn == "div" and self._divides_often(e):
            return self._times_reciprocal(*e.args)
        if isinstance(e, Op):
            args = [self.value(a) for a in e.args]
            statements, result = apply(e.fn, args, e.dtype, self.code.fresh)
            for statement in statements:
                self.code.emit(statement)
            return self.code.let(result)
        if isinstance(e, Cast):
            return self.code.let(convert(self.value(e.arg), e.dtype))
        if isinstance(e, Index):
            return self.code.let(convert(self.places.number(self.code.expand(e.expr)), e.dtype), "at")
        if isinstance(e, Where):
            return self._where(e)
        assert isinstance(e, Reduce), e
        from mapsto.devices.generic.reduce import emit_reduce

        return emit_reduce(self, e)

    def _divides_often(self, e: Op) -> bool:
        """Whether an f32 divisor is the same all through a loop (a softmax's sum): one division and many
        multiplications then, for at most one more unit in the last place. The quotient of exact numbers is exact to
        the bit: it may be rounded to an integer next, as quantisation does.
        """
        if e.dtype is not DType.F32 or isinstance(e.args[1], Const):
            return False
        if not any(is_rounded(arg, self.rounded) for arg in e.args):
            return False
        return self.depth_of(self.info(e.args[1])) < self.depth_of(self.info(e))

    def _times_reciprocal(self, x: Scalar, divisor: Scalar) -> loop.Value:
        """x / d as (x * s) * (1 / (d * s)), s a power of two that keeps the reciprocal of any d a normal number."""
        scale, inverse = self._reciprocal(divisor)
        scaled = self.code.let(loop.Binary("mul", *level([self.value(x), scale])))
        return self.code.let(loop.Binary("mul", *level([scaled, inverse])))

    def _reciprocal(self, e: Scalar) -> tuple[loop.Value, loop.Value]:
        """(s, 1 / (d * s)), computed where d is known."""
        info = self.info(e)
        keys: list[Key] = [(info.number, part, self.key(info)) for part in ("scale", "reciprocal")]
        found = [self.code.find(key) for key in keys]
        scale, inverse = found
        if scale is None or inverse is None:
            with self.code.at(self.depth_of(info)):
                value = self.value(e)
                t = value.type
                size = self.code.let(loop.Unary("abs", value))
                small = loop.Compare("lt", size, number(2.0**-94, t))
                large = loop.Compare("gt", size, number(2.0**94, t))
                rest = loop.Select(large, number(2.0**-32, t), number(1.0, t))
                scale = self.code.let(loop.Select(small, number(2.0**32, t), rest))
                near = self.code.let(loop.Binary("mul", value, scale))
                inverse = self.code.let(loop.Binary("div", number(1.0, t), near))
                self.code.remember(keys[0], scale)
                self.code.remember(keys[1], inverse)
        return scale, inverse

    # ---- loads ----

    def _load(self, e: Load) -> loop.Value:
        if e.tensor in self.known:
            return self.known[e.tensor]
        operand = self.operands[e.tensor]
        place = self.places.at(operand, self.code.expand(e.index[0]))
        if operand.per_lane:
            return self.places.vector_load(operand.buffer, place, operand.dtype, None)
        if not self.varies(place):
            return self.uniform_load(operand, place, guarded=e.index[1] != 1)
        return self.places.vector_load(operand.buffer, place, operand.dtype, self._load_mask(e, place))

    def uniform_load(self, operand: Operand, place: Dim, guarded: bool) -> loop.Value:
        load = loop.Load(operand.buffer, place, loop.Type(operand.dtype))
        if not guarded or self.mask is None:
            return self.code.let(load, "x")
        # some lane must want the element before its place may be touched
        name, t = self.code.fresh("x"), loop.Type(operand.dtype)
        self.code.emit(loop.Declare(name, zero(t)))
        some = self.mask.value
        if some.type.lanes > 1:
            some = loop.ReduceLanes("any", some, loop.Type(DType.BOOL))
        self.code.emit(loop.If(some, (loop.Assign(name, load),)))
        return loop.Var(name, t)

    def _load_mask(self, e: Load, place: Dim) -> loop.Value | None:
        """The lanes that a load may touch: those inside the iterator's extent (unless the buffer is padded), those
        whose guard holds.
        """
        assert self.lane is not None
        padded = e.index[2] != 0 and self.code.expand(e.index[2]) == self.code.expand(self.lane.iterator)
        padded = padded and linear(place, self.lane.symbol) is not None
        parts: list[loop.Value] = []
        if not padded and self.lane.is_partial:
            parts.append(self.tail_mask())
        if self.mask is not None and e.index[1] != 1:
            parts.append(self.mask.value)
        return self.both(parts)

    def both(self, masks: list[loop.Value]) -> loop.Value | None:
        if not masks:
            return None
        result = masks[0]
        for mask in masks[1:]:
            result = self.code.let(loop.Binary("and", result, mask), "m")
        return result

    def tail_mask(self) -> loop.Value:
        assert self.lane is not None
        if self.lane.mask is not None:
            return self.lane.mask
        assert self.lane.tail is not None
        return self.lane_mask(self.code.expand(self.lane.tail))

    def lane_mask(self, count: Dim) -> loop.Value:
        """lane < count, computed in the outermost scope that knows the count."""
        assert self.lane is not None
        key: Key = ("lanes", count, self.lane.count)
        found = self.code.find(key)
        if found is None:
            with self.code.at(min(max(self.code.depth_of(count), self.floor), self.code.depth)):
                found = self.code.let(loop.LaneMask(count, loop.Type(DType.BOOL, self.lane.count)), "m")
                self.code.remember(key, found)
        return found

    def varies(self, place: Dim) -> bool:
        """Whether an expression over loop symbols differs between lanes."""
        return self.lane is not None and self.lane.symbol in symbols(place)

    # ---- guards ----

    def _where(self, e: Where) -> loop.Value:
        uniform: list[Dim] = []
        varying: list[Dim] = []
        for cond in (self.code.expand(c) for c in e.conds):
            holds = decided(cond, self.code.ranges) if not loads(cond) else None
            if holds is False:
                return self.value(e.otherwise)
            if holds is None:
                cond = self.places.resolved(cond)
                (varying if self.varies(cond) else uniform).append(cond)
        if uniform and self.info(e.then).tensors:
            return self._branch(tuple(uniform), varying, e)
        masks = [self._compared(c) for c in uniform]
        return self._selected([*masks, *(self._guard_mask(c) for c in varying)], e)

    def _compared(self, cond: Dim) -> loop.Value:
        t = loop.Type(DType.I64)
        return self.code.let(loop.Compare("ge", loop.IndexValue(cond, t), number(0, t)), "c")

    def _guard_mask(self, cond: Dim) -> loop.Value:
        """cond >= 0, lane by lane; a linear condition holds on the first or on the last lanes."""
        assert self.lane is not None
        found = lane_count(cond, self.lane.symbol)
        if found is not None:
            count, first = found
            mask = self.lane_mask(count)
            return mask if first else self.code.let(loop.Unary("not", mask), "m")
        at = self.places.number(cond)
        return self.code.let(loop.Compare("ge", at, lift(number(0, loop.Type(DType.I64)), at.type.lanes)), "m")

    def _selected(self, masks: list[loop.Value], e: Where) -> loop.Value:
        """Both sides computed (loads of the first under the mask), one of them chosen."""
        if not masks:
            return self.value(e.then)
        lanes = max(m.type.lanes for m in masks)
        mask = self.both([lift(m, lanes) for m in masks])
        assert mask is not None
        otherwise = self.value(e.otherwise)
        outer = self.mask
        if self.info(e.then).unsafe:
            self._masks += 1
            inside = mask if outer is None else self.code.let(loop.Binary("and", outer.value, mask), "m")
            self.mask = Mask(inside, self.code.depth, self._masks)
        then = self.value(e.then)
        self.mask = outer
        lanes = max(lanes, then.type.lanes, otherwise.type.lanes)
        return self.code.let(loop.Select(lift(mask, lanes), lift(then, lanes), lift(otherwise, lanes)))

    def _branch(self, uniform: tuple[Dim, ...], varying: list[Dim], e: Where) -> loop.Value:
        """The first side only where the guards that all lanes share hold."""
        home = self.code.depth
        otherwise = self.value(e.otherwise)
        name = self.code.fresh("v")
        with self.code.branch(uniform):
            masks = [self._guard_mask(c) for c in varying]
            then = self._selected(masks, replace(e, conds=())) if masks else self.value(e.then)
            lanes = max(then.type.lanes, otherwise.type.lanes)
            self.code.emit_at(home, loop.Declare(name, lift(otherwise, lanes)))
            self.code.emit(loop.Assign(name, lift(then, lanes)))
        return loop.Var(name, loop.Type(then.type.element, lanes))
