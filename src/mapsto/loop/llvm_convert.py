"""Conversions and fused operations as LLVM IR, spelled out where the target lacks the instruction.

Left to LLVM, half and bfloat conversions, fused multiply-adds and roundings that the processor cannot do become calls
into libraries that a program need not have, one lane at a time. The expansions here are exact: the same bits as the
instruction's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Nearest, Type
from mapsto.loop.llvm_emit import IrWriter, element_text, mangled, type_text, vector_text

_BELOW_2_31 = 2**31 - 2**7  # the greatest f32 below 2^31
_F16_MAGIC = 0x77800000  # 2^112 as f32 bits: moves a half's exponent (bias 15) to a float's (bias 127)


TABLE_LANES = 16  # in which a table of bytes is looked up


@dataclass(frozen=True)
class Capabilities:
    """What the target's processor does in one instruction.

    `features`: fma, round, f16 (f16 <-> f32), bf16 (f32 -> bf16), dot_bf16, dot_u8s8, masked (vectors loaded under a
    mask), masked_narrow (those of elements below 32 bits too), permute_words (16 words of two vectors).
    """

    features: frozenset[str] = frozenset()

    def has(self, feature: str) -> bool:
        return feature in self.features


class Converter:
    """Prints conversions and the operations that need expansions; operands are SSA texts."""

    def __init__(self, emitter: IrWriter, capabilities: Capabilities) -> None:
        self.emitter = emitter
        self.capabilities = capabilities

    # ---- shapes of vectors ----

    def splat(self, scalar: str, t: Type) -> str:
        if t.lanes == 1:
            return scalar
        e, text = self.emitter, type_text(t)
        first = e.let(f"insertelement {text} poison, {element_text(t.element)} {scalar}, i64 0")
        return e.let(f"shufflevector {text} {first}, {text} poison, <{t.lanes} x i32> zeroinitializer")

    def pick(self, text: str, t: str, lanes: Sequence[int]) -> str:
        """Lanes of one vector; -1 leaves a lane undefined."""
        return self.emitter.shuffle(t, text, "poison", lanes)

    # ---- conversions ----

    def cast(self, a: str, source: Type, target: Type) -> str:
        """Lane by lane conversion; float to integer truncates and saturates, NaN gives 0; to bool is `!= 0`."""
        if source.element is target.element:
            return a
        if target.element is DType.BOOL:
            if source.element.is_half:
                a, source = self.widen(a, source)
            zero = "zeroinitializer" if target.lanes > 1 else "0.0" if source.element.is_float else "0"
            return self.emitter.let(
                f"{'fcmp une' if source.element.is_float else 'icmp ne'} {type_text(source)} {a}, {zero}"
            )
        if source.element.is_float and target.element.is_float:
            return self._between_floats(a, source.element, target.element, source.lanes)
        if source.element.is_float:
            return self._to_integer(a, source, target)
        if target.element.is_float:
            return self._from_integer(a, source, target)
        return self._between_integers(a, source, target)

    def widen(self, a: str, t: Type) -> tuple[str, Type]:
        """f16 or bf16 as f32, where arithmetic on it is done."""
        wide = Type(DType.F32, t.lanes)
        return self.cast(a, t, wide), wide

    def _between_integers(self, a: str, source: Type, target: Type) -> str:
        if source.element is DType.BOOL or source.element.size < target.element.size:
            signed = source.element.is_signed and source.element is not DType.BOOL
            return self.emitter.let(f"{'sext' if signed else 'zext'} {type_text(source)} {a} to {type_text(target)}")
        if source.element.size > target.element.size:
            return self.emitter.let(f"trunc {type_text(source)} {a} to {type_text(target)}")
        return a

    def _to_integer(self, a: str, source: Type, target: Type) -> str:
        if source.element.is_half:
            a, source = self.widen(a, source)
        if target.lanes > 1 and (target.element.size < 4 or target.element is DType.I32):
            return self._to_words(a, source, target)
        sign, t, s = "s" if target.element.is_signed else "u", type_text(target), type_text(source)
        return self.emitter.call(t, f"llvm.fpto{sign}i.sat.{mangled(t)}.{mangled(s)}", [(s, a)])

    def _to_words(self, a: str, source: Type, target: Type) -> str:
        """By a conversion to signed words, and from these to what is narrower: LLVM takes saturating conversions of
        vectors apart into scalar ones (seen in 20). The limits are floats, but for the upper one of i32 in f32: what is
        beyond the greatest float below it is chosen for.
        """
        e, lanes, floats = self.emitter, target.lanes, type_text(source)
        limits = np.iinfo(target.element.numpy)
        low, high = int(limits.min), int(limits.max)
        in_f32 = source.element is DType.F32
        within = high if high < 1 << 24 or not in_f32 else _BELOW_2_31
        held = a
        if low != 0:  # a comparison with 0 that NaN loses makes it 0 as well
            number = e.op("fcmp ord", floats, a, "zeroinitializer")
            held = e.choose(lanes, number, floats, a, "zeroinitializer")
        for sign, limit in (("ogt", low), ("olt", within)):
            bound = f"splat ({element_text(source.element)} {limit}.0)"
            held = e.choose(lanes, e.op(f"fcmp {sign}", floats, held, bound), floats, held, bound)
        i32 = vector_text("i32", lanes)
        words = e.to("fptosi", floats, held, i32)
        if target.element is DType.I32:
            if within == high:
                return words
            beyond = e.op("fcmp ogt", floats, a, f"splat (float {within}.0)")
            return e.choose(lanes, beyond, i32, f"splat (i32 {high})", words)
        for name, limit in (("smin", high), ("smax", low)):  # instruction selection then knows that packing is exact
            words = e.intrinsic(name, i32, words, f"splat (i32 {limit})")
        return e.to("trunc", i32, words, type_text(target))

    def nearest(self, a: str, v: Nearest) -> str:
        """Between bounds first, the lower one where a comparison is lost by NaN, so that any number is one of i32. That
        nothing is lost when it is narrowed is said, so that widening it again is nothing.
        """
        e, source, held = self.emitter, v.a.type, a
        floats = type_text(source)
        for sign, limit in (("ogt", v.low), ("olt", v.high)):
            bound = f"{limit}.0" if source.lanes == 1 else f"splat (float {limit}.0)"
            held = e.choose(source.lanes, e.op(f"fcmp {sign}", floats, held, bound), floats, held, bound)
        i32 = type_text(Type(DType.I32, source.lanes))
        words = e.call(i32, f"llvm.lrint.{mangled(i32)}.{mangled(floats)}", [(floats, held)])
        if v.zero:
            words = e.op("add nsw", i32, words, str(v.zero) if source.lanes == 1 else f"splat (i32 {v.zero})")
        if v.element.size == DType.I32.size:
            return words
        kept = "nsw" if v.element.is_signed else "nuw"
        return e.to(f"trunc {kept}", i32, words, type_text(v.type))

    def lookup(self, a: str, table: Sequence[int], lanes: int) -> str:
        """Four bytes a word, 32 words an instruction; of the word that is found, the byte is shifted down."""
        if lanes != TABLE_LANES or not self.capabilities.has("permute_words"):
            raise UnsupportedError(f"a table of bytes is not looked up in {lanes} lanes here")
        e, i32 = self.emitter, vector_text("i32", lanes)
        words = np.asarray(table, np.uint8).view("<i4")
        parts = [f"<{', '.join(f'i32 {word}' for word in words[k : k + lanes])}>" for k in range(0, len(words), lanes)]
        place = e.op("lshr", i32, a, "splat (i32 2)")
        name = f"llvm.x86.avx512.vpermi2var.d.{32 * lanes}"
        low, high = (
            e.call(i32, name, [(i32, first), (i32, place), (i32, second)])
            for first, second in (parts[:2], parts[2:])
        )
        word = e.choose(lanes, e.op("icmp ugt", i32, a, "splat (i32 127)"), i32, high, low)
        bits = e.op("shl", i32, e.op("and", i32, a, "splat (i32 3)"), "splat (i32 3)")
        return e.op("and", i32, e.op("lshr", i32, word, bits), "splat (i32 255)")

    def _from_integer(self, a: str, source: Type, target: Type) -> str:
        narrow = target.element.is_half
        middle = Type(DType.F32 if narrow else target.element, target.lanes)
        signed = source.element.is_signed and source.element is not DType.BOOL
        wide = self.emitter.let(f"{'si' if signed else 'ui'}tofp {type_text(source)} {a} to {type_text(middle)}")
        return self._between_floats(wide, middle.element, target.element, target.lanes)

    def _between_floats(self, a: str, source: DType, target: DType, lanes: int) -> str:
        if source is target:
            return a
        if source.is_half:
            wide = self._widen(a, source, lanes)
            return self._between_floats(wide, DType.F32, target, lanes)
        e = self.emitter
        if source is DType.F32 and target is DType.F64:
            return e.let(f"fpext {vector_text('float', lanes)} {a} to {vector_text('double', lanes)}")
        if source is DType.F64 and target is DType.F32:
            return e.let(f"fptrunc {vector_text('double', lanes)} {a} to {vector_text('float', lanes)}")
        if source is DType.F64:
            a = self._to_odd_float(a, lanes)
        return self._narrow(a, target, lanes)

    def _widen(self, a: str, source: DType, lanes: int) -> str:
        """f16 or bf16 to f32."""
        e, floats = self.emitter, vector_text("float", lanes)
        if source is DType.BF16:
            return self._shifted_up(a, lanes)
        if self.capabilities.has("f16"):
            half = vector_text("half", lanes)
            return e.to("fpext", half, e.to("bitcast", vector_text("i16", lanes), a, half), floats)
        i32, k = vector_text("i32", lanes), _Words(lanes)
        bits = e.to("zext", vector_text("i16", lanes), a, i32)
        magnitude = e.op("shl", i32, e.op("and", i32, bits, k(0x7FFF)), k(13))
        scale = e.to("bitcast", i32, k(_F16_MAGIC), floats)
        scaled = e.op("fmul", floats, e.to("bitcast", i32, magnitude, floats), scale)
        special = e.op("icmp uge", i32, magnitude, k(0x7C00 << 13))
        infinite = e.op("or", i32, magnitude, k(0x7F800000))
        result = e.choose(lanes, special, i32, infinite, e.to("bitcast", floats, scaled, i32))
        sign = e.op("shl", i32, e.op("and", i32, bits, k(0x8000)), k(16))
        return e.to("bitcast", i32, e.op("or", i32, result, sign), floats)

    def _shifted_up(self, bits16: str, lanes: int) -> str:
        e, i32 = self.emitter, vector_text("i32", lanes)
        up = e.op("shl", i32, e.to("zext", vector_text("i16", lanes), bits16, i32), _Words(lanes)(16))
        return e.to("bitcast", i32, up, vector_text("float", lanes))

    def _narrow(self, a: str, target: DType, lanes: int) -> str:
        """f32 to f16 or bf16, to nearest, ties to even."""
        e, i32, i16 = self.emitter, vector_text("i32", lanes), vector_text("i16", lanes)
        if self.capabilities.has("f16" if target is DType.F16 else "bf16"):
            narrow = vector_text("half" if target is DType.F16 else "bfloat", lanes)
            return e.to("bitcast", narrow, e.to("fptrunc", vector_text("float", lanes), a, narrow), i16)
        bits = e.to("bitcast", vector_text("float", lanes), a, i32)
        short = self._bf16_bits(a, bits, lanes) if target is DType.BF16 else self._f16_bits(bits, lanes)
        return e.to("trunc", i32, short, i16)

    def _bf16_bits(self, a: str, bits: str, lanes: int) -> str:
        """(bits + 0x7fff + bit 16) >> 16; a NaN becomes the one of all ones."""
        e, i32, k = self.emitter, vector_text("i32", lanes), _Words(lanes)
        odd = e.op("and", i32, e.op("lshr", i32, bits, k(16)), k(1))
        nearest = e.op("add", i32, e.op("add", i32, bits, k(0x7FFF)), odd)
        nan = e.op("fcmp uno", vector_text("float", lanes), a, a)
        return e.op("lshr", i32, e.choose(lanes, nan, i32, k(0xFFFFFFFF), nearest), k(16))

    def _f16_bits(self, bits: str, lanes: int) -> str:
        """By magnitude: overflow and NaN, normal (rebias, round on the integer), subnormal (the float adder rounds at
        2^-24)."""
        e, i32, floats, k = self.emitter, vector_text("i32", lanes), vector_text("float", lanes), _Words(lanes)
        magnitude = e.op("and", i32, bits, k(0x7FFFFFFF))
        mantissa = e.op("lshr", i32, magnitude, k(13))
        nan = e.op("icmp ugt", i32, magnitude, k(0x7F800000))
        payload = e.op("or", i32, e.op("and", i32, mantissa, k(0x3FF)), k(0x7E00))
        huge = e.choose(lanes, nan, i32, payload, k(0x7C00))
        rebiased = e.op("add", i32, magnitude, k((15 - 127) * 2**23 + 0xFFF + 2**32))
        normal = e.op("lshr", i32, e.op("add", i32, rebiased, e.op("and", i32, mantissa, k(1))), k(13))
        half = k(0x3F000000)  # 0.5 has an ulp of 2^-24, a half's smallest subnormal
        summed = e.op("fadd", floats, *(e.to("bitcast", i32, v, floats) for v in (magnitude, half)))
        tiny = e.op("sub", i32, e.to("bitcast", floats, summed, i32), half)
        is_tiny = e.op("icmp ult", i32, magnitude, k(113 << 23))
        is_huge = e.op("icmp uge", i32, magnitude, k((127 + 16) << 23))
        chosen = e.choose(lanes, is_huge, i32, huge, e.choose(lanes, is_tiny, i32, tiny, normal))
        sign = e.op("lshr", i32, e.op("and", i32, bits, k(0x80000000)), k(16))
        return e.op("or", i32, chosen, sign)

    def _to_odd_float(self, a: str, lanes: int) -> str:
        """f64 to f32 rounded to odd; rounded once more to a narrower format that equals rounding the f64 once (Boldo
        and Melquiond, 2008)."""
        e, d, f, i32 = (
            self.emitter,
            vector_text("double", lanes),
            vector_text("float", lanes),
            vector_text("i32", lanes),
        )
        near = e.to("fptrunc", d, a, f)
        back = e.to("fpext", f, near, d)
        bits = e.to("bitcast", f, near, i32)
        size, back_size = (e.intrinsic("fabs", d, v) for v in (a, back))
        above = e.to("zext", vector_text("i1", lanes), e.op("fcmp ogt", d, back_size, size), i32)
        odd = e.op("or", i32, e.op("sub", i32, bits, above), _Words(lanes)(1))
        inexact = e.op("fcmp one", d, back, a)
        return e.to("bitcast", i32, e.choose(lanes, inexact, i32, odd, bits), f)

    # ---- float functions ----

    def float_function(self, name: str, a: str, t: Type) -> str:
        """fabs, sqrt, floor, ceil, rint, trunc."""
        text = type_text(t)
        if name in ("fabs", "sqrt") or self.capabilities.has("round"):
            return self.emitter.intrinsic(name, text, a)
        return self._rounded(name, a, t)

    def _rounded(self, name: str, a: str, t: Type) -> str:
        """Rounding without an instruction for it: adding and subtracting 2^(mantissa bits) leaves the nearest
        integer."""
        e, text, n = self.emitter, type_text(t), t.lanes
        scalar = {DType.F32: "0x4160000000000000", DType.F64: "0x4330000000000000"}[t.element]  # 2^23, 2^52
        limit, one = (v if n == 1 else f"splat ({element_text(t.element)} {v})" for v in (scalar, "1.0"))
        size = e.intrinsic("fabs", text, a)
        nearest = e.op("fsub", text, e.op("fadd", text, size, limit), limit)
        if name == "trunc":
            above = e.op("fcmp ogt", text, nearest, size)
            nearest = e.choose(n, above, text, e.op("fsub", text, nearest, one), nearest)
        signed = e.intrinsic("copysign", text, nearest, a)
        if name in ("floor", "ceil"):
            beyond = e.op(f"fcmp {'ogt' if name == 'floor' else 'olt'}", text, signed, a)
            moved = e.op("fsub" if name == "floor" else "fadd", text, signed, one)
            signed = e.intrinsic("copysign", text, e.choose(n, beyond, text, moved, signed), a)
        return e.choose(n, e.op("fcmp olt", text, size, limit), text, signed, a)

    # ---- multiply-adds ----

    def fma(self, a: str, b: str, c: str, t: Type) -> str:
        text = type_text(t)
        if t.element.is_half:
            x, y, z = (self.widen(v, t)[0] for v in (a, b, c))
            return self._fma_through_double(x, y, z, t)
        if self.capabilities.has("fma") or t.element is DType.F64:
            return self.emitter.intrinsic("fma", text, a, b, c)
        return self._fma_through_double(a, b, c, t)

    def _fma_through_double(self, a: str, b: str, c: str, t: Type) -> str:
        """Of f32 operands: their product is exact in f64, the sum there is rounded to odd by its exact error (Knuth's
        TwoSum), then to `t`."""
        e, lanes, d, f = self.emitter, t.lanes, vector_text("double", t.lanes), vector_text("float", t.lanes)
        i64, i1, zero = vector_text("i64", lanes), vector_text("i1", lanes), "zeroinitializer"
        x, y, z = (e.to("fpext", f, v, d) for v in (a, b, c))
        p = e.op("fmul", d, x, y)
        s = e.op("fadd", d, p, z)
        z_part = e.op("fsub", d, s, p)
        p_part = e.op("fsub", d, s, z_part)
        error = e.op("fadd", d, e.op("fsub", d, p, p_part), e.op("fsub", d, z, z_part))
        bits = e.to("bitcast", d, s, i64)
        shrinks = e.op("xor", i1, e.op("fcmp olt", d, error, zero), e.op("icmp slt", i64, bits, zero))
        lowered = e.op("sub", i64, bits, e.to("zext", i1, shrinks, i64))
        odd = e.op("or", i64, lowered, "1" if lanes == 1 else "splat (i64 1)")
        chosen = e.choose(lanes, e.op("fcmp one", d, error, zero), i64, odd, bits)
        return self._between_floats(e.to("bitcast", i64, chosen, d), DType.F64, t.element, lanes)

    def dot(self, kind: str, a: str, b: str, c: str, lanes: int) -> str:
        """Dot products of pairs (bf16, s16) or fours (u8 by s8) added to `c`."""
        if kind == "s16":
            return self._dot_s16(a, b, c, lanes)
        if not self.capabilities.has(f"dot_{kind}"):
            return self._dot_bf16(a, b, c, lanes) if kind == "bf16" else self._dot_u8s8(a, b, c, lanes)
        if lanes > 16:
            return self._dot_halves(kind, a, b, c, lanes)
        bits = lanes * 32
        assert bits in (128, 256, 512), f"a dot product of {lanes} lanes"
        if kind == "bf16":
            f, h, bits16 = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>", f"<{2 * lanes} x i16>"
            a, b = (self.emitter.to("bitcast", bits16, v, h) for v in (a, b))
            return self.emitter.call(f, f"llvm.x86.avx512bf16.dpbf16ps.{bits}", [(f, c), (h, a), (h, b)])
        i, q = f"<{lanes} x i32>", f"<{4 * lanes} x i8>"
        return self.emitter.call(i, f"llvm.x86.avx512.vpdpbusd.{bits}", [(i, c), (q, a), (q, b)])

    def _dot_halves(self, kind: str, a: str, b: str, c: str, lanes: int) -> str:
        group, narrow = (2, "i16") if kind == "bf16" else (4, "i8")
        acc = f"<{lanes} x {'float' if kind == 'bf16' else 'i32'}>"
        wide, half, parts = f"<{group * lanes} x {narrow}>", lanes // 2, []
        for k in (0, 1):
            ops = list(range(k * half * group, (k + 1) * half * group))
            part_a, part_b = self.pick(a, wide, ops), self.pick(b, wide, ops)
            parts.append(self.dot(kind, part_a, part_b, self.pick(c, acc, range(k * half, (k + 1) * half)), half))
        t = acc.replace(str(lanes), str(half), 1)
        return self.emitter.shuffle(t, parts[0], parts[1], range(lanes))

    def _dot_bf16(self, a: str, b: str, c: str, lanes: int) -> str:
        """The odd elements first, then the even ones, each a fused multiply-add (the order in which the instruction
        adds)."""
        e, i32, f, k = self.emitter, vector_text("i32", lanes), vector_text("float", lanes), _Words(lanes)
        words = [e.to("bitcast", f"<{2 * lanes} x i16>", v, i32) for v in (a, b)]
        odd = [e.op("and", i32, w, k(0xFFFF0000)) for w in words]
        even = [e.op("shl", i32, w, k(16)) for w in words]
        for pair in (odd, even):
            x, y = (e.to("bitcast", i32, w, f) for w in pair)
            c = self.fma(x, y, c, Type(DType.F32, lanes))
        return c

    def _dot_u8s8(self, a: str, b: str, c: str, lanes: int) -> str:
        """Bytes widened to 16 bits, the low and the high one of each pair."""
        e, i16 = self.emitter, f"<{2 * lanes} x i16>"
        wa, wb = (e.to("bitcast", f"<{4 * lanes} x i8>", v, i16) for v in (a, b))
        eight = "splat (i16 8)"
        low = (e.op("and", i16, wa, "splat (i16 255)"), e.op("ashr", i16, e.op("shl", i16, wb, eight), eight))
        high = (e.op("lshr", i16, wa, eight), e.op("ashr", i16, wb, eight))
        for x, y in (low, high):
            c = self._dot_s16(x, y, c, lanes)
        return c

    def _dot_s16(self, a: str, b: str, c: str, lanes: int) -> str:
        """Products of 16-bit neighbours are summed, in the form that instruction selection knows (x86: pmaddwd)."""
        e, i16, i32, wide = self.emitter, f"<{2 * lanes} x i16>", vector_text("i32", lanes), f"<{2 * lanes} x i32>"
        product = e.op("mul nsw", wide, e.to("sext", i16, a, wide), e.to("sext", i16, b, wide))
        if lanes == 1:
            even, odd = (e.let(f"extractelement {wide} {product}, i64 {k}") for k in (0, 1))
        else:
            even, odd = (self.pick(product, wide, range(k, 2 * lanes, 2)) for k in (0, 1))
        return e.op("add", i32, c, e.op("add", i32, even, odd))


class _Words:
    """Literals of 32 bits in every lane, given unsigned."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def __call__(self, value: int) -> str:
        value -= (1 << 32) if value >= 1 << 31 else 0
        return str(value) if self.lanes == 1 else f"splat (i32 {value})"
