"""Sees that a program is consistent before anything native touches it. Points at the step, buffer or port at fault."""

from __future__ import annotations

import functools
import math

from mapsto.errors import VerifyError
from mapsto.ir import bounds
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, bare_symbol, loads, symbols
from mapsto.runtime.dataflow import check_dataflow
from mapsto.runtime.program import (
    ALIGNMENT,
    BUFFER_KINDS,
    Bind,
    Bounds,
    BranchIfFalse,
    Jump,
    Port,
    Program,
    Run,
    bound_symbol,
    operands_of,
    step_dims,
    touched,
    updated_buffers,
)


def verify_program(program: Program) -> None:
    """Raises VerifyError where a program cannot be run safely."""
    _ports(program)
    _buffers(program)
    updated = updated_buffers(program)
    for index in range(len(program.steps)):
        _step(program, index, updated)
    _sizes(program)
    check_dataflow(program)


def input_symbols(program: Program) -> dict[str, tuple[int, int]]:
    """Symbol -> (input, axis) that defines it: the first place where it stands alone as a dim."""
    found: dict[str, tuple[int, int]] = {}
    for i, port in enumerate(program.inputs):
        for axis, dim in enumerate(port.shape):
            name = bare_symbol(dim)
            if name is not None:
                found.setdefault(name, (i, axis))
    return found


def _fault(program: Program, where: str, what: str) -> VerifyError:
    return VerifyError(f"program {program.name}: {where}: {what}")


def _ports(program: Program) -> None:
    by_input = {port.name: port for port in program.inputs}
    by_output = {port.name: port for port in program.outputs}
    if len(by_input) != len(program.inputs) or len(by_output) != len(program.outputs):
        raise _fault(program, "ports", "two inputs, or two outputs, share a name")
    updating: dict[str, str] = {}
    for source, target in program.updates:
        if source not in by_input or target not in by_output or target in updating or source in updating.values():
            raise _fault(program, f"update {source} -> {target}", "it must pair one input with one output")
        updating[target] = source
        given, taken = by_input[source], by_output[target]
        if (given.buffer, given.dtype, given.shape) != (taken.buffer, taken.dtype, taken.shape):
            raise _fault(program, f"update {source} -> {target}", f"{given} and {taken} differ in type or buffer")
    seen: set[int] = set()
    for port, kind in [(p, "input") for p in program.inputs] + [
        (p, "output") for p in program.outputs if p.name not in updating
    ]:
        _port(program, port, kind)
        if port.buffer in seen:
            raise _fault(program, f"{kind} {port.name}", "its buffer belongs to another port as well")
        seen.add(port.buffer)
    for index, buffer in enumerate(program.buffers):
        if buffer.kind in ("input", "output") and index not in seen:
            raise _fault(program, f"buffer {buffer.name}", f"of kind {buffer.kind}, but no port names it")


def _port(program: Program, port: Port, kind: str) -> None:
    where = f"{kind} {port.name}"
    if not 0 <= port.buffer < len(program.buffers):
        raise _fault(program, where, f"there is no buffer {port.buffer}")
    buffer = program.buffers[port.buffer]
    if buffer.kind != kind:
        raise _fault(program, where, f"its buffer {buffer.name} is of kind {buffer.kind}")
    if buffer.bytes != port.bytes:
        raise _fault(program, where, f"its buffer holds {buffer.bytes} bytes, its value {port.bytes}")
    if port.default is None:
        return
    start, shape = port.default
    size, room = math.prod(shape) * port.dtype.size, memoryview(program.constants).nbytes
    if kind != "input" or len(shape) != len(port.shape) or min((start, *shape)) < 0 or start % ALIGNMENT:
        raise _fault(program, where, f"a default of shape {shape} at {start} does not fit it")
    if start + size > room:
        raise _fault(program, where, f"a default of {size} bytes at {start} of {room} bytes of constants")


def _buffers(program: Program) -> None:
    room = memoryview(program.constants).nbytes
    for buffer in program.buffers:
        where = f"buffer {buffer.name}"
        if buffer.kind not in BUFFER_KINDS:
            raise _fault(program, where, f"of no known kind: {buffer.kind}")
        if isinstance(buffer.bytes, int) and buffer.bytes < 0:
            raise _fault(program, where, f"of {buffer.bytes} bytes")
        if buffer.kind != "constant":
            continue
        if not isinstance(buffer.bytes, int):
            raise _fault(program, where, "a constant must have a constant size")
        if buffer.offset < 0 or buffer.offset % ALIGNMENT or buffer.offset + buffer.bytes > room:
            raise _fault(program, where, f"{buffer.bytes} bytes at {buffer.offset} of {room} bytes of constants")


