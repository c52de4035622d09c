"""The loop language: typed, explicit about vectors, buffers and loops; free of any device.

Integers that index (loop variables, extents, addresses) are `ir.expr` polynomials over named i64 symbols: loop
variables, `LetIndex` names, the function's dims, and `begin`/`end`, the share of the outermost range that one thread
works on. Values are expressions with a type of (element, lanes). Element `bool` with lanes is a mask; in memory a bool
is one byte.

Calling convention of every compiled function, on every device that has pointers:
    void name(void** buffers, int64_t* dims, int64_t begin, int64_t end)
buffers[i] is the start of params[i]; dims[i] is the value of the i-th symbol.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass
from typing import cast

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim

# Elements up to this far apart are loaded as whole vectors and shuffled; beyond this many loads a gather moves less.
WIDEST_SHUFFLED_STRIDE = 4

# The signs of C for operations of two values that it has one for.
SIGNS = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"},
    **{"shl": "<<", "shr": ">>"},
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
}


@dataclass(frozen=True)
class Type:
    """An element type and a number of lanes (1: scalar)."""

    element: DType
    lanes: int = 1


def fields_of(kind: type) -> tuple[str, ...]:
    """The names of the fields of a node's class; none of what is none, and of types, in which nothing is named."""
    return _fields_of(cast(Hashable, kind))


@functools.cache
def _fields_of(kind: Hashable) -> tuple[str, ...]:
    if not isinstance(kind, type) or not is_dataclass(kind) or kind is Type:
        return ()
    return tuple(f.name for f in fields(kind))


# ---- values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Const:
    """A literal; every lane holds it."""

    value: float | int | bool
    type: Type


@dataclass(frozen=True)
class Var:
    """A `Let` or `Declare`d name."""

    name: str
    type: Type


@dataclass(frozen=True)
class IndexValue:
    """An index expression as a value: base + stride*lane (stride 0, one lane: a plain integer)."""

    base: Dim
    type: Type
    stride: Dim = 0


@dataclass(frozen=True)
class Load:
    """Elements of a buffer at base + stride*lane (stride 1: one vector load). `mask` None: every lane; lanes off by
    the mask are not touched and read as 0.
    """

    buffer: str
    base: Dim
    type: Type
    stride: Dim = 1
    mask: Value | None = None


@dataclass(frozen=True)
class Gather:
    """Elements of a buffer at the i64 lanes of `index`."""

    buffer: str
    index: Value
    type: Type
    mask: Value | None = None


@dataclass(frozen=True)
class Broadcast:
    arg: Value
    type: Type


@dataclass(frozen=True)
class Binary:
    """add sub mul div rem (C rules on integers) and or xor shl shr min max copysign; float min/max propagate NaN;
    and/or/xor on integers and masks. `minnum`/`maxnum`: the hardware's cheap form, any operand may be returned on
    NaN.
    """

    op: str
    a: Value
    b: Value

    @property
    def type(self) -> Type:
        return self.a.type


@dataclass(frozen=True)
class Unary:
    """neg abs sqrt floor ceil rint trunc not (masks and integers)."""

    op: str
    a: Value

    @property
    def type(self) -> Type:
        return self.a.type


@dataclass(frozen=True)
class Compare:
    """eq ne lt le gt ge; ordered on floats except ne, which is unordered (NaN != NaN)."""

    op: str
    a: Value
    b: Value

    @property
    def type(self) -> Type:
        return Type(DType.BOOL, self.a.type.lanes)


@dataclass(frozen=True)
class Select:
    cond: Value
    a: Value
    b: Value

    @property
    def type(self) -> Type:
        return self.a.type


@dataclass(frozen=True)
class Fma:
    """a*b + c with one rounding."""

    a: Value
    b: Value
    c: Value

    @property
    def type(self) -> Type:
        return self.c.type


@dataclass(frozen=True)
class Dot:
    """c + the sum over each lane's group of products: `bf16` (pairs, f32 accumulators; a, b are bf16 with 2*lanes),
    `s16` (pairs, i32 accumulators; a, b are i16 with 2*lanes) or `u8s8` (fours, i32 accumulators; a u8, b s8 with
    4*lanes). Sums of i32 wrap.
    """

    kind: str
    a: Value
    b: Value
    c: Value

    @property
    def type(self) -> Type:
        return self.c.type


@dataclass(frozen=True)
class Cast:
    """Numeric conversion, lane by lane; float to integer truncates, saturating to the integer's range (NaN gives 0)."""

    a: Value
    type: Type


@dataclass(frozen=True)
class Nearest:
    """An f32 as the nearest integer (halves to even), lane by lane: of what is beyond these bounds, the bound; of NaN,
    the lower one; plus `zero`, in a type that holds the sum. The bounds are of at most 24 bits.
    """

    a: Value
    low: int
    high: int
    zero: int = 0
    element: DType = DType.I32

    @property
    def type(self) -> Type:
        return Type(self.element, self.a.type.lanes)


