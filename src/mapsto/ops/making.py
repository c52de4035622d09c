"""What the rules of ops may ask of the graph in the making that they are used for (a `Builder` is one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Value
from mapsto.ops.ranges import Known, Noted


class Making(Known, Protocol):
    """A graph that gradients and checks of indices add nodes to."""

    @property
    def is_placed(self) -> bool:
        """Whether errors that are raised now get the source node in front of them."""

    def one(self, name: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        """Adds a node with one output, and gives the output."""

    def add(
        self,
        name: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        graphs: Sequence[Graph] = (),
        names: Sequence[str] = (),
    ) -> tuple[Value, ...]:
        """Adds a node; gives its outputs."""

    def constant(self, array: Any, name: str = "c", dtype: DType | None = None) -> Value:
        """A constant of the graph; `dtype` converts."""

    def known(self, content: Any, dtype: DType = DType.I64, name: str = "dims") -> Value:
        """An integer tensor whose elements are dims."""

    def require(self, condition: Dim, message: str, where: str | None = None) -> None:
        """A run stops with the message where `condition` is negative."""

    def note_bounds(self, name: str, noted: Noted) -> None:
        """Keeps what a run has checked of a value's elements by now."""
