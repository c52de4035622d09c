"""The executable as plain data: buffers, and a table of steps over them.

A compiled function is `void f(void** buffers, int64_t* dims, int64_t begin, int64_t end)`. All threads walk the steps
together. A `Run` of extent e is shared out: thread t of n works on [e*t//n, e*(t+1)//n). Threads meet (a barrier)
before a step that touches what another step since the last meeting wrote, or writes what one read; nothing else orders
them.

Sizes are `Dim`s over symbols. A symbol is defined by an input whose dim is that bare symbol, by a `Bind` step, which
reads an integer at run time, or by a `SetSize` step, which follows from other sizes (in a loop, in each round anew).
Everything else about sizes (arena, extents, dims, offsets) follows from the symbols; nothing is compiled again when
they change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mapsto.ir.bounds import count
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, maximum, product

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

Address = tuple[int, Dim]
"""A place in memory: (index of a buffer, offset in bytes)."""


@dataclass(frozen=True)
class Port:
    """An input or output of the program. `buffer` is the index of the buffer that holds it, in row-major order.
    `default` of an input that a run need not give: where in the constants its value is, in bytes, and its shape.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    buffer: int
    default: tuple[int, tuple[int, ...]] | None = None

    @property
    def bytes(self) -> Dim:
        return product(self.shape) * self.dtype.size

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.value}[{', '.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Buffer:
    """A stretch of memory. `kind` says who gives it:

    input     the caller's array, read in place (written only where an update says so)
    output    a fresh array for each run, returned to the caller; inner steps may read it too
    constant  `bytes` at `offset` of the program's constants
    arena     scratch memory, shared by buffers that are not alive together
    """

    name: str
    kind: str
    bytes: Dim
    offset: int = 0


BUFFER_KINDS = ("input", "output", "constant", "arena")


@dataclass(frozen=True)
class Run:
    """Calls compiled code.

    `writes` holds the positions of the operands that it stores to (None: any that may be written at all). A thread gets
    at least `grain` of the extent; less than two grains and the first thread does the step alone.
    """

    function: str
    operands: tuple[Address, ...]
    dims: tuple[Dim, ...] = ()
    extent: Dim = 1
    writes: tuple[int, ...] | None = None
    grain: int = 1
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bind:
    """Reads the integer at `operand` and makes it the value of `symbol`: a size that depends on data."""

    symbol: str
    operand: Address
    dtype: DType = DType.I64
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetSize:
    """Makes `value`, as it is just then, the value of `symbol`. What buffers sized by the symbol held is gone."""

    symbol: str
    value: Dim
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchIfFalse:
    """Goes on at step `target` where the bool (one byte) at `operand` is false."""

    operand: Address
    target: int
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class Jump:
    """Goes on at step `target`."""

    target: int
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class Require:
    """A run that gets here fails with `message` (ExecutionError) where `condition` < 0; a constant -1 always fails."""

    condition: Dim
    message: str
    label: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """A run that gets here fails (ExecutionError) where an index is out of range.

    The u64 at `operand` is the largest distance of an index from the lowest that is allowed (`ir.bounds`). kind: which
    are. what, axis, extent, where: what the message says of it.
    """

    operand: Address
    kind: str
    what: str
    axis: int
    extent: Dim
    where: str
    label: str = ""
    provenance: tuple[str, ...] = ()

    @property
    def limit(self) -> Dim:
        """Distances from here on are errors; no index at all has the distance 0."""
        return maximum(count(self.kind, self.extent), 1)


Step = Run | Bind | SetSize | BranchIfFalse | Jump | Require | Bounds


@dataclass(frozen=True)
class Check:
    """A run fails with `message` before it starts (or as soon as the symbols are bound) where `condition` < 0.
    liftable: a program that is compiled for these sizes may do without it.
    """

    condition: Dim
    message: str
    liftable: bool = False


@dataclass(frozen=True)
class Program:
    """A whole network, ready to run: data only. `updates` pairs an input with the output that takes over its memory:
    the caller's array is written in place and returned; that output's port names the input's buffer.

    `constants` is a bytes-like object in which constant buffers lie at multiples of 64 (see `arrays.pack_constants`).
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    constants: Any = field(default=b"", compare=False, repr=False)
    updates: tuple[tuple[str, str], ...] = ()
    checks: tuple[Check, ...] = ()

    def functions(self) -> list[str]:
        """Names of the compiled functions that the steps call, each once, in order."""
        return list(dict.fromkeys(step.function for step in self.steps if isinstance(step, Run)))

    def dims(self) -> Iterator[Dim]:
        """Every size, extent, offset and condition, repeats included."""
        for port in (*self.inputs, *self.outputs):
            yield from port.shape
        for buffer in self.buffers:
            yield buffer.bytes
        for check in self.checks:
            yield check.condition
        for step in self.steps:
            yield from step_dims(step)

    def __str__(self) -> str:
        return describe(self)


def operands_of(step: Step) -> tuple[Address, ...]:
    if isinstance(step, Run):
        return step.operands
    return (step.operand,) if isinstance(step, (Bind, BranchIfFalse, Bounds)) else ()


def step_dims(step: Step) -> Iterator[Dim]:
    for _, offset in operands_of(step):
        yield offset
    if isinstance(step, Run):
        yield from step.dims
        yield step.extent
    if isinstance(step, Require):
        yield step.condition
    if isinstance(step, SetSize):
        yield step.value
    if isinstance(step, Bounds):
        yield step.extent
        yield step.limit


def bound_symbol(step: Step) -> str | None:
    """The size symbol that a step gives a value."""
    return step.symbol if isinstance(step, (Bind, SetSize)) else None


def updated_buffers(program: Program) -> set[int]:
    """Buffers of the inputs that a run may write."""
    names = {name for name, _ in program.updates}
    return {port.buffer for port in program.inputs if port.name in names}


def touched(program: Program, step: Step, updated: set[int] | None = None) -> tuple[set[int], set[int]]:
    """(all buffers that a step touches, those that it may write)."""
    everything = {buffer for buffer, _ in operands_of(step)}
    if not isinstance(step, Run):
        return everything, set()
    if step.writes is not None:
        return everything, {step.operands[position][0] for position in step.writes}
    updated = updated_buffers(program) if updated is None else updated
    return everything, {b for b in everything if program.buffers[b].kind in ("output", "arena") or b in updated}


def describe(program: Program) -> str:
    """The steps as text, one a line."""
    lines = [
        f"program {program.name}({', '.join(map(str, program.inputs))}) -> ({', '.join(map(str, program.outputs))})"
    ]
    for index, step in enumerate(program.steps):
        lines.append(f"  {index:4d}  {step_text(program, step)}")
    return "\n".join(lines)


def step_text(program: Program, step: Step) -> str:
    """One step as text."""
    places = [program.buffers[b].name + (f"+{offset}" if offset != 0 else "") for b, offset in operands_of(step)]
    label = f"  # {step.label}" if step.label else ""
    if isinstance(step, Run):
        dims = f"; {', '.join(map(str, step.dims))}" if step.dims else ""
        return f"{step.function}({', '.join(places)}{dims}) over {step.extent}{label}"
    if isinstance(step, Bind):
        return f"bind {step.symbol} = {step.dtype.value} at {places[0]}{label}"
    if isinstance(step, SetSize):
        return f"set {step.symbol} = {step.value}{label}"
    if isinstance(step, BranchIfFalse):
        return f"branch to {step.target} unless {places[0]}{label}"
    if isinstance(step, Jump):
        return f"jump to {step.target}{label}"
    if isinstance(step, Bounds):
        axis = f"axis {step.axis} of {step.extent} ({step.kind})"
        return f"bounds of {axis} for {places[0]}: {step.where}{label}"
    return f"require {step.condition} >= 0: {step.message}{label}"
