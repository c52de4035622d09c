"""The mathematics of the recurrent cells (ONNX LSTM, GRU, RNN): their gates, and how gates become a new state.

A cell's step multiplies R with the state, and has x W + b of the step from before: one vector of each gate for a group
of hidden units. It may take several phases, where a later one multiplies R with something that an earlier one made
(GRU's reset state). `finish` turns the gates of a phase into states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mapsto.devices.routines.writer import Writer
from mapsto.loop import ast as loop


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


def lstm_cell(attrs: Mapping[str, Any]) -> Cell:
    """i, o, f = s(..); c' = f*c + i*tanh(..); h' = o*tanh(c'); peepholes: i, f see c, o sees c'."""

    def finish(phase: int, unit: Unit) -> None:
        w, c = unit.w, unit.read("c")
        i = w.math("sigmoid", _with_peephole(unit, 0, c))
        f = w.math("sigmoid", _with_peephole(unit, 2, c))
        update = loop.Binary("mul", i, w.math("tanh", _gate(unit, 3)))
        new = w.let("c_new", w.multiply_add(f, c, update))
        unit.write("c", new)
        o = w.math("sigmoid", _with_peephole(unit, 1, new))
        unit.write("h", loop.Binary("mul", o, w.math("tanh", new)))

    return Cell(4, (Phase("h", range(4)),), finish, has_c=True)


def gru_cell(attrs: Mapping[str, Any]) -> Cell:
    """z, r = s(..); h' = (1-z)*n + z*h, where n = tanh(x Wn + (r*h) Rn + b).

    With linear_before_reset n = tanh(x Wn + b + r*(h Rn + b')).
    """
    return _gru_after() if attrs["linear_before_reset"] else _gru_before()


def _gru_after() -> Cell:
    """The reset gate scales the product h Rn, so one phase is enough."""

    def finish(phase: int, unit: Unit) -> None:
        w = unit.w
        z, r = w.math("sigmoid", _gate(unit, 0)), w.math("sigmoid", _gate(unit, 1))
        parts = [part for part in (unit.product(2), unit.bias()) if part is not None]
        new = unit.given(2)
        if parts:
            scaled = parts[0] if len(parts) == 1 else loop.Binary("add", *parts)
            new = w.let("reset", w.multiply_add(r, scaled, new))
        unit.write("h", _mix(unit, z, w.math("tanh", new)))

    return Cell(3, (Phase("h", range(3)),), finish)


def _gru_before() -> Cell:
    """The reset gate scales h, so the second phase multiplies R with what the first one made."""

    def finish(phase: int, unit: Unit) -> None:
        w = unit.w
        if phase == 0:
            unit.write("z", w.math("sigmoid", _gate(unit, 0)))
            unit.write("reset", loop.Binary("mul", w.math("sigmoid", _gate(unit, 1)), unit.read("h")))
            return
        unit.write("h", _mix(unit, unit.read("z"), w.math("tanh", _gate(unit, 2))))

    return Cell(3, (Phase("h", range(2)), Phase("reset", range(2, 3))), finish, temporaries=("z", "reset"))


def rnn_cell(attrs: Mapping[str, Any]) -> Cell:
    """h' = f(x W + h R + b), f tanh or relu."""
    activation = str(attrs["activation"])

    def finish(phase: int, unit: Unit) -> None:
        gate = _gate(unit, 0)
        if activation == "relu":
            unit.write("h", loop.Binary("max", gate, loop.Const(0.0, gate.type)))
        else:
            unit.write("h", unit.w.math(activation, gate))

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
    rest = loop.Binary("sub", loop.Const(1.0, z.type), z)
    return unit.w.multiply_add(rest, n, loop.Binary("mul", z, unit.read("h")))
