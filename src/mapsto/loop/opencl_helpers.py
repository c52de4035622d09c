"""The small OpenCL C functions that printed code calls, written out on demand.

The printer puts the sources of those that it needed before the kernel.
"""

from __future__ import annotations

from typing import NamedTuple

from mapsto.ir.dtypes import DType
from mapsto.loop.opencl_types import (
    literal,
    memory_name,
    short_name,
    signed_name,
    type_name,
    unsigned_name,
)


class Helper(NamedTuple):
    """A function's name and source, and the helper that its source calls."""

    name: str
    source: str
    needs: tuple[Helper, ...] = ()


def _component(width: int, lane: int) -> str:
    return "" if width == 1 else f".s{lane:x}"


def _vector_at(element: DType, width: int) -> str:
    return f"{memory_name(element)}{width}_at"


def vector_in_memory(element: DType, width: int) -> tuple[Helper, ...]:
    """The type of a vector that lies in memory as its elements do, aligned as one of them is. vload and vstore say
    the same, but drivers' libraries spell them out element by element (PoCL's vload16: 22 instructions, which
    are made one again wherever it is called).
    """
    if width == 1:
        return ()
    name, size = _vector_at(element, width), element.size
    return (
        Helper(
            name,
            f"typedef struct __attribute__((packed, aligned({size}))) {{ {memory_name(element)}{width} v; }} {name};",
        ),
    )


def lvalue(at: str, element: DType, width: int, space: str) -> str:
    """What lies at a pointer, to be read or written."""
    return f"*{at}" if width == 1 else f"((__{space} {_vector_at(element, width)}*){at})->v"


