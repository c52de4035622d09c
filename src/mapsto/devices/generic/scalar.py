"""Scalar expressions as loop code: each value in the outermost scope that knows its operands, in one lane or in many.

A value that does not vary from lane to lane is computed once, as a scalar, and repeated where it meets vectors.
Guards that vary from lane to lane become masks; guards that do not become branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mapsto.devices.generic.context import Context, Mask, Operand, Tensors
from mapsto.devices.generic.exactness import is_picked, is_rounded
from mapsto.devices.generic.flat import FlatLoad
from mapsto.devices.generic.normal import decided
from mapsto.devices.generic.numbering import state_name
from mapsto.devices.generic.operations import apply, constant, convert, lift, same_lanes, upper_half
from mapsto.devices.generic.places import Places
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.reduce import emit_fold, emit_reduce
from mapsto.devices.generic.saturation import quantised, saturated
from mapsto.devices.generic.scope import Code, MemoKey
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, half_line, linear, loads
from mapsto.kernel.ast import Cast, Const, Fold, Index, Op, Reduce, Scalar, State, Where
from mapsto.loop import ast as loop


class Emitter(Context):
    """Emits scalar expressions."""

    def __init__(
        self,
        code: Code,
        operands: Mapping[str, Operand],
        processor: Processor,
        lanes: int = 1,
        tensors: Tensors = Tensors(),  # noqa: B008
    ) -> None:
        super().__init__(code, operands, processor, lanes, tensors)
        self._masks = 0

    @property
    def places(self) -> Places:
        """Made anew: one that is kept would keep what keeps it, which nothing but the collector takes apart."""
        return Places(self)

    # ---- values ----

    def value(self, e: Scalar) -> loop.Value:
        if isinstance(e, Const):
            return constant(e.value, loop.Type(e.dtype))
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
        if isinstance(e, FlatLoad):
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
            exact = e.dtype is DType.BF16 and e.arg.dtype is DType.F32 and is_picked(e.arg, e.dtype)
            if exact:
                return self.code.let(upper_half(self.value(e.arg), e.dtype))
            return self._cast(e)
        if isinstance(e, Index):
            return self.code.let(convert(self.places.number(self.code.expand(e.expr)), e.dtype), "at")
        if isinstance(e, Where):
            return self._where(e)
        if isinstance(e, State):
            return self.known[state_name(e)]
        if isinstance(e, Fold):
            return emit_fold(self, e)
        assert isinstance(e, Reduce), e
        return emit_reduce(self, e)

    def _cast(self, e: Cast) -> loop.Value:
        """A conversion; of what is rounded to a byte, all in one."""
        rounded = quantised(e)
        if rounded is not None:
            value = self.value(rounded.value)
            return self.code.let(loop.Nearest(value, rounded.low, rounded.high, rounded.zero, e.dtype))
        arg, by = saturated(e)
        found = self.value(arg)
        return self.code.let(convert(found if by is None else self.code.let(convert(found, by)), e.dtype))

    def _divides_often(self, e: Op) -> bool:
        """Whether an f32 divisor is a constant, or the same all through a loop (a softmax's sum): one division, or
        none, and many multiplications then, for at most one more unit in the last place. The quotient of exact numbers
        is exact to the bit: it may be rounded to an integer next, as quantisation does.
        """
        if e.dtype is not DType.F32 or not any(is_rounded(arg, self.rounded) for arg in e.args):
            return False
        divisor = e.args[1]
        if isinstance(divisor, Const):
            return 2.0**-94 <= abs(float(divisor.value)) <= 2.0**94
        return self.depth_of(self.info(divisor)) < self.depth_of(self.info(e))

    def _times_reciprocal(self, x: Scalar, divisor: Scalar) -> loop.Value:
        """x / d as x * (1 / d), or as (x * s) * (1 / (d * s)) where d is computed: s is a power of two that keeps the
        reciprocal of any d a normal number.
        """
        if isinstance(divisor, Const):
            value = self.value(x)
            constant_inverse = constant(1.0 / float(divisor.value), value.type)
            return self.code.let(loop.Binary("mul", value, constant_inverse))
        scale, inverse = self._reciprocal(divisor)
        scaled = self.code.let(loop.Binary("mul", *same_lanes([self.value(x), scale])))
        return self.code.let(loop.Binary("mul", *same_lanes([scaled, inverse])))

    def _reciprocal(self, e: Scalar) -> tuple[loop.Value, loop.Value]:
        """(s, 1 / (d * s)), computed where d is known."""
        info = self.info(e)
        keys: list[MemoKey] = [(info.number, part, self.key(info)) for part in ("scale", "reciprocal")]
        found = [self.code.find(key) for key in keys]
        scale, inverse = found
        if scale is None or inverse is None:
            with self.code.at(self.depth_of(info)):
                value = self.value(e)
                t = value.type
                size = self.code.let(loop.Unary("abs", value))
                small = loop.Compare("lt", size, constant(2.0**-94, t))
                large = loop.Compare("gt", size, constant(2.0**94, t))
                rest = loop.Select(large, constant(2.0**-32, t), constant(1.0, t))
                scale = self.code.let(loop.Select(small, constant(2.0**32, t), rest))
                near = self.code.let(loop.Binary("mul", value, scale))
                inverse = self.code.let(loop.Binary("div", constant(1.0, t), near))
                self.code.remember(keys[0], scale)
                self.code.remember(keys[1], inverse)
        return scale, inverse

    # ---- loads ----

    def _load(self, e: FlatLoad) -> loop.Value:
        if e.tensor in self.known:
            return self.known[e.tensor]
        operand = self.operands[e.tensor]
        place = self.places.at(operand, self.code.expand(e.place))
        if operand.per_lane:
            return self.places.vector_load(operand.buffer, place, operand.dtype, None)
        if not self.varies(place):
            return self.uniform_load(operand, place, guarded=not e.inside)
        return self.places.vector_load(operand.buffer, place, operand.dtype, self._load_mask(e, place))

    def _load_mask(self, e: FlatLoad, place: Dim) -> loop.Value | None:
        """The lanes that a load may touch: those inside the iterator's extent (unless the buffer is padded), those
        whose guard holds.
        """
        assert self.lane is not None
        padded = e.padded != 0 and self.code.expand(e.padded) == self.code.expand(self.lane.iterator)
        padded = padded and linear(place, self.lane.symbol) is not None
        parts: list[loop.Value] = []
        if not padded and self.lane.is_partial:
            parts.append(self.tail_mask())
        if self.mask is not None and not e.inside:
            parts.append(self.mask.value)
        return self.both(parts)

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
        return self.code.let(loop.Compare("ge", loop.IndexValue(cond, t), constant(0, t)), "c")

    def _guard_mask(self, cond: Dim) -> loop.Value:
        """cond (resolved) >= 0, lane by lane; a linear condition holds on the first or on the last lanes."""
        assert self.lane is not None
        found = linear(cond, self.lane.symbol)
        holds = None if found is None else half_line(*found)
        if holds is not None and holds.stop is not None:
            return self.lane_mask(holds.stop)
        if holds is not None and holds.start is not None:
            return self.code.let(loop.Unary("not", self.lane_mask(holds.start)), "m")
        at = self.places.resolved_number(cond)
        return self.code.let(loop.Compare("ge", at, lift(constant(0, loop.Type(DType.I64)), at.type.lanes)), "m")

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
