"""The mathematics of the recurrent cells (ONNX LSTM, GRU, RNN): their gates, and how gates become a new state.

A cell's step multiplies R with the state, and has x W + b of the step from before: one vector of each gate for a group
of hidden units. It may take several phases, where a later one multiplies R with something that an earlier one made
(GRU's reset state). `finish` turns the gates of a phase into states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mapsto.devices.routines.activations import activated, clipped
from mapsto.devices.routines.writer import Writer
from mapsto.loop import ast as loop
from mapsto.ops.activations import Activation, activations_of


class Unit(Protocol):
    """Where a cell finds and leaves its states, for one row of the batch and one vector of hidden units."""

    @property
    def w(self) -> Writer: ...

    def read(self, state: str) -> loop.Value:
        """The state before this step ("h", "c"), or what an earlier phase of it wrote."""

    def write(self, state: str, value: loop.Value) -> None: ...

    def given(self, gate: int) -> loop.Value:
        """x W + b."""

    def product(self, gate: int) -> loop.Value | None:
        """The state times R; None where the state is zero."""

    def bias(self) -> loop.Value | None:
        """What is added to a product that is scaled (GRU with linear_before_reset), if the node has it."""

    def peephole(self, gate: int) -> loop.Value | None:
        """The diagonal weights of a gate, if the node has any."""


@dataclass(frozen=True)
class Phase:
    """Gates that are made together, neighbours in R. source: the state that R is multiplied with."""

    source: str
    gates: range


@dataclass(frozen=True)
class Cell:
    """A recurrent cell. gates: how many hidden-sized blocks R has. temporaries: states that live within a step."""

    gates: int
    phases: tuple[Phase, ...]
    finish: Callable[[int, Unit], None]
    has_c: bool = False
    temporaries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Functions:
    """A node's activations in order, each after its operand is clipped, if the node clips."""

    of: tuple[Activation, ...]
    clip: float | None

    @staticmethod
    def of_node(op: str, attrs: Mapping[str, Any]) -> Functions:
        return Functions(activations_of(op, attrs), attrs.get("clip"))

    def __call__(self, w: Writer, k: int, x: loop.Value) -> loop.Value:
        return activated(w, self.of[k], clipped(w, self.clip, x))


def lstm_cell(attrs: Mapping[str, Any]) -> Cell:
    """i, o, f = s(..); c' = f*c + i*tanh(..); h' = o*tanh(c'); peepholes: i, f see c, o sees c'. s and both tanh may be
    other functions; f may be 1 - i (`input_forget`).
    """
    functions, coupled = Functions.of_node("lstm", attrs), bool(attrs.get("input_forget"))

    def finish(phase: int, unit: Unit) -> None:
        w, c = unit.w, unit.read("c")
        i = functions(w, 0, _with_peephole(unit, 0, c))
        if coupled:
            i = w.let("input", i)
            f: loop.Value = loop.Binary("sub", loop.Const(1.0, i.type), i)
        else:
            f = functions(w, 0, _with_peephole(unit, 2, c))
        update = loop.Binary("mul", i, functions(w, 1, _gate(unit, 3)))
        new = w.let("c_new", w.multiply_add(f, c, update))
        unit.write("c", new)
        o = functions(w, 0, _with_peephole(unit, 1, new))
        unit.write("h", loop.Binary("mul", o, activated(w, functions.of[2], new)))

    return Cell(4, (Phase("h", range(4)),), finish, has_c=True)


def gru_cell(attrs: Mapping[str, Any]) -> Cell:
    """z, r = s(..); h' = (1-z)*n + z*h, where n = tanh(x Wn + (r*h) Rn + b).

    With linear_before_reset n = tanh(x Wn + b + r*(h Rn + b')). s and tanh may be other functions.
    """
    functions = Functions.of_node("gru", attrs)
    return _gru_after(functions) if attrs["linear_before_reset"] else _gru_before(functions)


def _gru_after(functions: Functions) -> Cell:
    """The reset gate scales the product h Rn, so one phase is enough."""

    def finish(phase: int, unit: Unit) -> None:
        w = unit.w
        z, r = functions(w, 0, _gate(unit, 0)), functions(w, 0, _gate(unit, 1))
        parts = [part for part in (unit.product(2), unit.bias()) if part is not None]
        new = unit.given(2)
        if parts:
            scaled = parts[0] if len(parts) == 1 else loop.Binary("add", *parts)
            new = w.let("reset", w.multiply_add(r, scaled, new))
        unit.write("h", _mix(unit, z, functions(w, 1, new)))

    return Cell(3, (Phase("h", range(3)),), finish)


def _gru_before(functions: Functions) -> Cell:
    """The reset gate scales h, so the second phase multiplies R with what the first one made."""

    def finish(phase: int, unit: Unit) -> None:
        w = unit.w
        if phase == 0:
            unit.write("z", functions(w, 0, _gate(unit, 0)))
            unit.write("reset", loop.Binary("mul", functions(w, 0, _gate(unit, 1)), unit.read("h")))
            return
        unit.write("h", _mix(unit, unit.read("z"), functions(w, 1, _gate(unit, 2))))

    return Cell(3, (Phase("h", range(2)), Phase("reset", range(2, 3))), finish, temporaries=("z", "reset"))


def rnn_cell(attrs: Mapping[str, Any]) -> Cell:
    """h' = f(x W + h R + b)"""
    functions = Functions.of_node("rnn", attrs)

    def finish(phase: int, unit: Unit) -> None:
        unit.write("h", functions(unit.w, 0, _gate(unit, 0)))

    return Cell(1, (Phase("h", range(1)),), finish)


def _gate(unit: Unit, gate: int) -> loop.Value:
    """x W + b + h R."""
    given, product = unit.given(gate), unit.product(gate)
    return given if product is None else unit.w.let("gate", loop.Binary("add", given, product))


def _with_peephole(unit: Unit, gate: int, c: loop.Value) -> loop.Value:
    value, weight = _gate(unit, gate), unit.peephole(gate)
    return value if weight is None else unit.w.let("peephole", unit.w.multiply_add(weight, c, value))


def _mix(unit: Unit, z: loop.Value, n: loop.Value) -> loop.Value:
    """(1-z)*n + z*h."""
    z = unit.w.let("z", z)
    rest = loop.Binary("sub", loop.Const(1.0, z.type), z)
    return unit.w.multiply_add(rest, n, loop.Binary("mul", z, unit.read("h")))
