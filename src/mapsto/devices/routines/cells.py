"""The mathematics of the recurrent cells (ONNX LSTM, GRU, RNN): their gates, and how gates become a new state.

A cell's step fills *accumulators*, one vector each for a group of hidden units: x times gates of W, plus h times gates
of R, plus biases. It may take several phases, where a later one multiplies R with something that an earlier one made
(GRU's reset state). `finish` turns the accumulators of a phase into states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mapsto.devices.routines.writer import Writer
from mapsto.errors import UnsupportedError
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


Activation = Callable[[Writer, ast.Value], ast.Value]


def lstm_cell(attrs: Mapping[str, Any], direction: int) -> Cell:
    """i, o, f = s(..); c' = f*c + i*g(..); h = o*k(c'), in ONNX's gate order. Peepholes: i and f see c, o sees c'."""
    gate, candidate, _ = _activations(attrs, ("Sigmoid", "Tanh", "Tanh"), direction)
    output = _activations({**attrs, "clip": 0.0}, ("Sigmoid", "Tanh", "Tanh"), direction)[2]  # the clip is for gates
    coupled = bool(attrs.get("input_forget", 0))

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w, c = unit.w, unit.read("c")
        i = gate(w, _with_peephole(unit, acc[0], 0, c))
        f = _one_minus(i) if coupled else gate(w, _with_peephole(unit, acc[2], 2, c))
        update = ast.Binary("mul", i, candidate(w, acc[3]))
        new = w.let("c_new", ast.Fma(f, c, update))
        unit.write("c", new)
        o = gate(w, _with_peephole(unit, acc[1], 1, new))
        unit.write("h", ast.Binary("mul", o, output(w, new)))

    every = tuple((g, g) for g in range(4))
    return Cell(4, tuple((g, 4 + g) for g in range(4)), (Phase("h", every, every),), finish, has_c=True)


def gru_cell(attrs: Mapping[str, Any], direction: int) -> Cell:
    """z, r = s(..); h' = (1-z)*n + z*h, where n = g(x Wn + (r*h) Rn + b).

    With linear_before_reset n = g(x Wn + b + r*(h Rn + b')).
    """
    gate, candidate = _activations(attrs, ("Sigmoid", "Tanh"), direction)
    return _gru_after(gate, candidate) if attrs.get("linear_before_reset", 0) else _gru_before(gate, candidate)


def _gru_after(gate: Activation, candidate: Activation) -> Cell:
    """The reset gate scales the product h Rn, so one phase is enough; accumulator 3 holds that product."""

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w = unit.w
        z, r = gate(w, acc[0]), gate(w, acc[1])
        n = candidate(w, w.let("reset", ast.Fma(r, acc[3], acc[2])))
        unit.write("h", _mix(unit, z, n))

    phase = Phase("h", ((0, 0), (1, 1), (2, 2)), ((0, 0), (1, 1), (2, 3)))
    return Cell(3, ((0, 3), (1, 4), (2,), (5,)), (phase,), finish)


def _gru_before(gate: Activation, candidate: Activation) -> Cell:
    """The reset gate scales h, so the second phase multiplies R with what the first one made."""

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        w = unit.w
        if phase == 0:
            unit.write("z", gate(w, acc[0]))
            unit.write("reset", ast.Binary("mul", gate(w, acc[1]), unit.read("h")))
            return
        unit.write("h", _mix(unit, unit.read("z"), candidate(w, acc[2])))

    first = Phase("h", ((0, 0), (1, 1)), ((0, 0), (1, 1)))
    second = Phase("reset", ((2, 2),), ((2, 2),))
    return Cell(3, ((0, 3), (1, 4), (2, 5)), (first, second), finish, temporaries=("z", "reset"))


def rnn_cell(attrs: Mapping[str, Any], direction: int) -> Cell:
    """h' = f(x W + h R + b)."""
    (activation,) = _activations(attrs, ("Tanh",), direction)

    def finish(phase: int, unit: Unit, acc: Mapping[int, ast.Value]) -> None:
        unit.write("h", activation(unit.w, acc[0]))

    return Cell(1, ((0, 1),), (Phase("h", ((0, 0),), ((0, 0),)),), finish)


def _with_peephole(unit: Unit, value: ast.Value, gate: int, c: ast.Value) -> ast.Value:
    weight = unit.peephole(gate)
    return value if weight is None else unit.w.let("peephole", ast.Fma(weight, c, value))


def _mix(unit: Unit, z: ast.Value, n: ast.Value) -> ast.Value:
    """(1-z)*n + z*h."""
    return ast.Fma(_one_minus(z), n, ast.Binary("mul", z, unit.read("h")))


def _one_minus(value: ast.Value) -> ast.Value:
    return ast.Binary("sub", ast.Const(1.0, value.type), value)


def _activations(attrs: Mapping[str, Any], defaults: Sequence[str], direction: int) -> tuple[Activation, ...]:
    """The activations of one direction: `attrs["activations"]` lists them for every direction in turn."""
    named = tuple(attrs.get("activations") or ())
    own = named[direction * len(defaults) : (direction + 1) * len(defaults)] if named else tuple(defaults)
    clip = float(attrs.get("clip", 0.0) or 0.0)
    return tuple(_activation(name, clip) for name in own)


def _activation(name: str, clip: float) -> Activation:
    fn = str(name).lower()
    if fn not in ("sigmoid", "tanh", "relu"):
        raise UnsupportedError(f"recurrent activation {name!r} has no native code; Sigmoid, Tanh and Relu have")

    def apply(w: Writer, value: ast.Value) -> ast.Value:
        if clip:
            value = ast.Binary("max", value, ast.Const(-clip, value.type))
            value = ast.Binary("min", value, ast.Const(clip, value.type))
        if fn == "relu":
            return ast.Binary("max", value, ast.Const(0.0, value.type))
        return w.math(fn, w.let("gate", value))

    return apply
