"""Transposed convolution as ordinary contractions, one for each phase of the stride.

out[s*q + r] = sum over taps i with (r + p - i*d) % s == 0 of x[q + (r + p - i*d)/s] * w[i]: for a fixed phase r the
taps that count form an arithmetic series i = first + step*j, and x is read at q + const - slope*j (Dumoulin and Visin,
"A guide to convolution arithmetic", 2016, section 4). They are taken from the last one on, so that x is walked
forwards: with a stride of 1 that is a convolution like any other.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from mapsto.ir.expr import Dim, ceildiv, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where
from mapsto.kernel.scalar import compute_type
from mapsto.ops.elementwise import converted
from mapsto.plan.contraction import ACCUMULATOR


@dataclass(frozen=True)
class _Phase:
    """One axis of one phase: the taps first + step*j for j < count read x at q + base - slope*j."""

    residue: int
    first: int
    step: int
    count: int
    base: int
    slope: int


# The most phases that become contractions of their own; beyond, the form that gathers is one statement for all.
MOST_PHASES = 64


def _phases(kernel: int, stride: int, dilation: int, pad: int) -> list[_Phase]:
    step = stride // math.gcd(stride, dilation)
    found = []
    for residue in range(stride):
        # taps repeat with the period `step`
        first = next((i for i in range(min(step, kernel)) if (residue + pad - i * dilation) % stride == 0), None)
        if first is None:
            found.append(_Phase(residue, 0, step, 0, 0, 0))
            continue
        base = (residue + pad - first * dilation) // stride
        count = (kernel - 1 - first) // step + 1
        found.append(_Phase(residue, first, step, count, base, step * dilation // stride))
    return found


def transposed_phases(node: Node, operands: list[Value]) -> list[Stmt]:
    """The statements of a conv_transpose with one group; [] where a phase has no tap (its outputs are zero),
    where there are too many, or where the form does not fit.
    """
    x, w = operands
    attrs = node.attrs
    spatial = x.rank - 2
    if attrs.get("group", 1) != 1 or not all(isinstance(d, int) for d in w.shape):
        return []
    strides, pads, dilations = (tuple(int(v) for v in attrs[name]) for name in ("strides", "pads", "dilations"))  # type: ignore[union-attr, arg-type]
    if math.prod(strides) > MOST_PHASES:
        return []
    axes = [_phases(int(w.shape[2 + a]), strides[a], dilations[a], pads[a]) for a in range(spatial)]  # type: ignore[arg-type]
    if any(phase.count == 0 for axis in axes for phase in axis):
        return []
    return [
        _phase_stmt(node.output, x, w, choice, strides, number)
        for number, choice in enumerate(itertools.product(*axes))
    ]


def _phase_stmt(
    target: Value, x: Value, w: Value, choice: tuple[_Phase, ...], strides: tuple[int, ...], number: int
) -> Stmt:
    def name(hint: str) -> str:
        return f"{target.name}.{hint}{number}"

    n, o, c = Iter(name("n"), target.shape[0]), Iter(name("o"), target.shape[1]), Iter(name("c"), x.shape[1])
    rows = [Iter(name(f"q{a}_"), ceildiv(target.shape[2 + a] - p.residue, strides[a])) for a, p in enumerate(choice)]
    taps = [Iter(name(f"j{a}_"), p.count) for a, p in enumerate(choice)]
    places: list[Dim] = [
        sym(q.name) + p.base - (p.count - 1 - sym(j.name)) * p.slope for q, j, p in zip(rows, taps, choice, strict=True)
    ]
    at = [(p.count - 1 - sym(j.name)) * p.step + p.first for j, p in zip(taps, choice, strict=True)]
    conds = tuple(e for place, extent in zip(places, x.shape[2:], strict=True) for e in (place, extent - 1 - place))
    wide = compute_type(target.dtype)
    read = converted(Load(x.name, (sym(n.name), sym(c.name), *places), x.dtype), wide)
    read_x: Scalar = Where(conds, read, Const(0.0, wide))
    read_w = Load(w.name, (sym(c.name), sym(o.name), *at), w.dtype)
    value = Reduce("sum", (c, *taps), Op("mul", (read_x, converted(read_w, wide)), wide))
    index = (
        sym(n.name),
        sym(o.name),
        *(sym(q.name) * s + p.residue for q, s, p in zip(rows, strides, choice, strict=True)),
    )
    return Stmt(target.name, target.dtype, (n, o, *rows), value, index)


def transposed_epilogue(node: Node, bias: Value | None) -> Stmt | None:
    """The epilogue that adds a bias over the output channels and rounds the sums; None where nothing is to be done."""
    target, wide = node.output, compute_type(node.output.dtype)
    if bias is None and wide is target.dtype:
        return None
    iters = tuple(Iter(f"{target.name}.b{a}", extent) for a, extent in enumerate(target.shape))
    at = tuple(sym(i.name) for i in iters)
    value: Scalar = Load(ACCUMULATOR, at, wide)
    if bias is not None:
        value = Op("add", (value, converted(Load(bias.name, (at[1],), bias.dtype), wide)), wide)
    return Stmt(target.name, target.dtype, iters, converted(value, target.dtype))
