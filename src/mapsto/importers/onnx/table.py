"""The table of rows: for each ONNX op, the function that builds it from ops of the intermediate representation.

A row is a function of one `NodeCall` (a node at its place: inputs, attributes, opset) decorated with `@row("Name")`. It
returns the output values in order. What a row cannot do it raises by `call.unsupported(...)`; the translator collects
these over the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx

from mapsto.budget import current
from mapsto.errors import ModelError, UnsupportedError
from mapsto.importers.onnx.learning import Learning
from mapsto.importers.onnx.quantised import DequantisedValues
from mapsto.importers.onnx.schema import input_name
from mapsto.importers.onnx.sequences import TensorOrSequence, TensorSequence
from mapsto.importers.onnx.tensors import TensorReader, dtype_of
from mapsto.ir.dtypes import DType, scalar
from mapsto.ir.expr import Dim, Expr, symbols
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

Result = TensorOrSequence | Sequence[TensorOrSequence | None]
Row = Callable[["NodeCall"], Result]
T = TypeVar("T")
_ROWS: dict[tuple[str, str], Row] = {}
_KIND = onnx.AttributeProto


def row(*names: str, domain: str = "") -> Callable[[Row], Row]:
    """Registers a row under one or several op names."""

    def keep(function: Row) -> Row:
        for name in names:
            assert (domain, name) not in _ROWS, f"two rows for {name}"
            _ROWS[domain, name] = function
        return function

    return keep


def find_row(domain: str, op: str) -> Row | None:
    return _ROWS.get((domain, op))


def supported_ops() -> list[str]:
    """Names of the ops with a row; those of other domains with their domain."""
    return sorted(f"{domain}.{name}" if domain else name for domain, name in _ROWS)


class Import(Protocol):
    """What a row may ask of the import that it is part of (a translator is one)."""

    @property
    def tensors(self) -> TensorReader: ...

    @property
    def notes(self) -> dict[tuple[str, str], Any]:
        """What rows found out about a node whose graphs they build, for when it is built again: by its name, and what
        it is about.
        """

    @property
    def learning(self) -> Learning | None:
        """What there is to say where the model is to be trained, be it imported as it learns or as it infers."""

    @property
    def quantised(self) -> DequantisedValues:
        """Which values are known as dequantised integers."""

    def inline_graph(
        self, graph: Any, name: str, given: Sequence[TensorOrSequence] = (), builder: Builder | None = None
    ) -> list[TensorOrSequence]:
        """The outputs of a nested graph built in place, inside the graph of the node that is being translated, or one
        (`builder`) that is nested in it. given: its inputs.
        """


@dataclass(frozen=True)
class NodeCall:
    """One node where it stands: what a row works from."""

    translator: Import
    builder: Builder
    op: str
    name: str
    opset: int
    inputs: tuple[TensorOrSequence | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]

    # -- faults --------------------------------------------------------------------------------------------------------

    def unsupported(self, what: str, hangs_on: Iterable[Dim] = ()) -> UnsupportedError:
        """The error for what a row cannot do; `what` says it and what to do about it. hangs_on: the extents that are
        to be fixed, where that is what to do.
        """
        error = UnsupportedError(what)
        error.sizes = frozenset(name for dim in hangs_on for name in symbols(dim))
        return error

    def wrong(self, what: str) -> ModelError:
        return ModelError(what)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def operand(self, i: int) -> TensorOrSequence | None:
        """Input i, a tensor or a sequence; None where it is left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def optional(self, i: int) -> Value | None:
        found = self.operand(i)
        return self.tensors([found], self.port(i))[0] if isinstance(found, TensorSequence) else found

    def tensors(self, operands: Sequence[TensorOrSequence], what: str) -> list[Value]:
        """Operands that must be tensors. Raises UnsupportedError for a sequence."""
        found: list[Value] = []
        for operand in operands:
            if isinstance(operand, TensorSequence):
                raise self.unsupported(f"{what} is {operand}, where only a tensor is supported")
            found.append(operand)
        return found

    def sequence(self, i: int = 0) -> TensorSequence:
        """Input i, which must be a sequence."""
        found = self.operand(i)
        if not isinstance(found, TensorSequence):
            raise self.wrong(f"{self.port(i)} is {'missing' if found is None else 'a tensor'}, not a sequence")
        return found

    def input(self, i: int = 0) -> Value:
        value = self.optional(i)
        if value is None:
            raise self.wrong(f"input {i} is missing")
        return value

    def all_inputs(self) -> list[Value]:
        return [self.input(i) for i in range(len(self.inputs))]

    def wants(self, i: int) -> bool:
        """Whether output i is named, that is, read by somebody."""
        return i < len(self.outputs) and bool(self.outputs[i])

    def array(self, i: int) -> np.ndarray | None:
        """The elements of input i where it is a constant."""
        return self.builder.array(self.optional(i))

    def content(self, i: int) -> np.ndarray | None:
        """The integers of input i where they are known as dims."""
        return self.builder.content(self.optional(i))

    def port(self, i: int) -> str:
        """Input i in a user's words."""
        name = input_name("", self.op, self.opset, i)
        return f"input {i} ({name})" if name else f"input {i}"

    def place(self, i: int) -> str:
        """The node and input i in a user's words, for what a run says of it."""
        return f"{self.builder.place(self.op)}: {self.port(i)}"

    def require(self, condition: Dim, message: str, liftable: bool = False) -> None:
        """A run stops with the message and the node's name where `condition`, on sizes, is negative. Raises ModelError
        where it always is. liftable: the node can be built where these sizes are fixed.
        """
        if isinstance(condition, int) and condition < 0:
            raise self.wrong(message)
        self.builder.require(condition, message, where=self.builder.place(self.op), liftable=liftable)

    def require_value(self, condition: Dim, message: str) -> None:
        """The same of what is read for the sake of the condition alone."""
        self.builder.require(condition, message, where=self.builder.place(self.op), always=True)

    def dims(self, i: int, hint: str = "n") -> list[Dim]:
        """The integers of input i as dims; what only a run knows is bound to a symbol."""
        return self.builder.dims(self.input(i), hint, "" if self.content(i) is not None else self.place(i))

    def known_ints(self, i: int) -> list[int] | None:
        """The integers of input i where they are known at compile time and free of symbols, else None."""
        array = self.array(i)
        if array is not None:
            return [int(v) for v in array.reshape(-1)]
        content = self.content(i)
        if content is None or any(isinstance(e, Expr) for e in content.reshape(-1)):
            return None
        return [int(e) for e in content.reshape(-1)]

    def dim(self, i: int, hint: str) -> Dim:
        """The only integer of input i as a dim."""
        return self.only(self.dims(i, hint), i)

    def only(self, found: Sequence[T], i: int) -> T:
        """The one of what input i holds. Raises ModelError where there are others, or none."""
        if len(found) != 1:
            raise self.wrong(f"{self.port(i)} has {len(found)} elements, not 1")
        return found[0]

    def static_scalar(self, i: int, meaning: str) -> float | int | bool:
        """The one element of input i, a constant; an integer keeps all its bits, a storage type has nothing else."""
        array = self.array(i)
        if array is None or array.size != 1:
            raise self.unsupported(f"{meaning} (input {i}) must be a constant with one element; make it an initializer")
        return scalar(array)

    # -- attributes ----------------------------------------------------------------------------------------------------

    def _attribute(self, name: str, kind: int) -> Any:
        attribute = self.attributes.get(name)
        if attribute is None:
            return None
        if attribute.type not in (kind, _KIND.UNDEFINED):
            known = {v: k for k, v in _KIND.AttributeType.items()}
            raise self.wrong(f"attribute {name!r} is of kind {known.get(attribute.type)}, not {known[kind]}")
        return attribute

    def has_attribute(self, name: str) -> bool:
        return name in self.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        attribute = self._attribute(name, _KIND.INT)
        if attribute is None and default is None:
            raise self.wrong(f"attribute {name!r} is missing")
        return int(attribute.i) if attribute is not None else int(default or 0)

    def number(self, name: str, default: float | None = None) -> float:
        """A float attribute. Files hold them in float32; its nearest short decimal is not guessed."""
        attribute = self._attribute(name, _KIND.FLOAT)
        if attribute is None and default is None:
            raise self.wrong(f"attribute {name!r} is missing")
        return float(attribute.f) if attribute is not None else float(np.float32(default or 0.0))

    def text(self, name: str, default: str) -> str:
        attribute = self._attribute(name, _KIND.STRING)
        return default if attribute is None else _text(attribute.s, name)

    def integers(self, name: str) -> list[int] | None:
        attribute = self._attribute(name, _KIND.INTS)
        return None if attribute is None else [int(v) for v in attribute.ints]

    def numbers(self, name: str) -> list[float] | None:
        attribute = self._attribute(name, _KIND.FLOATS)
        return None if attribute is None else [float(v) for v in attribute.floats]

    def texts(self, name: str) -> list[str] | None:
        attribute = self._attribute(name, _KIND.STRINGS)
        return None if attribute is None else [_text(v, name) for v in attribute.strings]

    def tensor(self, name: str) -> np.ndarray | None:
        attribute = self._attribute(name, _KIND.TENSOR)
        return None if attribute is None else self.translator.tensors.array(attribute.t, f"attribute {name!r}")

    def graph(self, name: str) -> Any:
        attribute = self._attribute(name, _KIND.GRAPH)
        if attribute is None:
            raise self.wrong(f"attribute {name!r} is missing")
        return attribute.g

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """An attribute that holds the number of an element type."""
        if default is not None and name not in self.attributes:
            return default
        return dtype_of(self.integer(name), f"attribute {name!r}")

    def one_of(self, name: str, default: str, allowed: Sequence[str]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise self.unsupported(f"attribute {name}={value!r} is not supported; it may be {', '.join(allowed)}")
        return value

    # -- the usual -----------------------------------------------------------------------------------------------------

    def several(self, op: str, *inputs: TensorOrSequence | None, outputs: int, opset: int = 21) -> list[Value]:
        """What the row of an op of the standard makes of these inputs and of this node's attributes."""
        names = tuple(self.outputs[k] if k < len(self.outputs) else f"{op}_{k}" for k in range(outputs))
        found = _ROWS["", op](replace(self, op=op, opset=opset, inputs=inputs, outputs=names))
        results = found[:outputs] if isinstance(found, Sequence) else [found]
        assert all(isinstance(v, Value) for v in results)
        return [v for v in results if isinstance(v, Value)]

    def standard(self, op: str, *inputs: TensorOrSequence | None, opset: int = 21) -> Value:
        """The first of these outputs."""
        return self.several(op, *inputs, outputs=1, opset=opset)[0]

    def axis(self, rank: int, default: int | None = None, name: str = "axis") -> int:
        """The axis attribute, counted from the front."""
        return self.normal_axis(self.integer(name, default), rank)

    def normal_axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < max(rank, 1):
            raise self.wrong(f"axis {axis} does not exist in a tensor of {rank} axes")
        return axis % rank if rank else 0

    def scalar(self, number: float | int | bool, like: Value) -> Value:
        """A 0-d constant of the element type of another value."""
        return self.builder.constant(np.asarray(number), "c", like.dtype)


def _text(data: bytes, name: str) -> str:
    current().check("name", len(data), f"attribute {name!r}")
    return bytes(data).decode("utf-8", "replace")
