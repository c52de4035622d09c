"""What values are emitted into: the scopes of a function, the lanes at work, the guard that holds, what is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mapsto.devices.generic.numbering import Info, Numbering
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.scope import Code, MemoKey, zero
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, symbols
from mapsto.kernel.ast import Scalar
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
    tail. `mask`: the lanes that are inside, where somebody else knows them.
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


@dataclass(frozen=True)
class Tensors:
    """What is known of tensors throughout. `internal`: written and read in one row. `near`: kept in registers or local
    arrays. `rounded`: their elements hold rounding that is not defined (`exactness`).
    """

    internal: frozenset[str] = frozenset()
    near: frozenset[str] = frozenset()
    rounded: frozenset[str] = frozenset()


class Context(ABC):
    """Emits into `code` what a place of a kernel needs; how an expression becomes a value is its heir's to say.

    `known`: tensors whose element at the present point is a value already. `lanes`: how many lanes a reduction may take
    for itself where none are at work around it; `processor`: by whose costs. `floor`: the outermost scope that anything
    is emitted into.
    """

    def __init__(
        self,
        code: Code,
        operands: Mapping[str, Operand],
        processor: Processor,
        lanes: int = 1,
        tensors: Tensors = Tensors(),
    ) -> None:
        self.code = code
        self.processor = processor
        self.operands = dict(operands)
        self.info = Numbering()
        self.known: dict[str, loop.Value] = {}
        self.known_depth: dict[str, int] = {}
        self.lane: Lane | None = None
        self.mask: Mask | None = None
        self.internal = tensors.internal
        self.row_depth = 0
        self.floor = 0
        self.writing: frozenset[str] = frozenset()
        self.lanes = lanes
        self.near = tensors.near
        self.rounded = tensors.rounded

    @abstractmethod
    def value(self, e: Scalar) -> loop.Value:
        """The value of a scalar expression at the present point."""

    # ---- where we are ----

    def begin_part(self) -> None:
        """What follows is emitted into the present scope or into inner ones."""
        self.floor = self.code.depth

    def begin_row(self) -> None:
        """What statements of one row pass on is read in the present scope or in inner ones."""
        self.row_depth = self.code.depth

    @contextmanager
    def in_lanes(self, lane: Lane | None) -> Iterator[None]:
        """These lanes are at work (None: single elements)."""
        before, self.lane = self.lane, lane
        yield
        self.lane = before

    @contextmanager
    def writing_to(self, targets: Iterable[str]) -> Iterator[None]:
        """Elements of these tensors change in every round."""
        self.writing = frozenset(targets)
        yield
        self.writing = frozenset()

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

    def key(self, info: Info) -> MemoKey:
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

        def is_stale(key: MemoKey) -> bool:
            return key[0] in stale or (key[0] == "loaded" and tensor in key[1])  # type: ignore[operator]

        self.code.forget(is_stale)

    def define(self, tensor: str, value: loop.Value) -> None:
        """From now on `value` is the tensor's element at the present point."""
        self.forget(tensor)
        self.known[tensor] = value
        self.known_depth[tensor] = self.code.depth

    def undefine(self, tensor: str) -> None:
        """From now on the tensor's elements are no values that are known."""
        self.forget(tensor)
        self.known.pop(tensor, None)

    @contextmanager
    def defining(self, values: Mapping[str, loop.Value]) -> Iterator[None]:
        """Inside, these are the tensors' elements; after that what they were before, of which nothing else was
        forgotten.
        """
        before = {name: (self.known[name], self.known_depth[name]) for name in values if name in self.known}
        for name, value in values.items():
            self.define(name, value)
        yield
        for name in values:
            self.undefine(name)
        for name, (value, depth) in before.items():
            self.known[name], self.known_depth[name] = value, depth

    # ---- lanes and masks ----

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
        key: MemoKey = ("lanes", count, self.lane.count)
        found = self.code.find(key)
        if found is None:
            with self.code.at(min(max(self.code.depth_of(count), self.floor), self.code.depth)):
                found = self.code.let(loop.LaneMask(count, loop.Type(DType.BOOL, self.lane.count)), "m")
                self.code.remember(key, found)
        return found

    def varies(self, place: Dim) -> bool:
        """Whether an expression over loop symbols differs between lanes."""
        return self.lane is not None and self.lane.symbol in symbols(place)
