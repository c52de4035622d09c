"""The table of rows: for each target of an ATen graph, the function that builds it from ops of the intermediate
representation.

A row is a function of one `AtenCall`, decorated with `@aten("name")`, for all overloads of an operator, or
`@aten("name.overload")`, for one. It gives the value of the result, or a sequence of values where there are several.
What a row cannot do it raises by `call.unsupported(...)`; the translator collects these over the graph.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mapsto.errors import UnsupportedError
from mapsto.importers.quantised import QuantisedValues
from mapsto.importers.torch.symbols import TracedSizes
from mapsto.importers.torch.tensors import dtype_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

AtenRow = Callable[["AtenCall"], Any]
_ROWS: dict[str, AtenRow] = {}


def aten(*names: str) -> Callable[[AtenRow], AtenRow]:
    """Registers a row under operators ("relu") or single overloads ("add.Tensor"); those of other namespaces with it
    ("mapsto::lstm").
    """

    def keep(function: AtenRow) -> AtenRow:
        for name in names:
            assert name not in _ROWS, f"two rows for {name}"
            _ROWS[name] = function
        return function

    return keep


def find_row(target: Any) -> AtenRow | None:
    """The row of an operator's overload."""
    namespace, _, name = str(target._schema.name).partition("::")
    name = name if namespace == "aten" else f"{namespace}::{name}"
    return _ROWS.get(f"{name}.{target._overloadname}") or _ROWS.get(name)


def supported_targets() -> list[str]:
    """The names that rows are registered by."""
    return sorted(_ROWS)


@dataclass(frozen=True)
class Drawn:
    """An input that torch itself draws before a run, from its own generator: `make` gives the tensor of a shape."""

    name: str
    shape: tuple[Dim, ...]
    make: Callable[[tuple[int, ...]], Any]


