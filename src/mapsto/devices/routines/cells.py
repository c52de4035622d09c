"""The mathematics of the recurrent cells (ONNX LSTM, GRU, RNN): their gates, and how gates become a new state.

A cell's step fills *accumulators*, one vector each for a group of hidden units: x times gates of W, plus h times gates
of R, plus biases. It may take several phases, where a later one multiplies R with something that an earlier one made
(GRU's reset state). `finish` turns the accumulators of a phase into states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mapsto.devices.routines.writer import Writer
from mapsto.loop import ast


class Unit(Protocol):
    """Where a cell finds and leaves its states, for one row of the batch and one vector of hidden units."""

    @property
    def w(self) -> Writer: ...

    def read(self, state: str) -> ast.Value:
        """The state before this step ("h", "c"), or what an earlier phase of it wrote."""

    def write(self, state: str, value: ast.Value) -> None: ...

    def peephole(self, gate: int) -> ast.Value | None:
        """The diagonal weights of a gate, if the node has any."""


@dataclass(frozen=True)
class Phase:
    """Accumulators that are filled together.

    source: the state that R is multiplied with. inputs: pairs of (gate of W, accumulator). gates: the same for R.
    """

    source: str
    inputs: tuple[tuple[int, int], ...]
    gates: tuple[tuple[int, int], ...]

    @property
    def accumulators(self) -> tuple[int, ...]:
        return tuple(sorted({a for _, a in self.inputs} | {a for _, a in self.gates}))


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    gates: how many hidden-sized blocks W and R have. biases: for each accumulator, the blocks of B = [Wb, Rb] that it
    starts from; the first `gates` accumulators take the gates of W. temporaries: states that live within a step.
    """

    gates: int
    biases: tuple[tuple[int, ...], ...]
    phases: tuple[Phase, ...]
    finish: Callable[[int, Unit, Mapping[int, ast.Value]], None]
    has_c: bool = False
    temporaries: tuple[str, ...] = ()


def lstm_cell(attrs: Mapping[str, Any]) -> Cell:
    """i, o, f = s(..); c' = f*c + i*tanh(..); h' = o*tanh(c'); peepholes: i, f see c, o sees c'."""

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w, c = unit.w, unit.read("c")
        i = w.math("sigmoid", _with_peephole(unit, acc[0], 0, c))
        f = w.math("sigmoid", _with_peephole(unit, acc[2], 2, c))
        update = ast.Binary("mul", i, w.math("tanh", acc[3]))
        new = w.let("c_new", w.multiply_add(f, c, update))
        unit.write("c", new)
        o = w.math("sigmoid", _with_peephole(unit, acc[1], 1, new))
        unit.write("h", ast.Binary("mul", o, w.math("tanh", new)))

    every = tuple((g, g) for g in range(4))
    return Cell(4, tuple((g, 4 + g) for g in range(4)), (Phase("h", every, every),), finish, has_c=True)


def gru_cell(attrs: Mapping[str, Any]) -> Cell:
    """z, r = s(..); h' = (1-z)*n + z*h, where n = tanh(x Wn + (r*h) Rn + b).

    With linear_before_reset n = tanh(x Wn + b + r*(h Rn + b')).
    """
    return _gru_after() if attrs["linear_before_reset"] else _gru_before()


def _gru_after() -> Cell:
    """The reset gate scales the product h Rn, so one phase is enough; accumulator 3 holds that product."""

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w = unit.w
        z, r = w.math("sigmoid", acc[0]), w.math("sigmoid", acc[1])
        unit.write("h", _mix(unit, z, w.math("tanh", w.let("reset", w.multiply_add(r, acc[3], acc[2])))))

    phase = Phase("h", ((0, 0), (1, 1), (2, 2)), ((0, 0), (1, 1), (2, 3)))
    return Cell(3, ((0, 3), (1, 4), (2,), (5,)), (phase,), finish)


def _gru_before() -> Cell:
    """The reset gate scales h, so the second phase multiplies R with what the first one made."""

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w = unit.w
        if phase == 0:
            unit.write("z", w.math("sigmoid", acc[0]))
            unit.write("reset", ast.Binary("mul", w.math("sigmoid", acc[1]), unit.read("h")))
            return
        unit.write("h", _mix(unit, unit.read("z"), w.math("tanh", acc[2])))

    first = Phase("h", ((0, 0), (1, 1)), ((0, 0), (1, 1)))
    second = Phase("reset", ((2, 2),), ((2, 2),))
    return Cell(3, ((0, 3), (1, 4), (2, 5)), (first, second), finish, temporaries=("z", "reset"))


def rnn_cell(attrs: Mapping[str, Any]) -> Cell:
    """h' = f(x W + h R + b), f tanh or relu."""
    activation = str(attrs["activation"])

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        if activation == "relu":
            unit.write("h", ast.Binary("max", acc[0], ast.Const(0.0, acc[0].type)))
        else:
            unit.write("h", unit.w.math(activation, acc[0]))

    return Cell(1, ((0, 1),), (Phase("h", ((0, 0),), ((0, 0),)),), finish)


def _with_peephole(unit: Unit, value: ast.Value, gate: int, c: ast.Value) -> ast.Value:
    weight = unit.peephole(gate)
    return value if weight is None else unit.w.let("peephole", unit.w.multiply_add(weight, c, value))


def _mix(unit: Unit, z: ast.Value, n: ast.Value) -> ast.Value:
    """(1-z)*n + z*h."""
    rest = ast.Binary("sub", ast.Const(1.0, z.type), z)
    return unit.w.multiply_add(rest, n, ast.Binary("mul", z, unit.read("h")))
