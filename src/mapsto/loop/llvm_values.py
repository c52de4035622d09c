"""Values of the loop language as LLVM IR: arithmetic, memory access, lanes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.loop.ast import (
    WIDEST_SHUFFLED_STRIDE,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Const,
    Dot,
    Fma,
    Gather,
    IndexValue,
    LaneMask,
    Load,
    Lookup,
    Nearest,
    ReduceLanes,
    Select,
    Shuffle,
    Type,
    Unary,
    Value,
    Var,
    kept_lanes,
)
from mapsto.loop.llvm_convert import Converter
from mapsto.loop.llvm_emit import IrWriter, element_text, lanes_text, mangled, memory_text, type_text, vector_text

_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
_INTEGER_OPS = ("add", "sub", "mul", "and", "or", "xor")


def constant_text(value: float | int | bool, element: DType) -> str:
    """A scalar literal, exact to the bit."""
    if element is DType.BOOL:
        return "true" if value else "false"
    if not element.is_float:
        return str(int(value))
    if element.is_half:
        return str(int(np.array(value, dtype=element.numpy).view(np.uint16)))
    with np.errstate(over="ignore"):
        exact = float(np.float32(value)) if element is DType.F32 else float(value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"


def splat_text(scalar: str, t: Type) -> str:
    return scalar if t.lanes == 1 else f"splat ({element_text(t.element)} {scalar})"


class Values:
    """Prints values; `variables` holds the current SSA name of every Let and Declare in sight."""

    def __init__(self, emitter: IrWriter, convert: Converter) -> None:
        self.emitter = emitter
        self.convert = convert
        self.variables: dict[str, str] = {}
        self._shared: dict[int, str] = {}

    def statement_value(self, value: Value) -> str:
        """The SSA text of a statement's value; nodes that the tree shares are computed once."""
        self._shared = {}
        return self.value(value)

    def value(self, value: Value) -> str:
        known = self._shared.get(id(value))
        if known is None:
            known = _PRINTERS[type(value)](self, value)
            self._shared[id(value)] = known
        return known

    def define(self, name: str, value: Value) -> None:
        """From here on a name stands for this value."""
        self.variables[name] = self.statement_value(value)

    def enter(self, variables: Mapping[str, str]) -> None:
        """From here on names stand for these SSA names, each in its own scope."""
        self.variables = dict(variables)

    # ---- leaves ----

    def _const(self, v: Const) -> str:
        return splat_text(constant_text(v.value, v.type.element), v.type)

    def _var(self, v: Var) -> str:
        return self.variables[v.name]

    def _index_value(self, v: IndexValue) -> str:
        """base + stride*lane, worked out in i64 and then converted."""
        t, base = v.type, self.emitter.index(v.base).text
        wide = Type(DType.I64, t.lanes)
        if t.lanes == 1:
            return self.convert.cast(base, wide, t)
        vector = self.convert.splat(base, wide)
        stride = self.emitter.constant(v.stride)
        if stride != 0:
            lanes = lanes_text("i64", range(t.lanes))
            if stride is None:
                scale = self.convert.splat(self.emitter.index(v.stride).text, wide)
                lanes = self.emitter.let(f"mul nsw {type_text(wide)} {scale}, {lanes}")
            else:
                lanes = lanes_text("i64", [stride * lane for lane in range(t.lanes)])
            vector = self.emitter.let(f"add nsw {type_text(wide)} {vector}, {lanes}")
        return self.convert.cast(vector, wide, t)

    def _lane_mask(self, v: LaneMask) -> str:
        """lane < count, compared in 32 bits: the count is clamped to the number of lanes first."""
        lanes = v.type.lanes
        count = self.emitter.constant(v.count)
        if count is not None:
            return "<" + ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(lanes)) + ">"
        e = self.emitter
        low = e.intrinsic("smin", "i64", e.index(v.count).text, str(lanes))
        narrow = e.let(f"trunc i64 {low} to i32")
        if lanes == 1:
            return e.let(f"icmp sgt i32 {narrow}, 0")
        vector = self.convert.splat(narrow, Type(DType.I32, lanes))
        return e.let(f"icmp sgt <{lanes} x i32> {vector}, {lanes_text('i32', range(lanes))}")

    # ---- memory ----

    def _load(self, v: Load) -> str:
        stride = 1 if v.type.lanes == 1 else self.emitter.constant(v.stride)
        if stride == 1:
            return self._from_memory(self.contiguous(v.buffer, v.base, v.type, v.mask), v.type)
        if stride == 0 and v.mask is None:
            one = Type(v.type.element)
            scalar = self._from_memory(self.contiguous(v.buffer, v.base, one, None), one)
            return self.convert.splat(scalar, v.type)
        if stride is not None and 1 < stride <= WIDEST_SHUFFLED_STRIDE and self._loads_under(v.mask, v.type):
            return self._from_memory(self._shuffled(v, stride), v.type)
        if stride == -1 and v.mask is None:
            plain = self.contiguous(v.buffer, v.base - (v.type.lanes - 1), v.type, None)
            memory, back = vector_text(memory_text(v.type.element), v.type.lanes), range(v.type.lanes - 1, -1, -1)
            return self._from_memory(self.emitter.shuffle(memory, plain, "poison", back), v.type)
        lanes = Type(DType.I64, v.type.lanes)
        index = self._index_value(IndexValue(0, lanes, v.stride))
        return self._gathered(self.emitter.address(v.buffer, v.base), v.buffer, index, v.type, v.mask)

    def contiguous(self, buffer: str, base: Dim, t: Type, mask: Value | None) -> str:
        """Load adjacent elements in their memory form."""
        return self._contiguous(buffer, base, t, None if mask is None else self.value(mask))

    def _contiguous(self, buffer: str, base: Dim, t: Type, on: str | None) -> str:
        e, element, n = self.emitter, memory_text(t.element), t.lanes
        pointer, align = e.address(buffer, base), t.element.size
        if on is None:
            return e.let(f"load {vector_text(element, n)}, ptr {pointer}, align {align}")
        if n == 1:
            on = e.let(f"insertelement <1 x i1> poison, i1 {on}, i64 0")
        memory = f"<{n} x {element}>"
        args = [("ptr", pointer), ("i32", str(align)), (f"<{n} x i1>", on), (memory, "zeroinitializer")]
        got = e.call(memory, f"llvm.masked.load.{mangled(memory)}.p0", args)
        return e.let(f"extractelement {memory} {got}, i64 0") if n == 1 else got

    def _loads_under(self, mask: Value | None, t: Type) -> bool:
        """Whether vectors are loaded in one instruction, under a mask if there is one."""
        return mask is None or self.convert.capabilities.has("masked" if t.element.size >= 4 else "masked_narrow")

    def _shuffled(self, v: Load, stride: int) -> str:
        """A small constant stride by whole vectors and shuffles, touching nothing outside the first and the last
        element that is asked for.
        """
        e, n = self.emitter, v.type.lanes
        memory = vector_text(memory_text(v.type.element), n)
        mask = None if v.mask is None else self.value(v.mask)
        starts = [k * n for k in range(stride - 1)] + [stride * (n - 1) + 1 - n]
        result, done = "poison", 0  # lanes [0, done) of `result` are final
        for start in starts:
            on = None
            if mask is not None:  # of a part, the elements that are some lane's
                lanes = [(start + k) // stride if (start + k) % stride == 0 else n for k in range(n)]
                on = e.shuffle(f"<{n} x i1>", mask, "zeroinitializer", lanes)
            part = self._contiguous(v.buffer, v.base + start, v.type, on)
            offsets = [min(max(lane * stride - start, 0), n - 1) for lane in range(n)]
            picks = [lane if lane < done else n + offsets[lane] for lane in range(n)]
            result = e.shuffle(memory, result, part, picks)
            done = min(-(-(start + n) // stride), n)
        return result

    def _gathered(self, pointer: str, buffer: str, index: str, t: Type, mask: Value | None) -> str:
        e, n, element = self.emitter, t.lanes, memory_text(t.element)
        if n == 1:
            at = e.let(f"getelementptr {element}, ptr {pointer}, i64 {index}")
            if mask is not None:  # a lane that is off reads its own buffer's start and is then dropped
                at = e.choose(1, self.value(mask), "ptr", at, e.buffers[buffer].pointer.text)
            got = e.let(f"load {element}, ptr {at}, align {t.element.size}")
            if mask is not None:
                got = e.choose(1, self.value(mask), element, got, "zeroinitializer")
            return self._from_memory(got, t)
        at = e.let(f"getelementptr {element}, ptr {pointer}, <{n} x i64> {index}")
        memory = vector_text(element, n)
        on = "splat (i1 true)" if mask is None else self.value(mask)
        args = [(f"<{n} x ptr>", at), ("i32", str(t.element.size)), (f"<{n} x i1>", on), (memory, "zeroinitializer")]
        return self._from_memory(e.call(memory, f"llvm.masked.gather.{mangled(memory)}.v{n}p0", args), t)

    def _gather(self, v: Gather) -> str:
        pointer = self.emitter.buffers[v.buffer].pointer.text
        return self._gathered(pointer, v.buffer, self.value(v.index), v.type, v.mask)

    def _from_memory(self, text: str, t: Type) -> str:
        if t.element is not DType.BOOL:
            return text
        return self.emitter.let(f"icmp ne {vector_text('i8', t.lanes)} {text}, zeroinitializer")

    # ---- arithmetic ----

    def _broadcast(self, v: Broadcast) -> str:
        return self.convert.splat(self.value(v.arg), v.type)

    def _binary(self, v: Binary) -> str:
        a, b, t = self.value(v.a), self.value(v.b), v.type
        return self.combine(v.op, a, b, t, v.a, v.b)

    def combine(self, op: str, a: str, b: str, t: Type, va: Value | None = None, vb: Value | None = None) -> str:
        """One binary operation on printed operands; `va` and `vb` are their trees where known (literals make cheaper
        forms)."""
        if t.element.is_half:
            # f32 has more than twice the digits: rounding its result again is as good as rounding once
            (wide_a, wide), (wide_b, _) = self.convert.widen(a, t), self.convert.widen(b, t)
            return self.convert.cast(self.combine(op, wide_a, wide_b, wide, va, vb), wide, t)
        e, text = self.emitter, type_text(t)
        if op in ("min", "max", "minnum", "maxnum"):
            return self._extreme(op, a, b, t, va, vb)
        if op == "copysign":
            return e.intrinsic("copysign", text, a, b)
        if t.element.is_float:
            return e.op(_FLOAT_OPS[op], text, a, b)
        if op in _INTEGER_OPS:
            return e.op(op, text, a, b)
        literal = int(vb.value) if isinstance(vb, Const) else None
        if op in ("shl", "shr"):
            return self._shift(op, a, b, t, literal)
        return self._divide(op, a, b, t, literal)

    def _extreme(self, op: str, a: str, b: str, t: Type, va: Value | None, vb: Value | None) -> str:
        """min and max.

        x86's minps/maxps return the SECOND operand when either is NaN; the forms below each match it or two more
        instructions.
        """
        e, text, largest = self.emitter, type_text(t), op.startswith("max")
        if t.element is DType.BOOL:
            return e.op("or" if largest else "and", text, a, b)
        if not t.element.is_float:
            return e.intrinsic(f"{'s' if t.element.is_signed else 'u'}{op[:3]}", text, a, b)
        if isinstance(vb, Const) and vb.value == vb.value:
            a, b, va, vb = b, a, vb, va  # a literal goes first: NaN in the other operand is then returned
        wins = e.op("fcmp ogt" if largest else "fcmp olt", text, a, b)
        best = e.choose(t.lanes, wins, text, a, b)
        if op in ("minnum", "maxnum") or (isinstance(va, Const) and va.value == va.value):
            return best
        return e.choose(t.lanes, e.op("fcmp uno", text, a, a), text, a, best)

    def _shift(self, op: str, a: str, b: str, t: Type, literal: int | None) -> str:
        """Shifts by the width or more give what infinitely many single shifts would (LLVM calls that undefined)."""
        e, text, width = self.emitter, type_text(t), t.element.size * 8
        plain = "shl" if op == "shl" else "ashr" if t.element.is_signed else "lshr"
        if literal is not None and 0 <= literal < width:
            return e.op(plain, text, a, b)
        shifted = e.op(plain, text, a, e.intrinsic("umin", text, b, splat_text(str(width - 1), t)))
        if plain == "ashr":
            return shifted
        fits = e.op("icmp ult", text, b, splat_text(str(width), t))
        return e.choose(t.lanes, fits, text, shifted, splat_text("0", t))

    def _divide(self, op: str, a: str, b: str, t: Type, literal: int | None) -> str:
        """Truncating division; by zero gives 0 (as numpy does) and lowest / -1 wraps: the processor would raise a
        fatal signal for both."""
        e, text, bits = self.emitter, type_text(t), vector_text("i1", t.lanes)
        plain = f"{'s' if t.element.is_signed else 'u'}{op}"
        if literal is not None and literal > 0:
            return e.op(plain, text, a, b)
        zero = e.op("icmp eq", text, b, splat_text("0", t))
        bad = zero
        if t.element.is_signed:
            lowest = e.op("icmp eq", text, a, splat_text(str(-(2 ** (t.element.size * 8 - 1))), t))
            minus_one = e.op("icmp eq", text, b, splat_text("-1", t))
            bad = e.op("or", bits, zero, e.op("and", bits, lowest, minus_one))
        result = e.op(plain, text, a, e.choose(t.lanes, bad, text, splat_text("1", t), b))
        return e.choose(t.lanes, zero, text, splat_text("0", t), result)

    def _unary(self, v: Unary) -> str:
        a, t = self.value(v.a), v.type
        if not t.element.is_half:
            return self._apply(v.op, a, t)
        wide_a, wide = self.convert.widen(a, t)
        return self.convert.cast(self._apply(v.op, wide_a, wide), wide, t)

    def _apply(self, op: str, a: str, t: Type) -> str:
        e, text = self.emitter, type_text(t)
        if op == "not":
            return e.op("xor", text, a, splat_text("true" if t.element is DType.BOOL else "-1", t))
        if op == "neg":
            return e.let(f"fneg {text} {a}" if t.element.is_float else f"sub {text} {splat_text('0', t)}, {a}")
        if op == "abs" and not t.element.is_float:
            if not t.element.is_signed:
                return a
            return e.call(text, f"llvm.abs.{mangled(text)}", [(text, a), ("i1", "false")])
        return self.convert.float_function({"abs": "fabs"}.get(op, op), a, t)

    def _compare(self, v: Compare) -> str:
        a, b, t = self.value(v.a), self.value(v.b), v.a.type
        if t.element.is_half:
            (a, wide), (b, _) = self.convert.widen(a, t), self.convert.widen(b, t)
            t = wide
        if t.element.is_float:
            condition = {"ne": "une", "eq": "oeq"}.get(v.op) or "o" + v.op
            return self.emitter.op(f"fcmp {condition}", type_text(t), a, b)
        sign = "s" if t.element.is_signed and t.element is not DType.BOOL else "u"
        condition = v.op if v.op in ("eq", "ne") else sign + v.op
        return self.emitter.op(f"icmp {condition}", type_text(t), a, b)

    def _select(self, v: Select) -> str:
        cond, a, b = self.value(v.cond), self.value(v.a), self.value(v.b)
        return self.emitter.choose(v.cond.type.lanes, cond, type_text(v.type), a, b)

    def _fma(self, v: Fma) -> str:
        return self.convert.fma(self.value(v.a), self.value(v.b), self.value(v.c), v.type)

    def _dot(self, v: Dot) -> str:
        return self.convert.dot(v.kind, self.value(v.a), self.value(v.b), self.value(v.c), v.type.lanes)

    def _cast(self, v: Cast) -> str:
        return self.convert.cast(self.value(v.a), v.a.type, v.type)

    def _bitcast(self, v: Bitcast) -> str:
        loaded = v.a
        if isinstance(loaded, Load) and loaded.mask is None and (loaded.stride == 1 or loaded.type.lanes == 1):
            # straight from memory in the new type, so that a broadcast of it folds into its user
            pointer = self.emitter.address(loaded.buffer, loaded.base)
            return self.emitter.let(f"load {type_text(v.type)}, ptr {pointer}, align {loaded.type.element.size}")
        return self.emitter.let(f"bitcast {type_text(v.a.type)} {self.value(v.a)} to {type_text(v.type)}")

    def _shuffle(self, v: Shuffle) -> str:
        a, b, source = self.value(v.a), self.value(v.b), v.a.type
        if source.lanes == 1:  # scalars are no vectors of one lane to LLVM
            if len(v.lanes) == 1:
                return (a, b)[v.lanes[0]]
            a, b = (self.convert.splat(x, Type(source.element, 2)) for x in (a, b))
            return self.emitter.shuffle(type_text(Type(source.element, 2)), a, b, [2 * lane for lane in v.lanes])
        if len(v.lanes) == 1:
            which, lane = divmod(v.lanes[0], source.lanes)
            return self.emitter.let(f"extractelement {type_text(source)} {(a, b)[which]}, i64 {lane}")
        return self.emitter.shuffle(type_text(source), a, b, v.lanes)

    def _reduce(self, v: ReduceLanes) -> str:
        e, text, n, element = self.emitter, self.value(v.a), v.a.type.lanes, v.a.type.element
        while n > 2:
            half = kept_lanes(n)
            wide, narrow = vector_text(element_text(element), n), vector_text(element_text(element), half)
            low = self.convert.pick(text, wide, list(range(half)))
            high = self.convert.pick(text, wide, [lane if lane < n else -1 for lane in range(half, 2 * half)])
            text = self.combine(v.binary, low, high, Type(element, half))
            if n < 2 * half:
                lanes = [lane if half + lane < n else half + lane for lane in range(half)]
                text = e.shuffle(narrow, text, low, lanes)
            n = half
        if n == 2:
            pair = vector_text(element_text(element), 2)
            low, high = (e.let(f"extractelement {pair} {text}, i64 {k}") for k in (0, 1))
            text = self.combine(v.binary, low, high, Type(element))
        return text


# Of each kind of value. (A table of bound methods in each instance would keep it alive until the collector looks.)
_PRINTERS: Mapping[type, Callable[[Values, Any], str]] = {
    Const: Values._const,
    Var: Values._var,
    IndexValue: Values._index_value,
    Load: Values._load,
    Gather: Values._gather,
    Broadcast: Values._broadcast,
    Binary: Values._binary,
    Unary: Values._unary,
    Compare: Values._compare,
    Select: Values._select,
    Fma: Values._fma,
    Dot: Values._dot,
    Cast: Values._cast,
    Nearest: lambda values, v: values.convert.nearest(values.value(v.a), v),
    Lookup: lambda values, v: values.convert.lookup(values.value(v.a), v.table, v.type.lanes),
    Bitcast: Values._bitcast,
    Shuffle: Values._shuffle,
    ReduceLanes: Values._reduce,
    LaneMask: Values._lane_mask,
}