def on_everywhere(width: int) -> Helper:
    """Whether a mask is; `all` branches at each lane in PoCL's library."""
    name, lines, of = f"all_of_{width}", [], "mask"
    while (half := width // 2) >= 1:
        t = f"int{half if half > 1 else ''}"
        lines.append(f"const {t} m{half} = {of}.{'lo' if half > 1 else 's0'} & {of}.{'hi' if half > 1 else 's1'};")
        of, width = f"m{half}", half
    return Helper(name, f"static int {name}(int{name[7:]} mask) {{ {' '.join(lines)} return {of} & 1; }}")


def floor_division() -> Helper:
    return Helper(
        "floor_div",
        "static long floor_div(long a, long b) { b = max(b, 1L); return a / b - ((a % b != 0) & (a < 0)); }",
    )


def floor_modulus() -> Helper:
    return Helper(
        "floor_mod",
        "static long floor_mod(long a, long b) { b = max(b, 1L); const long r = a % b; return r < 0 ? r + b : r; }",
    )


def float_extreme(op: str, element: DType, width: int) -> Helper:
    """min, max (NaN wins) and minnum, maxnum (the second operand where one is NaN)."""
    name, t = f"{op}_{short_name(element, width)}", type_name(element, width)
    wins = f"(a {'<' if op.startswith('min') else '>'} b)" + (" | (a != a)" if op in ("min", "max") else "")
    chosen = f"({wins}) ? a : b" if width == 1 else f"select(b, a, {wins})"
    return Helper(name, f"static {t} {name}({t} a, {t} b) {{ return {chosen}; }}")


_REMAINDER = """static FLOAT NAME(FLOAT a, FLOAT b) {
  const BITS top = (BITS)1 << PLACES, infinite = (BITS)EXPONENTS << PLACES, sign = as_BITS(a) & ((BITS)1 << WIDTH);
  BITS x = as_BITS(a) ^ sign, y = as_BITS(b) & ~((BITS)1 << WIDTH);
  if (y == 0 || x >= infinite || y > infinite) return as_FLOAT((BITS)(infinite | top >> 1));
  if (x < y) return a;
  int p = (int)(x >> PLACES), q = (int)(y >> PLACES);
  if (p) x = (x & (top - 1)) | top; else { p = 1 - ((int)clz(x) - SPARE); x <<= 1 - p; }
  if (q) y = (y & (top - 1)) | top; else { q = 1 - ((int)clz(y) - SPARE); y <<= 1 - q; }
  for (; p > q; p--) { if (x >= y) x -= y; x <<= 1; }
  if (x >= y) x -= y;
  if (x == 0) return as_FLOAT(sign);
  const int shift = (int)clz(x) - SPARE;
  x <<= shift; p -= shift;
  x = p > 0 ? (x - top) | ((BITS)p << PLACES) : x >> (1 - p);
  return as_FLOAT((BITS)(x | sign));
}"""


def float_remainder(element: DType, width: int) -> Helper:
    """The remainder of a truncated quotient, exact. `fmod` of OpenCL's libraries is not always (PoCL 3.1: in f64).

    On the bits: the dividend's significand is doubled and lessened by the divisor's, once a binary place of the
    quotient. By zero, and of infinity: NaN.
    """
    t, name = type_name(element, width), f"rem_{short_name(element, width)}"
    if width > 1:
        single = float_remainder(element, 1)
        lanes = ", ".join(f"{single.name}(a.s{k:x}, b.s{k:x})" for k in range(width))
        return Helper(name, f"static {t} {name}({t} a, {t} b) {{ return ({t})({lanes}); }}", (single,))
    places = 52 if element is DType.F64 else 23
    width_of_sign = 8 * element.size - 1
    words = {
        "FLOAT": t, "NAME": name, "BITS": unsigned_name(element), "PLACES": str(places), "WIDTH": str(width_of_sign),
        "EXPONENTS": str((1 << (width_of_sign - places)) - 1), "SPARE": str(width_of_sign - places),
    }  # fmt: skip
    source = _REMAINDER
    for word, text in words.items():
        source = source.replace(word, text)
    return Helper(name, source)


def integer_division(op: str, element: DType, width: int) -> Helper:
    """Truncating; by zero gives 0, the lowest number / -1 wraps."""
    name, t = f"{op}_{short_name(element, width)}", type_name(element, width)
    zero, one = literal(0, element, width), literal(1, element, width)
    bad = f"(b == {zero})"
    if element.is_signed:
        lowest = literal(-(2 ** (8 * element.size - 1)), element, width)
        bad += f" | ((a == {lowest}) & (b == {literal(-1, element, width)}))"
    safe = f"({bad}) ? {one} : b" if width == 1 else f"select(b, {one}, {bad})"
    # lowest % -1 is 0 = lowest % 1; lowest / -1 wraps to lowest = lowest / 1
    result = f"a {'/' if op == 'div' else '%'} safe"
    final = f"b == {zero} ? {zero} : ({t})({result})" if width == 1 else f"select({result}, {zero}, b == {zero})"
    return Helper(name, f"static {t} {name}({t} a, {t} b) {{ const {t} safe = {safe}; return {final}; }}")


def shift(op: str, element: DType, width: int) -> Helper:
    """Shifts by the width or more give what so many single shifts would; OpenCL takes the amount modulo the width."""
    name, t, bits = f"{op}_{short_name(element, width)}", type_name(element, width), 8 * element.size
    u = unsigned_name(element, width)
    limit = f"({u})({bits - 1})"
    amount = f"min(as_{u}(b), {limit})"
    if op == "shr" and element.is_signed:
        return Helper(name, f"static {t} {name}({t} a, {t} b) {{ return a >> as_{t}({amount}); }}")
    moved = f"as_{u}(a) {'<<' if op == 'shl' else '>>'} {amount}"
    fits = f"as_{u}(b) <= {limit}"
    if width == 1:
        return Helper(name, f"static {t} {name}({t} a, {t} b) {{ return {fits} ? ({t})({moved}) : ({t})0; }}")
    chosen = f"select(({u})(0), {moved}, {fits})"
    return Helper(name, f"static {t} {name}({t} a, {t} b) {{ return as_{t}({chosen}); }}")


def widen_half(element: DType, width: int) -> Helper:
    """f16 or bf16 bits to float."""
    name = f"float_of_{short_name(element, width)}"
    f, h, u = type_name(DType.F32, width), type_name(DType.U16, width), type_name(DType.U32, width)
    if element is DType.BF16:
        return Helper(name, f"static {f} {name}({h} v) {{ return as_{f}(convert_{u}(v) << 16); }}")
    load = "vload_half(0, (const __private half*)&v)" if width == 1 else f"vload_half{width}(0, (const half*)&v)"
    return Helper(name, f"static {f} {name}({h} v) {{ return {load}; }}")


def narrow_half(source: DType, element: DType, width: int) -> Helper:
    """f32 or f64 to f16 or bf16 bits, to nearest, ties to even; a NaN becomes quiet."""
    name = f"{element.value}_of_{short_name(source, width)}"
    f, h, u = type_name(source, width), type_name(DType.U16, width), type_name(DType.U32, width)
    if element is DType.F16:
        suffix = "" if width == 1 else str(width)
        return Helper(
            name, f"static {h} {name}({f} v) {{ {h} r; vstore_half{suffix}_rte(v, 0, (half*)&r); return r; }}"
        )
    if source is DType.F64:  # first to f32 rounded to odd, after which a second rounding is the only one
        i, single = type_name(DType.I32, width), type_name(DType.F32, width)
        lost = "(cut != v)" if width == 1 else f"-convert_{i}(convert_{f}(cut) != v)"
        bits = f"const {single} cut = convert_{single}_rtz(v); const {u} b = as_{u}(cut) | as_{u}({lost}); "
    else:
        bits = f"const {u} b = as_{u}(v); "
    one, carry, quiet = literal(1, DType.U32, width), f"({u})(0x7fffU)", f"({u})(0x40U)"
    nan_test = f"(b & ({u})(0x7fffffffU)) > ({u})(0x7f800000U)"
    rounded = f"const {u} near = (b + {carry} + ((b >> 16) & {one})) >> 16; const {u} nan = (b >> 16) | {quiet}; "
    chosen = f"({h})({nan_test} ? nan : near)" if width == 1 else f"convert_{h}(select(near, nan, {nan_test}))"
    return Helper(name, f"static {h} {name}({f} v) {{ {bits}{rounded}return {chosen}; }}")


def gather(element: DType, width: int, space: str, masked: bool) -> Helper:
    """Lane k reads p[at[k]]; lanes off by the mask read nothing and hold 0."""
    name = f"gather{'_if' if masked else ''}_{space}_{short_name(element, width)}"
    t, m = type_name(element, width), memory_name(element)
    mask = f", {type_name(DType.BOOL, width)} mask" if masked else ""
    lines = [f"static {t} {name}(const __{space} {m}* p, {type_name(DType.I64, width)} at{mask}) {{", f"  {t} r = 0;"]
    for k in range(width):
        c = _component(width, k)
        loaded = f"p[at{c}]"
        if element is DType.BOOL:
            loaded = f"{loaded} != 0" if width == 1 else f"-({loaded} != 0)"
        lines.append(f"  {f'if (mask{c}) ' if masked else ''}r{c} = {loaded};")
    return Helper(name, "\n".join([*lines, "  return r;", "}"]))


def scatter(element: DType, width: int, space: str, masked: bool) -> Helper:
    """p[at[k]] = v[k] in lane order, where the mask is on."""
    name = f"scatter{'_if' if masked else ''}_{space}_{short_name(element, width)}"
    t, m = type_name(element, width), memory_name(element)
    mask = f", {type_name(DType.BOOL, width)} mask" if masked else ""
    head = f"static void {name}(__{space} {m}* p, {type_name(DType.I64, width)} at, {t} v{mask}) {{"
    lines = []
    for k in range(width):
        c = _component(width, k)
        value = f"v{c} != 0" if element is DType.BOOL else f"v{c}"
        lines.append(f"  {f'if (mask{c}) ' if masked else ''}p[at{c}] = {value};")
    return Helper(name, "\n".join([head, *lines, "}"]))


def masked_load(element: DType, width: int, space: str) -> Helper:
    """Adjacent elements where the mask is on; one vector load where it is on everywhere."""
    gathered = gather(element, width, space, masked=True)
    name = f"load_if_{space}_{short_name(element, width)}"
    t, m, mask = type_name(element, width), memory_name(element), type_name(DType.BOOL, width)
    if width == 1:
        body = f"  return {gathered.name}(p, 0L, mask);"
        return Helper(name, f"static {t} {name}(const __{space} {m}* p, {mask} mask) {{\n{body}\n}}", (gathered,))
    whole = from_memory(f"((const __{space} {_vector_at(element, width)}*)p)->v", element, width)
    at = "(" + type_name(DType.I64, width) + ")(" + ", ".join(map(str, range(width))) + ")"
    body = f"  if ({on_everywhere(width).name}(mask)) return {whole};\n  return {gathered.name}(p, {at}, mask);"
    needs = (*vector_in_memory(element, width), on_everywhere(width), gathered)
    return Helper(name, f"static {t} {name}(const __{space} {m}* p, {mask} mask) {{\n{body}\n}}", needs)


def masked_store(element: DType, width: int, space: str) -> Helper:
    scattered = scatter(element, width, space, masked=True)
    name = f"store_if_{space}_{short_name(element, width)}"
    t, m, mask = type_name(element, width), memory_name(element), type_name(DType.BOOL, width)
    head = f"static void {name}(__{space} {m}* p, {t} v, {mask} mask) {{\n"
    if width == 1:
        return Helper(name, f"{head}  {scattered.name}(p, 0L, v, mask);\n}}", (scattered,))
    stored = f"{lvalue('p', element, width, space)} = {to_memory('v', element, width)};"
    at = "(" + type_name(DType.I64, width) + ")(" + ", ".join(map(str, range(width))) + ")"
    body = f"  if ({on_everywhere(width).name}(mask)) {{ {stored} return; }}\n  {scattered.name}(p, {at}, v, mask);\n}}"
    needs = (*vector_in_memory(element, width), on_everywhere(width), scattered)
    return Helper(name, head + body, needs)


def from_memory(text: str, element: DType, width: int) -> str:
    """A loaded bool byte as a mask."""
    if element is not DType.BOOL:
        return text
    return f"({text} != 0)" if width == 1 else f"convert_int{width}({text} != (uchar{width})(0))"


def to_memory(text: str, element: DType, width: int) -> str:
    if element is not DType.BOOL:
        return text
    return f"(uchar)({text} != 0)" if width == 1 else f"convert_uchar{width}(({text}) & 1)"


def comparison_to_mask(text: str, element: DType, width: int) -> str:
    """A vector comparison of elements of any size as an int mask."""
    if width == 1 or signed_name(element) == "int":
        return text
    return f"convert_int{width}({text})"
