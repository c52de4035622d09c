"""What a run knows of its sizes, whoever walks its steps: from the inputs' shapes, from what Bind steps read; and what
must hold of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir.bounds import message, value_at
from mapsto.ir.expr import evaluate, symbols
from mapsto.runtime.arena_layout import LARGEST_SIZE, ArenaLayout
from mapsto.runtime.arrays import address_of, readable
from mapsto.runtime.program import Bind, Bounds, Port, SetSize
from mapsto.runtime.tables import Tables


def input_arrays(tables: Tables, values: Sequence[Any]) -> list[np.ndarray]:
    """The inputs as arrays that code can read where they are. Raises ShapeError."""
    program = tables.program
    if len(values) != len(program.inputs):
        wanted = ", ".join(map(str, program.inputs))
        raise ShapeError(f"{len(values)} inputs where {program.name} takes {len(program.inputs)}: ({wanted})")
    updated = {source for source, _ in tables.updates}
    return [readable(p, v, i in updated) for i, (p, v) in enumerate(zip(program.inputs, values, strict=True))]


def symbols_of(tables: Tables, arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The sizes that the inputs' shapes say. Raises ShapeError where a shape is not the one that was declared."""
    found = {name: arrays[i].shape[axis] for name, (i, axis) in tables.input_symbols.items()}
    for port, array in zip(tables.program.inputs, arrays, strict=True):
        expected = tuple(evaluate(dim, found) for dim in port.shape)
        if array.shape != expected:
            where = ", ".join(f"{s} = {v}" for s, v in found.items() if any(s in str(d) for d in port.shape))
            raise ShapeError(
                f"input {port.name!r}: shape {array.shape} where {expected} was expected"
                f" ({port}{' with ' + where if where else ''})"
            )
    return found


def require_apart(tables: Tables, arrays: Sequence[np.ndarray]) -> None:
    """Raises ExecutionError where an input that is updated in place shares memory with another one."""
    if tables.updates:
        require_own_memory(tables.program.inputs, arrays, {source for source, _ in tables.updates})


def require_own_memory(ports: Sequence[Port], arrays: Sequence[np.ndarray], updated: Collection[int]) -> None:
    """The same. updated: the numbers of such inputs."""
    spans = sorted((address_of(a), a.nbytes, i) for i, a in enumerate(arrays) if a.nbytes)
    farthest = farthest_updated = (0, -1)  # where what came before ends, and whose that is
    for start, size, index in spans:
        until, other = farthest if index in updated else farthest_updated
        if start < until:
            first, second = (index, other) if index in updated else (other, index)
            raise ExecutionError(
                f"input {ports[first].name!r} is updated in place, but shares its memory with "
                f"{ports[second].name!r}; pass a copy of one of them"
            )
        end = (start + size, index)
        farthest = max(farthest, end)
        if index in updated:
            farthest_updated = max(farthest_updated, end)


def require_sizes(tables: Tables, layout: ArenaLayout, symbol: str | None) -> None:
    """The program's checks that can be decided now: those on `symbol`, or (None) on the inputs' sizes alone. Raises
    ExecutionError.
    """
    for held, expr, depends in zip(tables.program.checks, tables.check_exprs, tables.check_depends, strict=True):
        if _due(depends, layout, symbol) and layout.values[expr] < 0:
            error = ExecutionError(held.message)
            if held.liftable and symbol is None:  # nothing has been written yet
                error.sizes = frozenset(symbols(held.condition))
            raise error


def due_outputs(tables: Tables, layout: ArenaLayout, symbol: str | None) -> list[int]:
    """Outputs whose size is known since `symbol` was bound (None: from the inputs' sizes), without updated inputs."""
    updated = {target for _, target in tables.updates}
    found = range(len(tables.program.outputs))
    return [i for i in found if i not in updated and _due(tables.output_depends[i], layout, symbol)]


def _due(depends: frozenset[str], layout: ArenaLayout, symbol: str | None) -> bool:
    return not depends if symbol is None else symbol in depends and depends <= layout.bound.keys()


def bound(tables: Tables, layout: ArenaLayout, index: int, step: Bind | SetSize, raw: bytes) -> ArenaLayout:
    """The layout where a step's symbol has the value that it read (`raw`), or that follows from other sizes. Raises
    ExecutionError for an impossible one.
    """
    if isinstance(step, Bind):
        value = int.from_bytes(raw, "little", signed=step.dtype.is_signed)
    else:
        value = int(layout.values[tables.tape.index[step.value]])
    if not 0 <= value <= LARGEST_SIZE:
        raise ExecutionError(
            f"{step.label or 'step ' + str(index)}: the size {step.symbol} came out as {value}; "
            f"it must be between 0 and {LARGEST_SIZE}"
        )
    layout = layout.bind(step.symbol, value)
    require_sizes(tables, layout, step.symbol)
    return layout


def outside(tables: Tables, layout: ArenaLayout, step: Bounds, raw: bytes) -> ExecutionError:
    """What is said of an index that is out of range; `raw`: the distance that the step read."""
    extent = int(layout.values[tables.tape.index[step.extent]])
    value = value_at(int.from_bytes(raw, "little"), step.kind, extent)
    return ExecutionError(message(step.where, step.what, value, step.kind, step.axis, extent))


def all_given(tables: Tables, results: Sequence[Any]) -> None:
    """Raises ExecutionError where a run ended before an output's size was known."""
    for port, result in zip(tables.program.outputs, results, strict=True):
        if result is None:
            raise ExecutionError(f"output {port.name!r}: no step of this run has defined its size ({port})")
