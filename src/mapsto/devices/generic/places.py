"""Places in buffers as loop code: linear in the lane (strided accesses), or computed lane by lane (gathers)."""

from __future__ import annotations

from mapsto.devices.generic.context import Context, Operand
from mapsto.devices.generic.operations import constant, lift
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Atom, Call, Dim, Expr, Linear, atoms, linear, load, of_atom, product, sym
from mapsto.ir.expr_rewrite import rebuild
from mapsto.loop import ast as loop

_I64, _F64 = DType.I64, DType.F64


class Places:
    """Index expressions (over loop symbols) as values, loads and stores."""

    def __init__(self, emitter: Context) -> None:
        self.emitter = emitter

    # ---- loaded integers ----

    def resolved(self, e: Dim) -> Dim:
        """Loaded integers that all lanes share get a name; what varies stays in the expression."""

        def call(c: Call, args: tuple[Dim, ...]) -> Dim | None:
            if c.fn != "load":
                return None
            place = self.at(self.emitter.operands[c.tensor], args[0])
            return load(c.tensor, (place,)) if self.emitter.varies(place) else self._loaded(c.tensor, place)

        return rebuild(e, lambda atom: None, call)

    def at(self, operand: Operand, place: Dim) -> Dim:
        """The place of an element (for the lane, where each lane has its own), loaded integers resolved."""
        place = self.resolved(place)
        lane = self.emitter.lane
        if not operand.per_lane:
            return place
        assert lane is not None
        return place * lane.count + sym(lane.symbol)

    def _loaded(self, tensor: str, place: Dim) -> Dim:
        emitter, code = self.emitter, self.emitter.code
        depth = max(code.depth_of(place), emitter.tensor_depth(tensor), code.guard_depth, emitter.floor)
        operand = emitter.operands[tensor]
        with code.at(min(depth, code.depth)):
            key = ("loaded", (tensor,), place, emitter.mask.key if emitter.mask else 0)
            return code.index(key, lambda: _as_i64(emitter.uniform_load(operand, place, guarded=True)), "at")

    # ---- integers as values ----

    def number(self, e: Dim) -> loop.Value:
        """The i64 value of an index expression: one lane, or all lanes where it varies."""
        return self.resolved_number(self.resolved(e))

    def resolved_number(self, e: Dim) -> loop.Value:
        """The same of an expression that is resolved already: resolving twice would place elements twice."""
        lane = self.emitter.lane
        if lane is None or not self.emitter.varies(e):
            return loop.IndexValue(e, loop.Type(_I64))
        found = linear(e, lane.symbol)
        if found is not None:
            return loop.IndexValue(found.rest, loop.Type(_I64, lane.count), found.coefficient)
        return self._named(e)

    def _named(self, e: Dim) -> loop.Value:
        """A vector of integers, computed in the outermost scope that it belongs to."""
        code, emitter = self.emitter.code, self.emitter
        depth = max(code.depth_of(e), emitter.floor)
        for atom in _loads_in(e):
            depth = max(depth, code.guard_depth, emitter.tensor_depth(atom.tensor))
            depth = max(depth, emitter.mask.depth if emitter.mask else 0)
            if emitter.lane is not None and emitter.lane.tail is not None:
                depth = max(depth, code.depth_of(code.expand(emitter.lane.tail)))
        key = ("loaded", tuple(sorted(_tensors(e))), e, emitter.mask.key if emitter.mask else 0, "lanes")
        found = code.find(key)
        if found is None:
            with code.at(min(depth, code.depth)):
                found = code.let(self._sum(e), "at")
                code.remember(key, found)
        return found

    def _sum(self, e: Dim) -> loop.Value:
        """The terms of an expression: those linear in the lane together, the others one by one."""
        assert self.emitter.lane is not None and isinstance(e, Expr)
        lane, wide = self.emitter.lane, loop.Type(_I64, self.emitter.lane.count)
        plain: Dim = 0
        parts: list[loop.Value] = []
        for monomial, coefficient in e.terms:
            hard = [a for a in monomial if isinstance(a, Call) and self.emitter.varies(of_atom(a))]
            if not hard:
                plain = plain + product([coefficient, *(of_atom(a) for a in monomial)])
                continue
            rest = [a for a in monomial if a not in hard]
            part = self._call(hard[0])
            for atom in hard[1:]:
                part = loop.Binary("mul", part, self._call(atom))
            factor = product([coefficient, *(of_atom(a) for a in rest)])
            if factor != 1:
                part = loop.Binary("mul", part, lift(self.resolved_number(factor), lane.count))
            parts.append(part)
        found = linear(plain, lane.symbol)
        if found is None:  # lane * lane
            found = Linear(0, 0)
            parts += [self._product(m, c) for m, c in (plain.terms if isinstance(plain, Expr) else ())]
        total: loop.Value = loop.IndexValue(found.rest, wide, found.coefficient)
        for part in parts:
            total = part if isinstance(total, loop.IndexValue) and found == (0, 0) else loop.Binary("add", total, part)
        return total

    def _product(self, monomial: tuple[Atom, ...], coefficient: int) -> loop.Value:
        assert self.emitter.lane is not None
        total: loop.Value = constant(coefficient, loop.Type(_I64, self.emitter.lane.count))
        for atom in monomial:
            total = loop.Binary("mul", total, lift(self.resolved_number(of_atom(atom)), self.emitter.lane.count))
        return total

    def _call(self, call: Call) -> loop.Value:
        assert self.emitter.lane is not None
        lanes = self.emitter.lane.count
        if call.fn == "load":
            return self._gathered(call)
        a, b = (lift(self.resolved_number(arg), lanes) for arg in call.args)
        if call.fn in ("min", "max"):
            return loop.Binary(call.fn, a, b)
        if call.fn == "mod":
            a = self.emitter.code.let(a, "at")
            rest = loop.Binary("sub", a, loop.Binary("mul", self._floordiv(call, a, b), b))
            return self._held(rest, b) if _loads_in(call.args[0]) else rest
        return self._floordiv(call, a, b)

    def _held(self, rest: loop.Value, divisor: loop.Value) -> loop.Value:
        """A remainder inside [0, divisor) whatever was loaded: beyond 2^52 the quotient is not exact."""
        zero, one = (lift(constant(n, loop.Type(_I64)), rest.type.lanes) for n in (0, 1))
        return loop.Binary("max", loop.Binary("min", rest, loop.Binary("sub", divisor, one)), zero)

    def _floordiv(self, call: Call, a: loop.Value, b: loop.Value) -> loop.Value:
        """Through f64, exact below 2^52: processors have no vector division of integers."""
        key = ("quotient", *call.args)
        found = self.emitter.code.find(key)
        if found is not None:
            return found
        lanes = a.type.lanes
        divisor = call.args[1]
        if isinstance(divisor, int) and divisor & (divisor - 1) == 0:
            shift = lift(constant(divisor.bit_length() - 1, loop.Type(_I64)), lanes)
            return loop.Binary("shr", a, shift)
        ratio = loop.Binary("div", loop.Cast(a, loop.Type(_F64, lanes)), loop.Cast(b, loop.Type(_F64, lanes)))
        found = self.emitter.code.let(loop.Cast(loop.Unary("floor", ratio), loop.Type(_I64, lanes)), "at")
        self.emitter.code.remember(key, found)
        return found

    def _gathered(self, call: Call) -> loop.Value:
        emitter = self.emitter
        assert emitter.lane is not None
        operand = emitter.operands[call.tensor]
        parts = [emitter.tail_mask()] if emitter.lane.is_partial and not operand.per_lane else []
        if emitter.mask is not None:
            parts.append(emitter.mask.value)
        return _as_i64(self.vector_load(operand.buffer, call.args[0], operand.dtype, emitter.both(parts)))

    # ---- memory ----

    def vector_load(self, buffer: str, place: Dim, dtype: DType, mask: loop.Value | None) -> loop.Value:
        """The elements at a place that varies from lane to lane."""
        lane = self.emitter.lane
        assert lane is not None
        t = loop.Type(dtype, lane.count)
        found = linear(place, lane.symbol)
        if found is None:
            return self.emitter.code.let(loop.Gather(buffer, self._named(place), t, mask), "x")
        stride, base = found
        return self.emitter.code.let(loop.Load(buffer, base, t, stride, mask), "x")

    def store(self, buffer: str, place: Dim, value: loop.Value, mask: loop.Value | None) -> loop.Statement:
        """The statement that stores `value` at a place (resolved, over loop symbols)."""
        lane = self.emitter.lane
        if lane is None or not self.emitter.varies(place):
            assert value.type.lanes == 1, "lanes that differ meet in one place"
            return loop.Store(buffer, place, value)
        value = lift(value, lane.count)
        found = linear(place, lane.symbol)
        if found is None:
            return loop.Scatter(buffer, self._named(place), value, mask)
        return loop.Store(buffer, found.rest, value, found.coefficient, mask)


def _as_i64(value: loop.Value) -> loop.Value:
    return value if value.type.element is _I64 else loop.Cast(value, loop.Type(_I64, value.type.lanes))


def _loads_in(e: Dim) -> list[Call]:
    return [a for a in atoms(e) if isinstance(a, Call) and a.fn == "load"]


def _tensors(e: Dim) -> set[str]:
    return {a.tensor for a in _loads_in(e)}