def _step(program: Program, index: int, updated: set[int]) -> None:
    step = program.steps[index]
    where = f"step {index} {step.label}".rstrip()
    for buffer, offset in operands_of(step):
        if not 0 <= buffer < len(program.buffers):
            raise _fault(program, where, f"there is no buffer {buffer}")
        size = program.buffers[buffer].bytes
        if isinstance(offset, int) and (offset < 0 or (isinstance(size, int) and offset > size)):
            raise _fault(program, where, f"offset {offset} is outside {program.buffers[buffer].name} of {size} bytes")
    if isinstance(step, (BranchIfFalse, Jump)) and not 0 <= step.target <= len(program.steps):
        raise _fault(program, where, f"there is no step {step.target}")
    if isinstance(step, Bind) and not step.dtype.is_integer:
        raise _fault(program, where, f"{step.symbol} is read as {step.dtype.value}, which is no integer")
    if isinstance(step, Bounds):
        _bounds(program, step, where)
    if isinstance(step, Run):
        _run(program, step, where, updated)


def _bounds(program: Program, step: Bounds, where: str) -> None:
    if step.kind not in bounds.BOUND_KINDS:
        raise _fault(program, where, f"no known indices are allowed: {step.kind!r}")
    buffer, offset = step.operand
    room = program.buffers[buffer].bytes - offset
    if isinstance(room, int) and room < DType.U64.size:
        raise _fault(program, where, f"it reads a word from {room} bytes")


def _run(program: Program, step: Run, where: str, updated: set[int]) -> None:
    if not step.function:
        raise _fault(program, where, "it calls no function")
    if step.grain < 1:
        raise _fault(program, where, f"grain {step.grain}")
    if any(not 0 <= position < len(step.operands) for position in step.writes or ()):
        raise _fault(program, where, f"it writes operands {step.writes} of {len(step.operands)}")
    for buffer in touched(program, step, updated)[1]:
        if program.buffers[buffer].kind not in ("output", "arena") and buffer not in updated:
            name = program.buffers[buffer].name
            raise _fault(program, where, f"it writes {program.buffers[buffer].kind} {name}")


def _sizes(program: Program) -> None:
    """Every symbol has a value before a size needs it. (That nobody reads what a buffer held before its size changed is
    the business of `runtime.dataflow`.)
    """
    for dim in set(program.dims()):
        if loads(dim):
            raise _fault(program, f"size {dim}", "sizes cannot load from tensors; bind them first")
    inputs = set(input_symbols(program))
    binds: dict[str, list[int]] = {}
    for index, step in enumerate(program.steps):
        if (symbol := bound_symbol(step)) is not None:
            binds.setdefault(symbol, []).append(index)
    known = inputs | set(binds)
    if inputs & set(binds):
        raise _fault(program, f"symbols {sorted(inputs & set(binds))}", "defined by an input and by a step")
    for port in program.inputs:
        _defined(program, f"input {port.name}", port.shape, inputs)
    _defined(program, "sizes", tuple(set(program.dims())), known)
    first = _first_touches(program)
    now = set(inputs)
    for index, step in enumerate(program.steps):
        _defined(program, f"step {index} {step.label}".rstrip(), tuple(step_dims(step)), now)
        if (symbol := bound_symbol(step)) is not None:
            now.add(symbol)
    for number, place in first.items():
        buffer = program.buffers[number]
        for symbol in _symbols(buffer.bytes) & set(binds):
            if place <= binds[symbol][0]:
                raise _fault(
                    program, f"step {place}", f"it uses {buffer.name}, sized by {symbol}, before that is bound"
                )


@functools.lru_cache(maxsize=65536)
def _symbols(dim: Dim) -> frozenset[str]:
    return frozenset(symbols(dim))


def _defined(program: Program, where: str, dims: tuple[Dim, ...], known: set[str]) -> None:
    missing = frozenset().union(*(_symbols(dim) for dim in dims if not isinstance(dim, int))) - known
    if missing:
        raise _fault(program, where, f"nothing has defined the symbols {', '.join(sorted(missing))} here")


def _first_touches(program: Program) -> dict[int, int]:
    first: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for buffer, _ in operands_of(step):
            first.setdefault(buffer, index)
    return first