@dataclass(frozen=True)
class Lookup:
    """Of a table of 256 bytes (0 to 255) that with this number, lane by lane: an i32 of an i32 from 0 to 255. For
    devices that keep such a table in registers.
    """

    a: Value
    table: tuple[int, ...]

    @property
    def type(self) -> Type:
        return self.a.type


@dataclass(frozen=True)
class Bitcast:
    """The same bits as another type of the same total size (lanes may change: 2*lanes bf16 <-> lanes f32/i32)."""

    a: Value
    type: Type


@dataclass(frozen=True)
class Shuffle:
    """Lanes picked from two vectors of one type: lane k is lane `lanes[k]` of a's lanes followed by b's. One lane gives
    a scalar; any number of lanes may be picked, each as often as wanted.
    """

    a: Value
    b: Value
    lanes: tuple[int, ...]

    @property
    def type(self) -> Type:
        return Type(self.a.type.element, len(self.lanes))


@dataclass(frozen=True)
class ReduceLanes:
    """Lanes folded to a scalar: sum prod min max minnum maxnum any all. In a fixed tree order: those from `kept_lanes`
    on onto the first ones until one is left; lanes without a partner are kept as they are.
    """

    op: str
    a: Value
    type: Type

    @property
    def binary(self) -> str:
        """The operation of two values that folds a lane onto another."""
        return {"sum": "add", "prod": "mul", "any": "or", "all": "and"}.get(self.op, self.op)


def kept_lanes(lanes: int) -> int:
    """How many lanes of several stay when they are folded once: the largest power of two that is less."""
    return 1 << ((lanes - 1).bit_length() - 1)


@dataclass(frozen=True)
class LaneMask:
    """lane < count."""

    count: Dim
    type: Type


Value = (
    Const
    | Var
    | IndexValue
    | Load
    | Gather
    | Broadcast
    | Binary
    | Unary
    | Compare
    | Select
    | Fma
    | Dot
    | Cast
    | Nearest
    | Lookup
    | Bitcast
    | Shuffle
    | ReduceLanes
    | LaneMask
)

# ---- statements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Let:
    """Names a value; never assigned again."""

    name: str
    value: Value


@dataclass(frozen=True)
class LetIndex:
    """Names an index expression, or the i64 scalar `value` (a loaded index); readable in index expressions by
    `sym(name)`.
    """

    name: str
    value: Dim | Value


@dataclass(frozen=True)
class Declare:
    """A mutable variable (an accumulator): lives in a register."""

    name: str
    value: Value


@dataclass(frozen=True)
class Assign:
    name: str
    value: Value


@dataclass(frozen=True)
class Store:
    """buffer[base + stride*lane] = value, where the mask is on."""

    buffer: str
    base: Dim
    value: Value
    stride: Dim = 1
    mask: Value | None = None


@dataclass(frozen=True)
class Scatter:
    """buffer[index lanes] = value in lane order."""

    buffer: str
    index: Value
    value: Value
    mask: Value | None = None


@dataclass(frozen=True)
class Prefetch:
    """Asks for the cache line of a buffer's element `base`, into the caches from `level` on. Nothing is read: the place
    may lie outside of the buffer, and a device without such an instruction does nothing.
    """

    buffer: str
    base: Dim
    level: int = 1


@dataclass(frozen=True)
class Fence:
    """No instruction: what comes before it is read and written before what comes after it, so that a compiler moves no
    loads to where registers run out (C11, 7.17.4.2: a signal fence). kept: variables of 32-bit integers that
    have their value by then: a compiler would add up the terms of several steps first. Nothing in OpenCL C, which has
    none.
    """

    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alloc:
    """A local array on the stack, 64-byte aligned, not initialised; lives to the end of the function."""

    name: str
    element: DType
    count: int


@dataclass(frozen=True)
class For:
    """for (var = start; var < stop; var += step). `unroll`: the printer repeats the body (constant bounds)."""

    var: str
    start: Dim
    stop: Dim
    body: tuple[Statement, ...]
    step: int = 1
    unroll: bool = False


@dataclass(frozen=True)
class If:
    """`cond` is a scalar bool value, or a tuple of index expressions that must all be >= 0."""

    cond: Value | tuple[Dim, ...]
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class While:
    """Repeats the body while the scalar bool `cond` (evaluated before each round) is true."""

    cond: Value
    body: tuple[Statement, ...]


Statement = Let | LetIndex | Declare | Assign | Store | Scatter | Prefetch | Fence | Alloc | For | If | While


@dataclass(frozen=True)
class Param:
    """A buffer operand. `writes`: the function stores to it."""

    name: str
    element: DType
    writes: bool = False


@dataclass(frozen=True)
class Function:
    """A compiled unit. `dims` are the symbols passed in; `begin` and `end` are symbols too. The body runs over
    [begin, end) of the outermost range.
    """

    name: str
    params: tuple[Param, ...]
    dims: tuple[str, ...]
    body: tuple[Statement, ...]
