"""The gradient of a softmax as one, where the graph has it node by node: e = exp(z), y = e / sum e, or log y = z - log
sum e, with z = x - m (the maximum, as it is, or anything that is one for a whole row).

    dz = y (g - sum(g y))    of y                 dz = g - y sum(g)    of log y

Rules of the single nodes would read z, e, both sums and what they make of the first; this reads y. Both add up to zero
along the axes of the sum, whatever g is: nothing of them goes to m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Node, Value
from mapsto.ops.builder import Builder


@dataclass(frozen=True)
class Softmax:
    """z: what it is of. e, total: its exponentials and their sum along axes, which stay, of extent 1. logarithm:
    whether it gives the logarithms of the shares.
    """

    z: Value
    e: Value
    total: Value
    axes: tuple[int, ...]
    logarithm: bool


def softmax_of(b: Builder, node: Node) -> Softmax | None:
    """The softmax whose result a node gives, if it is one's."""
    if node.op == "div":
        e, total = (_maker(b, name) for name in node.inputs)
        found = None if e is None else _summed(b, e, total)
        return None if found is None or node.output.shape != found.z.shape else found
    if node.op == "sub":
        log = _maker(b, node.inputs[1])
        total = None if log is None or log.op != "log" else _maker(b, log.inputs[0])
        e = None if total is None or total.op != "reduce" else _maker(b, total.inputs[0])
        found = None if e is None else _summed(b, e, total, True)
        return None if found is None or found.z.name != node.inputs[0] else found
    return None


def _maker(b: Builder, name: str) -> Node | None:
    return b.producer(b.lookup(name))


def _summed(b: Builder, e: Node, total: Node | None, logarithm: bool = False) -> Softmax | None:
    if e.op != "exp" or total is None or total.op != "reduce" or total.inputs[0] != e.output.name:
        return None
    if total.attrs.get("kind") != "sum" or not total.attrs.get("keepdims"):
        return None
    z = _maker(b, e.inputs[0])
    if z is None or z.op != "sub" or z.output.dtype is not e.output.dtype:
        return None
    axes: tuple[int, ...] = tuple(total.attrs["axes"])  # type: ignore[arg-type]
    return Softmax(z.output, e.output, total.output, axes, logarithm)


def gradient_of_softmax(b: Builder, node: Node, found: Softmax, g: Value) -> Value:
    """The gradient of z, where g is that of the node's result."""

    def summed(value: Value) -> Value:
        return b.one("reduce", [value], kind="sum", axes=found.axes, keepdims=True)

    if found.logarithm:
        y = b.one("div", [found.e, found.total])
        return b.one("sub", [g, b.one("mul", [y, summed(g)])])
    y = node.output
    return b.one("mul", [y, b.one("sub", [g, summed(b.one("mul", [g, y]))])])


def is_shift(node: Node, shift: Value, even: Sequence[int]) -> bool:
    """Whether a difference takes the same from whole rows, along axes that its gradient adds up to zero along: nothing
    of that goes to what is taken.
    """
    return bool(even) and shift.rank == node.output.rank and all(shift.shape[axis] == 1 for axis in even)