@dataclass(frozen=True)
class AtenCall:
    """One call of an operator where it stands: what a row works from. given: its arguments by the names of its schema,
    defaults filled in; tensors are values, symbolic sizes are dims. node: the call in torch's graph, whose values tell
    types and shapes. quantised: which values are dequantised integers. run: gives the value that makes draws differ
    from run to run, where a gradient is to be taken of the graph itself: random numbers are made in the graph then, and
    what is detached has no gradient.
    """

    builder: Builder
    target: Any
    given: Mapping[str, Any]
    node: Any
    sizes: TracedSizes
    drawn: list[Drawn]
    quantised: QuantisedValues
    run: Callable[[], Value] | None = None

    # -- arguments -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The operator, without its overload."""
        return str(self.target._schema.name).partition("::")[2]

    @property
    def overload(self) -> str:
        return str(self.target._overloadname)

    def has(self, name: str) -> bool:
        return self.given.get(name) is not None

    def value(self, name: str = "self") -> Value:
        """A tensor; a number of the run (a size as a float) is a tensor of one element."""
        found = self.given[name]
        if not isinstance(found, Value):
            raise self.unsupported(f"its argument {name!r} is {found!r}, where only a tensor is supported")
        return found

    def optional(self, name: str) -> Value | None:
        return self.value(name) if self.has(name) else None

    def values(self, name: str) -> list[Value]:
        """A list of tensors."""
        return [v for v in self.given[name] if isinstance(v, Value)]

    def flag(self, name: str, default: bool = False) -> bool:
        found = self.given.get(name, default)
        return default if found is None else bool(found)

    def integer(self, name: str) -> int:
        """An integer that is known when compiling."""
        found = self.given[name]
        if isinstance(found, (Expr, Value)):
            raise self.unsupported(f"its argument {name!r} is {found}, which only a run knows; it must be a number")
        return int(found)

    def number(self, name: str, default: float = 0.0) -> float:
        """A number that is known when compiling; `default` where it is None."""
        found = self.given.get(name)
        if found is None:
            return default
        if isinstance(found, (Expr, Value)):
            raise self.unsupported(f"its argument {name!r} is {found}, which only a run knows; it must be a number")
        return float(found)

    def text(self, name: str, default: str = "") -> str:
        found = self.given.get(name)
        return default if found is None else str(found)

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """Integers that are known when compiling; one stands for `count` of them, none for none."""
        found = self.given.get(name)
        if found is None:
            return ()
        if isinstance(found, (int, Expr)):
            found = [found]
        if any(not isinstance(each, int) for each in found):
            raise self.unsupported(f"its argument {name!r} is {list(found)}, which only a run knows; give numbers")
        numbers = tuple(int(each) for each in found)
        return numbers * count if count is not None and len(numbers) == 1 else numbers

    def dim(self, name: str) -> Dim:
        return self.as_dim(self.given[name])

    def dims(self, name: str) -> list[Dim]:
        found = self.given[name]
        return [self.as_dim(each) for each in ([found] if isinstance(found, (int, Expr, Value)) else found)]

    def as_dim(self, given: Any) -> Dim:
        """A size as a dim; an integer that only a run knows is bound to a symbol."""
        if isinstance(given, Value):
            return self.builder.dims(given, "n", self.builder.place(self.name))[0]
        if isinstance(given, Expr):
            return given
        return int(given)

    def axis(self, name: str = "dim", rank: int | None = None) -> int:
        """An axis of the operand, counted from the front."""
        rank = self.value().rank if rank is None else rank
        return self.integer(name) % max(rank, 1)

    def axes(self, name: str = "dim", rank: int | None = None) -> tuple[int, ...]:
        """Axes of the operand, all of them where none is named."""
        rank = self.value().rank if rank is None else rank
        found = self.integers(name)
        return tuple(sorted({axis % max(rank, 1) for axis in found})) if found and rank else tuple(range(rank))

    # -- results -------------------------------------------------------------------------------------------------------

    def result(self, i: int | None = None) -> Any:
        """What torch says of the result, or of result i: a tensor without elements."""
        made = self.node.meta["val"]
        return made if i is None else made[i]

    @property
    def out(self) -> DType:
        """The result's element type."""
        return dtype_of(self.result().dtype)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The result's shape, as torch says it. Raises UnsupportedError where it hangs on the data of a run."""
        found = [self.sizes.dim(d) for d in self.result().shape]
        if any(d is None for d in found):
            raise self.unsupported(f"the shape of its result, {list(self.result().shape)}, is not known before the run")
        return tuple(d for d in found if d is not None)

    def wants(self, i: int) -> bool:
        """Whether result i of several is read."""
        if len(self.node.users) == 0:
            return False
        picks = [user for user in self.node.users if user.op == "call_function" and user.target.__name__ == "getitem"]
        return len(picks) < len(self.node.users) or any(user.args[1] == i and user.users for user in picks)

    def draw(self, make: Callable[[tuple[int, ...]], Any], shape: Sequence[Dim], dtype: DType) -> Value:
        """A tensor of random numbers, which is drawn before each run; draws keep the order of their calls."""
        if self.builder.parent is not None:
            raise self.unsupported("random numbers in a branch or a loop are not supported; draw them before it")
        value = self.builder.input(f"{self.node.name}.drawn", dtype, shape)
        self.drawn.append(Drawn(value.name, tuple(shape), make))
        return value

    def stream(self) -> int:
        """What tells the draw of this call from others of a run."""
        return zlib.crc32(str(self.node.name).encode())

    # -- the usual -----------------------------------------------------------------------------------------------------

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for what a row cannot do; `what` says it and what to do about it."""
        return UnsupportedError(what)

    def one(self, op: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        return self.builder.one(op, inputs, **attrs)

    def cast(self, x: Value, to: DType) -> Value:
        return x if x.dtype is to else self.builder.one("cast", [x], to=to)

    def scalar(self, number: Any, dtype: DType) -> Value:
        """A number of the call as a tensor without axes, be it known or of the run."""
        if isinstance(number, Value):
            return self.cast(number, dtype)
        if isinstance(number, Expr):
            return self.cast(self.builder.known(number), dtype)
        with np.errstate(all="ignore"):
            return self.builder.constant(np.asarray(number).astype(dtype.numpy))

    def operand(self, name: str, dtype: DType) -> Value:
        """An argument that is a tensor or a number, as a tensor of this type."""
        return self.scalar(self.given[name], dtype)

    def promoted(self, *names: str) -> DType:
        """The type that torch computes an operator of these arguments in, by its rules of promotion."""
        kinds = [_meta(self._raw(name)) for name in names if self.has(name)]
        found = kinds[0]
        for other in kinds[1:]:
            rank = max(kind.dim() if isinstance(kind, torch.Tensor) else 0 for kind in (found, other))
            found = torch.empty((1,) * rank, dtype=torch.result_type(found, other))
        return dtype_of(torch.result_type(found, found))

    def _raw(self, name: str) -> Any:
        """An argument as it stands in torch's graph."""
        for k, argument in enumerate(self.target._schema.arguments):
            if argument.name == name:
                return (
                    self.node.args[k] if k < len(self.node.args) else self.node.kwargs.get(name, argument.default_value)
                )
        raise KeyError(name)


def _meta(raw: Any) -> Any:
    """What torch's rules of promotion look at: a tensor's type and whether it has axes, a number's kind."""
    held = raw.meta["val"] if isinstance(raw, torch.fx.Node) else raw
    if isinstance(held, torch.Tensor):
        return torch.empty((1,) * min(held.dim(), 1), dtype=held.dtype)
    if isinstance(held, torch.SymInt):
        return 1
    return 1.0 if isinstance(held, torch.SymFloat) else held
