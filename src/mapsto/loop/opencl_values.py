"""Values of the loop language as OpenCL C expressions: a list of texts, one for each part of up to 16 lanes."""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.loop import opencl_helpers as helpers
from mapsto.loop.ast import (
    SIGNS,
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
from mapsto.loop.opencl_types import (
    lane_numbers,
    literal,
    signed_name,
    split,
    type_name,
    unsigned_name,
)
from mapsto.loop.opencl_writer import KernelWriter, Pointer

Parts = list[str]
_VALUE_TYPES = typing.get_args(Value)
_FLOAT_FUNCTIONS = {"abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "rint": "rint", "trunc": "trunc"}


def _operands(value: Value) -> Iterator[Value]:
    for f in dataclasses.fields(value):
        operand = getattr(value, f.name)
        if isinstance(operand, _VALUE_TYPES):
            yield operand


def _pieces(name: str, count: int) -> list[str]:
    """A vector cut into equal vectors."""
    if count == 1:
        return [name]
    return [piece for half in ("lo", "hi") for piece in _pieces(f"{name}.{half}", count // 2)]


def _uses(value: Value, counts: Counter[int]) -> Counter[int]:
    counts[id(value)] += 1
    if counts[id(value)] == 1:
        for operand in _operands(value):
            _uses(operand, counts)
    return counts


class Values:
    """Prints values. `variables` holds what is in sight; `writer` the text, with its symbols and buffers."""

    def __init__(self, kernel: str, writer: KernelWriter) -> None:
        self.kernel = kernel
        self.writer = writer
        self.variables: dict[str, Parts] = {}
        self.uses_double = False
        self._counts: Counter[int] = Counter()
        self._known: dict[int, Parts] = {}

    def call(self, helper: helpers.Helper, *args: str) -> str:
        return self.writer.call(helper, *args)

    def named(self, parts: Parts, t: Type, hint: str, constant: bool = True) -> Parts:
        """Declare variables that hold the parts."""
        names = []
        for part, width in zip(parts, split(t.lanes), strict=True):
            name = self.writer.fresh(hint)
            self.writer.line(f"{'const ' if constant else ''}{type_name(t.element, width)} {name} = {part};")
            names.append(name)
        return names

    # ---- dispatch ----

    def statement_value(self, value: Value) -> Parts:
        """The parts of a statement's value; what the tree shares is named and computed once."""
        self._counts, self._known = _uses(value, Counter()), {}
        return self.value(value)

    def value(self, value: Value) -> Parts:
        if id(value) in self._known:
            return self._known[id(value)]
        if value.type.element is DType.F64:
            self.uses_double = True
        parts = _TABLE[type(value)](self, value)
        if self._counts[id(value)] > 1 and not isinstance(value, (Const, Var)):
            parts = self.named(parts, value.type, "t")
        self._known[id(value)] = parts
        return parts

    def _refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"kernel {self.kernel!r}: the OpenCL printer has no code for {what}")

    # ---- leaves, memory ----

    def const(self, v: Const) -> Parts:
        return [literal(v.value, v.type.element, w) for w in split(v.type.lanes)]

    def var(self, v: Var) -> Parts:
        return self.variables[v.name]

    def index_value(self, v: IndexValue) -> Parts:
        base = self.writer.index(v.base)
        if v.type.lanes == 1:
            return [self.convert(base, DType.I64, v.type.element, 1)]
        parts = []
        for offset, width in self._offsets(v.type.lanes):
            lanes = self.lane_indices(base, v.stride, offset, width)
            parts.append(self.convert(lanes, DType.I64, v.type.element, width))
        return parts

    def _offsets(self, lanes: int) -> Iterator[tuple[int, int]]:
        """(first lane, width) of each part."""
        done = 0
        for width in split(lanes):
            yield done, width
            done += width

    def lane_indices(self, base: str, stride: Dim, offset: int, width: int) -> str:
        """base + stride*lane for the lanes of one part."""
        if width == 1:
            return f"({base} + {self.writer.index(stride)}*{offset}L)"
        t = f"(long{width})"
        return f"({t}({base}) + {t}({self.writer.index(stride)})*{lane_numbers(offset, width, 'long')})"

    def load(self, v: Load) -> Parts:
        buffer, t = self.writer.buffers[v.buffer], v.type
        masks = [None] * len(split(t.lanes)) if v.mask is None else self.value(v.mask)
        if t.lanes > 1 and v.stride != 1:
            return self._load_strided(buffer, v, masks)
        parts = []
        for (offset, width), mask in zip(self._offsets(t.lanes), masks, strict=True):
            at = self.writer.address(buffer, v.base, offset)
            if mask is None:
                parts.append(self.loaded(buffer, at, width))
            else:
                parts.append(self.call(helpers.masked_load(buffer.element, width, buffer.space), at, mask))
        return parts

    def loaded(self, buffer: Pointer, at: str, width: int) -> str:
        """The elements at a pointer, all of them."""
        for helper in helpers.vector_in_memory(buffer.element, width):
            self.writer.need(helper)
        return helpers.from_memory(helpers.lvalue(at, buffer.element, width, buffer.space), buffer.element, width)

    def _load_strided(self, buffer: Pointer, v: Load, masks: Sequence[str | None]) -> Parts:
        base, parts = self.writer.index(v.base), []
        for (offset, width), mask in zip(self._offsets(v.type.lanes), masks, strict=True):
            lanes = self.lane_indices(base, v.stride, offset, width)
            args = (buffer.name, lanes) if mask is None else (buffer.name, lanes, mask)
            parts.append(self.call(helpers.gather(buffer.element, width, buffer.space, mask is not None), *args))
        return parts

    def gather(self, v: Gather) -> Parts:
        buffer, indices = self.writer.buffers[v.buffer], self.value(v.index)
        masks = [None] * len(indices) if v.mask is None else self.value(v.mask)
        parts = []
        for at, mask, width in zip(indices, masks, split(v.type.lanes), strict=True):
            args = (buffer.name, at) if mask is None else (buffer.name, at, mask)
            parts.append(self.call(helpers.gather(buffer.element, width, buffer.space, mask is not None), *args))
        return parts

    def lane_mask(self, v: LaneMask) -> Parts:
        lanes = v.type.lanes
        count = f"(int)clamp({self.writer.index(v.count)}, 0L, {lanes}L)"
        if lanes == 1:
            return [f"({count} > 0)"]
        return [f"({lane_numbers(o, w, 'int')} < (int{w})({count}))" for o, w in self._offsets(lanes)]

    # ---- arithmetic ----

    def broadcast(self, v: Broadcast) -> Parts:
        (scalar,) = self.value(v.arg)
        if v.type.element is DType.BOOL and v.type.lanes > 1:
            scalar = f"-({scalar})"
        return [f"({type_name(v.type.element, w)})({scalar})" for w in split(v.type.lanes)]

    def by_parts(self, make: Callable[..., str], *values: Value) -> Parts:
        """What `make` says of each part of some values of equally many lanes, and of its width."""
        parts = [self.value(value) for value in values]
        return [make(*each) for each in zip(*parts, split(values[0].type.lanes), strict=True)]

    def binary(self, v: Binary) -> Parts:
        element = v.type.element
        amount = int(v.b.value) if isinstance(v.b, Const) and not element.is_float else None
        return self.by_parts(lambda a, b, width: self.combine(v.op, a, b, element, width, amount), v.a, v.b)

    def combine(self, op: str, a: str, b: str, element: DType, width: int, amount: int | None = None) -> str:
        """One operation on one part; `amount` is the second operand where it is a literal integer."""
        if element.is_half:  # in f32: rounding its result once more is harmless (24 bits hold twice 11 and 2 more)
            x, y = (self.convert(v, element, DType.F32, width) for v in (a, b))
            return self.convert(self.combine(op, x, y, DType.F32, width), DType.F32, element, width)
        if element.is_float:
            return self._combine_floats(op, a, b, element, width)
        if element is DType.BOOL:
            return f"({a} {SIGNS[{'min': 'and', 'max': 'or'}.get(op, op)]} {b})"
        if op in ("min", "max"):
            return f"{op}({a}, {b})"
        if op in ("and", "or", "xor"):
            return f"({a} {SIGNS[op]} {b})"
        if op in ("div", "rem"):
            return self.call(helpers.integer_division(op, element, width), a, b)
        if op in ("shl", "shr"):
            if amount is not None and 0 <= amount < 8 * element.size:
                return self._shift_by(op, amount, a, element, width)
            return self.call(helpers.shift(op, element, width), a, b)
        return self._wrapping(SIGNS[op], a, b, element, width)

    def _combine_floats(self, op: str, a: str, b: str, element: DType, width: int) -> str:
        if op in ("min", "max", "minnum", "maxnum"):
            return self.call(helpers.float_extreme(op, element, width), a, b)
        if op == "rem":
            return self.call(helpers.float_remainder(element, width), a, b)
        if op == "copysign":
            return f"copysign({a}, {b})"
        return f"({a} {SIGNS[op]} {b})"

    def _shift_by(self, op: str, amount: int, a: str, element: DType, width: int) -> str:
        t = type_name(element, width)
        if op == "shl" and element.is_signed:
            u = unsigned_name(element, width)
            return f"({t})(({u}){a} << {amount})" if width == 1 else f"as_{t}(as_{u}({a}) << {amount})"
        shifted = f"({a} {'<<' if op == 'shl' else '>>'} {amount})"
        return shifted if width > 1 or element.size >= 4 else f"({t}){shifted}"

    def _wrapping(self, sign: str, a: str, b: str, element: DType, width: int) -> str:
        """Signed sums wrap: worked out unsigned, where C defines that."""
        t, u = type_name(element, width), unsigned_name(element, width)
        if width == 1:
            u = (
                unsigned_name(element) if element.size > 4 else "uint"
            )  # narrower ones would become int, which is signed
            return f"({t})(({u}){a} {sign} ({u}){b})"
        return f"({a} {sign} {b})" if not element.is_signed else f"as_{t}(as_{u}({a}) {sign} as_{u}({b}))"

    def unary(self, v: Unary) -> Parts:
        return self.by_parts(lambda a, width: self._unary_part(v.op, a, v.type.element, width), v.a)

    def _unary_part(self, op: str, a: str, element: DType, width: int) -> str:
        t = type_name(element, width)
        if element.is_half:
            wide = self._unary_part(op, self.convert(a, element, DType.F32, width), DType.F32, width)
            return self.convert(wide, DType.F32, element, width)
        if op == "not":
            if element is DType.BOOL and width == 1:
                return f"(!({a}))"
            return f"(~({a}))" if width > 1 else f"({t})(~({a}))"
        if op == "neg" and not element.is_float:
            return self._wrapping("-", literal(0, element, width), a, element, width)
        if op == "neg":
            return f"(-({a}))"
        if op == "abs" and not element.is_float:
            return f"as_{t}(abs({a}))" if element.is_signed else a
        return f"{_FLOAT_FUNCTIONS[op]}({a})"

    def compare(self, v: Compare) -> Parts:
        return self.by_parts(lambda a, b, width: self._compare_part(v.op, a, b, v.a.type.element, width), v.a, v.b)

    def _compare_part(self, op: str, a: str, b: str, element: DType, width: int) -> str:
        if element.is_half:
            a, b = (self.convert(x, element, DType.F32, width) for x in (a, b))
            element = DType.F32
        if element is DType.BOOL:  # unsigned: true is above false
            a, b = f"({a} & 1)", f"({b} & 1)"
        return helpers.comparison_to_mask(f"({a} {SIGNS[op]} {b})", element, width)

    def select(self, v: Select) -> Parts:
        conds, widths = self.value(v.cond), split(v.type.lanes)
        if v.cond.type.lanes == 1:
            conds = conds * len(widths)
        parts = []
        for cond, a, b, width in zip(conds, self.value(v.a), self.value(v.b), widths, strict=True):
            if v.cond.type.lanes == 1:
                parts.append(f"({cond} ? {a} : {b})")
                continue
            size = signed_name(v.type.element, width)
            matched = cond if size.startswith("int") or width == 1 else f"convert_{size}({cond})"
            parts.append(f"({cond} ? {a} : {b})" if width == 1 else f"select({b}, {a}, {matched})")
        return parts

    def fma(self, v: Fma) -> Parts:
        e = v.type.element
        if e.is_half:
            raise self._refuse(f"fma in {e.value} (cast to f32 around it)")

        def part(a: str, b: str, c: str, width: int) -> str:
            if e.is_float:
                return f"fma({a}, {b}, {c})"
            return self._wrapping("+", self._wrapping("*", a, b, e, width), c, e, width)

        return self.by_parts(part, v.a, v.b, v.c)

    # ---- conversions ----

    def cast(self, v: Cast) -> Parts:
        source, target = v.a.type.element, v.type.element
        if source is DType.F64 or target is DType.F64:
            self.uses_double = True
        return self.by_parts(lambda a, width: self.convert(a, source, target, width), v.a)

    def convert(self, a: str, source: DType, target: DType, width: int) -> str:
        """Numeric conversion; float to integer truncates and saturates, NaN gives 0."""
        if source is target:
            return a
        if source.is_half:
            wide = self.call(helpers.widen_half(source, width), a)
            return self.convert(wide, DType.F32, target, width)
        if target.is_half:
            if source is not DType.F64:
                a, source = self.convert(a, source, DType.F32, width), DType.F32
            return self.call(helpers.narrow_half(source, target, width), a)
        if target is DType.BOOL:
            zero = literal(0, source, width)
            return helpers.comparison_to_mask(f"({a} != {zero})", source, width)
        if source is DType.BOOL and width > 1:
            a = f"({a} & 1)"
        rounding = "_sat_rtz" if source.is_float and target.is_integer else ""
        return f"convert_{type_name(target, width)}{rounding}({a})"

    def nearest(self, v: Nearest) -> Parts:
        """`fmax` gives the bound for NaN."""

        def part(a: str, width: int) -> str:
            low, high = (literal(limit, DType.F32, width) for limit in (v.low, v.high))
            words = f"(convert_{type_name(DType.I32, width)}_rte(fmin(fmax({a}, {low}), {high})) + {v.zero})"
            return self.convert(words, DType.I32, v.element, width)

        return self.by_parts(part, v.a)

    def lookup(self, v: Lookup) -> Parts:
        raise self._refuse("a table of bytes in registers")

    def bitcast(self, v: Bitcast) -> Parts:
        """Part for part where their numbers agree, else whole parts cut into equal pieces or put together from them."""
        parts, widths, new = self.value(v.a), split(v.type.lanes), v.type.element
        ratio = max(len(parts), len(widths)) // min(len(parts), len(widths))
        if len(widths) == ratio * len(parts):
            if ratio > 1:
                named = self.named(parts, v.a.type, "whole")
                parts = [piece for name in named for piece in _pieces(name, ratio)]
            return [f"as_{type_name(new, w)}({p})" for p, w in zip(parts, widths, strict=True)]
        if len(parts) == ratio * len(widths):
            groups = zip(*(parts[k::ratio] for k in range(ratio)), strict=True)
            return [self._joined(group, new, w) for group, w in zip(groups, widths, strict=True)]
        raise self._refuse(f"the bits of {v.a.type.element.value}x{v.a.type.lanes} as {new.value}x{v.type.lanes}")

    def _joined(self, pieces: tuple[str, ...], element: DType, width: int) -> str:
        piece = type_name(element, width // len(pieces))
        return f"({type_name(element, width)})({', '.join(f'as_{piece}({p})' for p in pieces)})"

    # ---- across lanes ----

    def shuffle(self, v: Shuffle) -> Parts:
        """Each part put together from single lanes; a lone bool is 0 or 1, one in a vector 0 or -1."""
        t = v.a.type
        sources = [lane for x in (v.a, v.b) for lane in self._lanes(self.named(self.value(x), t, "lanes"), t)]
        parts, done = [], 0
        for width in split(len(v.lanes)):
            picked = [sources[lane] for lane in v.lanes[done : done + width]]
            done += width
            sign = "-" if t.element is DType.BOOL and width > 1 else ""
            vector = ", ".join(f"{sign}{lane}" for lane in picked)
            parts.append(picked[0] if width == 1 else f"({type_name(t.element, width)})({vector})")
        return parts

    def _lanes(self, parts: Parts, t: Type) -> list[str]:
        """Every lane as a scalar."""
        sign = "-" if t.element is DType.BOOL else ""
        lanes = []
        for part, width in zip(parts, split(t.lanes), strict=True):
            lanes += [part] if width == 1 else [f"({sign}{part}.s{k:x})" for k in range(width)]
        return lanes

    def reduce(self, v: ReduceLanes) -> Parts:
        t = v.a.type
        op, parts, width = v.binary, self.value(v.a), split(t.lanes)[0]
        if t.lanes & (t.lanes - 1):
            return [self._reduce_unevenly(op, self.named(parts, t, "fold"), t)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.combine(op, a, b, t.element, width) for a, b in zip(parts[:half], parts[half:], strict=True)]
        if t.element is DType.BOOL and width > 1 and op in ("or", "and"):
            return [f"{'any' if op == 'or' else 'all'}({parts[0]})"]
        while width > 1:
            (name,) = self.named(parts, Type(t.element, width), "fold")
            width //= 2
            low, high = (".lo", ".hi") if width > 1 else (".s0", ".s1")
            parts = [self.combine(op, name + low, name + high, t.element, width)]
        return parts

    def _reduce_unevenly(self, op: str, parts: Parts, t: Type) -> str:
        """Lane by lane, in the order of the language: the upper half onto the lower, a power of two."""
        lanes = self._lanes(parts, t)
        while len(lanes) > 1:
            half = kept_lanes(len(lanes))
            folded = [self.combine(op, a, b, t.element, 1) for a, b in zip(lanes, lanes[half:], strict=False)]
            lanes = folded + lanes[len(folded) : half]
        return lanes[0]

    def dot(self, v: Dot) -> Parts:
        group = 4 if v.kind == "u8s8" else 2
        a, b = (self.named(self.value(x), x.type, "dot") for x in (v.a, v.b))
        parts, done = [], 0
        for c, width in zip(self.value(v.c), split(v.type.lanes), strict=True):
            take = max(1, group * width // 16)
            x, y = a[done : done + take], b[done : done + take]
            done += take
            parts.append(
                self._dot_bf16(x, y, c, width) if v.kind == "bf16" else self._dot_integers(v.kind, x, y, c, width)
            )
        return parts

    def _every(self, parts: Parts, first: int, group: int, width: int, name: str) -> str:
        """Elements first, first+group, ... of a run of parts, as one vector of `width`."""
        picked = "".join(f"{k:x}" for k in range(first, group * width // len(parts), group))
        return f"({name}{width if width > 1 else ''})({', '.join(f'{p}.s{picked}' for p in parts)})"

    def _dot_bf16(self, a: Parts, b: Parts, c: str, width: int) -> str:
        """The odd elements first, then the even ones, each a fused multiply-add."""
        wide = helpers.widen_half(DType.BF16, width)
        for first in (1, 0):
            x, y = (self.call(wide, self._every(p, first, 2, width, "ushort")) for p in (a, b))
            c = f"fma({x}, {y}, {c})"
        return c

    def _dot_integers(self, kind: str, a: Parts, b: Parts, c: str, width: int) -> str:
        convert = f"convert_int{width if width > 1 else ''}"
        group, names = (4, ("uchar", "char")) if kind == "u8s8" else (2, ("short", "short"))
        for first in range(group):
            x, y = (self._every(p, first, group, width, n) for p, n in zip((a, b), names, strict=True))
            c = self._wrapping("+", c, f"({convert}({x}) * {convert}({y}))", DType.I32, width)
        return c


_TABLE: dict[type, Callable[[Values, Any], Parts]] = {
    Const: Values.const,
    Var: Values.var,
    IndexValue: Values.index_value,
    Load: Values.load,
    Gather: Values.gather,
    Broadcast: Values.broadcast,
    Binary: Values.binary,
    Unary: Values.unary,
    Compare: Values.compare,
    Select: Values.select,
    Fma: Values.fma,
    Dot: Values.dot,
    Cast: Values.cast,
    Nearest: Values.nearest,
    Lookup: Values.lookup,
    Bitcast: Values.bitcast,
    Shuffle: Values.shuffle,
    ReduceLanes: Values.reduce,
    LaneMask: Values.lane_mask,
}
