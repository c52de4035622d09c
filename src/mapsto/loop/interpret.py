"""Runs loop-language functions in numpy: the oracle for every printer.

Every access is checked against its buffer, local arrays start as NaN (floats) or a bit pattern (integers), and
arithmetic rounds as the types say: f32 in f32, and `Fma` with exactly one rounding. Slow on purpose, plain to read.

Lanes are the elements of a 1-D array; a scalar is an array of one element, so one rule serves every width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.ir.dtypes import Array, DType, filled
from mapsto.ir.expr import Dim, Expr, evaluate
from mapsto.loop.arithmetic import binary, compare, convert, dot, fold_lanes, fused_multiply_add, nearest, unary
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Const,
    Declare,
    Dot,
    Fence,
    Fma,
    For,
    Function,
    Gather,
    If,
    IndexValue,
    LaneMask,
    Let,
    LetIndex,
    Load,
    Lookup,
    Nearest,
    Prefetch,
    ReduceLanes,
    Scatter,
    Select,
    Shuffle,
    Statement,
    Store,
    Type,
    Unary,
    Value,
    Var,
    While,
)

_POISON = 0xA5  # the byte that fills integer local arrays


def interpret(
    function: Function,
    buffers: Sequence[Array],
    dims: Mapping[str, int] | Sequence[int],
    begin: int,
    end: int,
) -> None:
    """Run `function` over [begin, end), writing into `buffers` in place.

    `buffers[i]` is a 1-D array of `params[i].element`; `dims` gives the function's symbols by name or in order.
    Raises IndexError for an access outside its buffer, TypeError for a value that is not of its type, ValueError for
    a call that does not fit the function.
    """
    if len(buffers) != len(function.params):
        raise ValueError(f"{function.name} takes {len(function.params)} buffers, {len(buffers)} given")
    for param, buffer in zip(function.params, buffers, strict=True):
        if buffer.ndim != 1 or buffer.dtype != param.element.numpy:
            raise ValueError(f"{function.name}: buffer {param.name} is {buffer.dtype} of rank {buffer.ndim}, "
                             f"expected {param.element.value} of rank 1")  # fmt: skip
    values = dims if isinstance(dims, Mapping) else dict(zip(function.dims, dims, strict=True))
    machine = _Machine(
        function.name,
        {p.name: b for p, b in zip(function.params, buffers, strict=True)},
        frozenset(p.name for p in function.params if not p.writes),
        {**{name: int(values[name]) for name in function.dims}, "begin": begin, "end": end},
    )
    with np.errstate(all="ignore"):
        machine.run(function.body)


@dataclass
class _Machine:
    function: str
    buffers: dict[str, Array]
    read_only: frozenset[str]
    integers: dict[str, int]
    values: dict[str, Array] = field(default_factory=dict)

    # ---- statements ----------------------------------------------------------------------------------------------

    def run(self, body: tuple[Statement, ...]) -> None:
        for statement in body:
            _STATEMENTS[type(statement)](self, statement)

    def name(self, s: Let | Declare) -> None:
        self.values[s.name] = self.value(s.value)

    def let_index(self, s: LetIndex) -> None:
        if isinstance(s.value, (int, Expr)):
            self.integers[s.name] = self.integer(s.value)
        else:
            self.integers[s.name] = int(self.value(s.value)[0])

    def assign(self, s: Assign) -> None:
        old, new = self.values[s.name], self.value(s.value)
        if old.dtype != new.dtype or old.size != new.size:
            raise TypeError(f"{self.function}: {s.name} is {old.dtype}x{old.size}, assigned {new.dtype}x{new.size}")
        self.values[s.name] = new

    def store(self, s: Store) -> None:
        value = self.value(s.value)
        self.write(s.buffer, self.along(s.base, s.stride, value.size), value, s.mask)

    def scatter(self, s: Scatter) -> None:
        self.write(s.buffer, self.value(s.index), self.value(s.value), s.mask)

    def write(self, name: str, where: Array, value: Array, mask: Value | None) -> None:
        if name in self.read_only:
            raise TypeError(f"{self.function} stores to {name}, a parameter that it does not declare as written")
        active = self.active(name, where, mask)
        buffer = self.buffers[name]
        if buffer.dtype != value.dtype:
            raise TypeError(f"{self.function}: a store of {value.dtype} into {name}, which holds {buffer.dtype}")
        buffer[where[active]] = value[active]  # where an index repeats, numpy leaves the last value: the last lane wins

    def prefetch(self, s: Prefetch) -> None:
        """Without effect, but for what it names: that must be there."""
        self.integer(s.base)
        self.buffers[s.buffer]

    def fence(self, s: Fence) -> None:
        """Without effect: everything is done in its order. What it names must be there."""
        for name in s.kept:
            self.values[name]

    def alloc(self, s: Alloc) -> None:
        bytes_ = np.full(s.count * s.element.size, _POISON, np.uint8)
        if s.element is DType.BOOL:
            bytes_[:] = 1
        array = bytes_.view(s.element.numpy)
        if s.element.is_float:
            array[:] = np.nan
        self.buffers[s.name] = array

    def loop(self, s: For) -> None:
        for i in range(self.integer(s.start), self.integer(s.stop), s.step):
            self.integers[s.var] = i
            self.run(s.body)

    def branch(self, s: If) -> None:
        if isinstance(s.cond, tuple):
            taken = all(self.integer(c) >= 0 for c in s.cond)
        else:
            taken = bool(self.value(s.cond)[0])
        self.run(s.then if taken else s.otherwise)

    def repeat(self, s: While) -> None:
        while bool(self.value(s.cond)[0]):
            self.run(s.body)

    # ---- values --------------------------------------------------------------------------------------------------

    def integer(self, e: Dim) -> int:
        return evaluate(e, self.integers, self.load_integer)

    def along(self, base: Dim, stride: Dim, lanes: int) -> Array:
        """base + stride*lane, lane by lane."""
        return self.integer(base) + self.integer(stride) * np.arange(lanes)

    def load_integer(self, name: str, index: tuple[int, ...]) -> int:
        """A loaded element inside an index expression."""
        where = np.array(index)
        self.active(name, where, None)
        return int(self.buffers[name][where[0]])

    def value(self, v: Value) -> Array:
        result = _VALUES[type(v)](self, v)
        if result.dtype != v.type.element.numpy or result.shape != (v.type.lanes,):
            raise TypeError(f"{self.function}: {v} is {result.dtype}{list(result.shape)}")
        return result

    def active(self, name: str, where: Array, mask: Value | None) -> Array:
        """Which lanes touch memory; raises IndexError where one of them leaves the buffer."""
        on = np.ones(where.size, np.bool_) if mask is None else self.value(mask)
        outside = on & ((where < 0) | (where >= self.buffers[name].size))
        if outside.any():
            lane = int(np.argmax(outside))
            raise IndexError(f"{self.function}: lane {lane} touches {name}[{where[lane]}], "
                             f"which has {self.buffers[name].size} elements; symbols {self.integers}")  # fmt: skip
        return on

    def read(self, name: str, where: Array, t: Type, mask: Value | None) -> Array:
        on = self.active(name, where, mask)
        result = np.zeros(t.lanes, t.element.numpy)
        buffer = self.buffers[name]
        if buffer.dtype != result.dtype:
            raise TypeError(f"{self.function}: a load of {result.dtype} from {name}, which holds {buffer.dtype}")
        result[on] = buffer[where[on]]
        return result

    def const(self, v: Const) -> Array:
        return filled((v.type.lanes,), v.value, v.type.element)

    def index_value(self, v: IndexValue) -> Array:
        return convert(self.along(v.base, v.stride, v.type.lanes), v.type.element)

    def load(self, v: Load) -> Array:
        return self.read(v.buffer, self.along(v.base, v.stride, v.type.lanes), v.type, v.mask)

    def gather(self, v: Gather) -> Array:
        return self.read(v.buffer, self.value(v.index), v.type, v.mask)

    def broadcast(self, v: Broadcast) -> Array:
        arg = self.value(v.arg)
        if arg.size != 1:
            raise TypeError(f"{self.function}: a broadcast of {arg.size} lanes")
        return np.repeat(arg, v.type.lanes)

    def select(self, v: Select) -> Array:
        cond = self.value(v.cond)
        return np.where(cond, self.value(v.a), self.value(v.b))

    def bitcast(self, v: Bitcast) -> Array:
        return self.value(v.a).view(v.type.element.numpy)

    def shuffle(self, v: Shuffle) -> Array:
        if v.a.type != v.b.type:
            raise TypeError(f"{self.function}: a shuffle of {v.a.type} and {v.b.type}")
        if min(v.lanes) < 0:
            raise IndexError(f"{self.function}: a shuffle picks lane {min(v.lanes)}")
        return np.concatenate([self.value(v.a), self.value(v.b)])[list(v.lanes)]

    def lane_mask(self, v: LaneMask) -> Array:
        return np.arange(v.type.lanes) < self.integer(v.count)


_STATEMENTS: dict[type, Callable[[_Machine, Any], None]] = {
    Let: _Machine.name,
    Declare: _Machine.name,
    LetIndex: _Machine.let_index,
    Assign: _Machine.assign,
    Store: _Machine.store,
    Scatter: _Machine.scatter,
    Prefetch: _Machine.prefetch,
    Fence: _Machine.fence,
    Alloc: _Machine.alloc,
    For: _Machine.loop,
    If: _Machine.branch,
    While: _Machine.repeat,
}

_VALUES: dict[type, Callable[[_Machine, Any], Array]] = {
    Const: _Machine.const,
    Var: lambda m, v: m.values[v.name],
    IndexValue: _Machine.index_value,
    Load: _Machine.load,
    Gather: _Machine.gather,
    Broadcast: _Machine.broadcast,
    Binary: lambda m, v: binary(v.op, m.value(v.a), m.value(v.b)),
    Unary: lambda m, v: unary(v.op, m.value(v.a)),
    Compare: lambda m, v: compare(v.op, m.value(v.a), m.value(v.b)),
    Select: _Machine.select,
    Fma: lambda m, v: fused_multiply_add(m.value(v.a), m.value(v.b), m.value(v.c)),
    Dot: lambda m, v: dot(v.kind, m.value(v.a), m.value(v.b), m.value(v.c)),
    Cast: lambda m, v: convert(m.value(v.a), v.type.element),
    Nearest: lambda m, v: (nearest(m.value(v.a), v.low, v.high) + v.zero).astype(v.element.numpy),
    Lookup: lambda m, v: np.asarray(v.table, np.int32)[m.value(v.a)],
    Bitcast: _Machine.bitcast,
    Shuffle: _Machine.shuffle,
    ReduceLanes: lambda m, v: fold_lanes(v.binary, m.value(v.a)),
    LaneMask: _Machine.lane_mask,
}
