"""Runs at compile time what reads constants alone: packed weights of routines, copies of constants into other homes.

What would take long or come out large is left to the run, as it would be if its operands were no constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mapsto.budget import current
from mapsto.devices.maker import KernelCall
from mapsto.ir.expr import mul
from mapsto.ops.folding import FOLD_LIMIT
from mapsto.runtime.arrays import pack_constants
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Buffer, Port, Program, Run
from mapsto.session.assemble import Linked

# Packed weights may take so many times the bytes of what they are packed from.
_PACKED = 4


def fold_calls(
    linked: Linked, ports: set[str], executable: Callable[[Program], Executable]
) -> Linked:
    """Runs the calls whose operands are all constant, makes constants of what they wrote; the same without those calls.

    `ports`: inputs and outputs of the graph, which stay buffers. What several calls write together stays as well.
    `executable`: of a program of these calls, on the device that they were made for.
    """
    calls = [call for made in linked.calls.values() for call in made]
    writers = Counter(linked.homes[c.operands[i]].buffer for c in calls for i in c.writes)
    several = {name for name, count in writers.items() if count > 1} | ports
    folded: list[KernelCall] = []
    known = set(linked.constants)
    for call in calls:
        read = {n for i, n in enumerate(call.operands) if i not in call.writes}
        static = not call.dims and isinstance(call.extent, int)
        owned = static and read <= known and all(_owns(n, linked) and n not in several for n in call.operands)
        if owned and _affordable(call, linked):
            folded.append(call)
            known |= {call.operands[i] for i in call.writes}
    if not folded:
        return linked
    made = sorted({c.operands[i] for c in folded for i in c.writes})
    program = _program(folded, made, linked)
    results = executable(program).run({})
    constants = {**linked.constants, **{name: results[name] for name in made}}
    gone = {id(c) for c in folded}
    left = {name: tuple(c for c in made if id(c) not in gone) for name, made in linked.calls.items()}
    return replace(linked, constants=constants, calls=left)


def _affordable(call: KernelCall, linked: Linked) -> bool:
    """Whether the budget allows a call to run while compiling; if so, it is charged."""
    meter = current()
    sizes = [_bytes(n, linked) for n in call.operands]
    made = sum(sizes[i] for i in call.writes)
    if made > max(FOLD_LIMIT, _PACKED * (sum(sizes) - made)):
        return False
    meter.tick(call.task.name)
    return meter.afford("native_operations", call.work + sum(sizes)) and meter.afford("folded_bytes", made)


def _bytes(name: str, linked: Linked) -> int:
    elements = linked.homes[name].layout.elements
    assert isinstance(elements, int)
    return elements * linked.homes[name].dtype.size


def _owns(name: str, linked: Linked) -> bool:
    """Whether a value has a buffer of its own, of a known size, from its start."""
    home = linked.homes[name]
    return home.buffer == name and home.layout.offset == 0 and isinstance(home.layout.elements, int)


def _program(calls: Sequence[KernelCall], made: Sequence[str], linked: Linked) -> Program:
    names = list(dict.fromkeys(n for c in calls for n in c.operands))
    arrays = {n: np.asarray(linked.constants[n]) for n in names if n not in made}
    packed, offsets = pack_constants(arrays)
    buffers = tuple(
        Buffer(
            n,
            "output" if n in made else "constant",
            mul(linked.homes[n].layout.elements, linked.homes[n].dtype.size),
            offsets.get(n, 0),
        )
        for n in names
    )
    at = {n: i for i, n in enumerate(names)}
    steps = tuple(
        Run(c.function, tuple((at[n], 0) for n in c.operands), (), c.extent, c.writes, label="constant") for c in calls
    )
    outputs = tuple(Port(n, linked.homes[n].dtype, (linked.homes[n].layout.elements,), at[n]) for n in made)
    return Program("constants", (), outputs, buffers, steps, packed)
