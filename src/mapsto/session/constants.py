"""Runs at compile time what reads constants alone: packed weights of routines, copies of constants into other homes.

What would take long or come out large is left to the run, as it would be if its operands were no constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from mapsto.budget import current
from mapsto.devices.cpu.code import Call, Code
from mapsto.ir.expr import mul
from mapsto.ir.graph import Value
from mapsto.ops.folding import FOLD_LIMIT
from mapsto.runtime.arrays import pack_constants
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Buffer, Port, Program, Run

# Packed weights may take so many times the bytes of what they are packed from.
_PACKED = 4


def fold_calls(
    calls: Sequence[Call], code: Code, ports: set[str], objects: Callable[[list[str]], list[bytes]]
) -> set[int]:
    """Runs the calls whose operands are all constant, makes constants of what they wrote; the identities of those
    calls.

    `ports`: inputs and outputs of the graph, which stay buffers. What several calls write together stays as well.
    """
    writers = Counter(code.homes.homes[c.operands[i]].buffer for c in calls for i in c.writes)
    several = {name for name, count in writers.items() if count > 1} | ports
    folded: list[Call] = []
    known = set(code.constants)
    for call in calls:
        read = {n for i, n in enumerate(call.operands) if i not in call.writes}
        static = not call.dims and isinstance(call.extent, int)
        owned = static and read <= known and all(_owns(n, code) and n not in several for n in call.operands)
        if owned and _affordable(call, code):
            folded.append(call)
            known |= {call.operands[i] for i in call.writes}
    if not folded:
        return set()
    made = sorted({c.operands[i] for c in folded for i in c.writes})
    program = _program(folded, made, code)
    results = Executable(program, objects(program.functions()), 1).run({})
    for name in made:
        code.constants[name] = results[name]
    return {id(c) for c in folded}


def _affordable(call: Call, code: Code) -> bool:
    """Whether the budget allows a call to run while compiling; if so, it is charged."""
    meter = current()
    sizes = [_bytes(n, code) for n in call.operands]
    made = sum(sizes[i] for i in call.writes)
    if made > max(FOLD_LIMIT, _PACKED * (sum(sizes) - made)):
        return False
    meter.tick(call.schedule)
    return meter.afford("native_operations", call.work + sum(sizes)) and meter.afford("folded_bytes", made)


def _bytes(name: str, code: Code) -> int:
    elements = code.homes.layout(name).elements
    assert isinstance(elements, int)
    return elements * _value(name, code).dtype.size


def _owns(name: str, code: Code) -> bool:
    """Whether a value has a buffer of its own, of a known size, from its start."""
    home = code.homes.homes[name]
    return home.buffer == name and home.layout.offset == 0 and isinstance(home.layout.elements, int)


def _program(calls: Sequence[Call], made: Sequence[str], code: Code) -> Program:
    names = list(dict.fromkeys(n for c in calls for n in c.operands))
    arrays = {n: np.asarray(code.constants[n]) for n in names if n not in made}
    packed, offsets = pack_constants(arrays)
    buffers = tuple(
        Buffer(
            n,
            "output" if n in made else "constant",
            mul(code.homes.layout(n).elements, _value(n, code).dtype.size),
            offsets.get(n, 0),
        )
        for n in names
    )
    at = {n: i for i, n in enumerate(names)}
    steps = tuple(
        Run(c.function, tuple((at[n], 0) for n in c.operands), (), c.extent, c.writes, label="constant") for c in calls
    )
    outputs = tuple(Port(n, _value(n, code).dtype, (code.homes.layout(n).elements,), at[n]) for n in made)
    return Program("constants", (), outputs, buffers, steps, packed)


def _value(name: str, code: Code) -> Value:
    return code.homes.values[name]
