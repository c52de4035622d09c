"""The loop language printed as OpenCL C (1.2 and later).

    __kernel void name(__global T* whole, ..., __global const long* numbers, long first, long last, long chunk)

numbers: for each buffer how many elements past its pointer it begins (no pointer into a buffer can be passed), then the
dims; in memory, as the bytes of arguments are few. A work-item runs the body over its chunk of [first, last): begin =
first + chunk*id, end = begin + chunk or last; where that is nothing it touches nothing. The vectors of the loop
language stay explicit vectors: a CPU's OpenCL compiler reaches a core's peak with those, and a thousandth of it with
one scalar a work-item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, evaluate
from mapsto.loop import opencl_helpers as helpers
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Declare,
    For,
    Function,
    If,
    Let,
    LetIndex,
    Prefetch,
    Scatter,
    Statement,
    Store,
    Value,
    While,
)
from mapsto.loop.opencl_types import literal, memory_name, split
from mapsto.loop.opencl_values import Pointer, Values

__all__ = ["Printed", "kernel_name", "printed", "program_text", "to_opencl"]


def kernel_name(function: Function) -> str:
    """The kernel's name in the source: never that of a built-in function."""
    return "kernel_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in function.name)


@dataclass(frozen=True)
class Printed:
    """A kernel, and the small functions that it calls, by name. `doubles`: whether it needs 64-bit floats. `tensors`:
    how many buffers it takes; `numbers`: how many numbers it reads in memory.
    """

    name: str
    kernel: str
    helpers: Mapping[str, str]
    doubles: bool
    tensors: int
    numbers: int


def printed(function: Function) -> Printed:
    """A function as a kernel. Raises UnsupportedError for what OpenCL C has no exact form of."""
    printer = _Printer(function)
    text = printer.text()
    tensors = len(function.params)
    named = kernel_name(function)
    helpers, doubles = printer.values.helpers, printer.values.uses_double
    return Printed(named, text, helpers, doubles, tensors, tensors + len(function.dims))


def program_text(kernels: Iterable[Printed]) -> str:
    """The source of a program of these kernels."""
    several = tuple(kernels)
    helpers = {name: text for each in several for name, text in each.helpers.items()}
    head = ["#pragma OPENCL FP_CONTRACT OFF"]
    head += ["#pragma OPENCL EXTENSION cl_khr_fp64 : enable"] * any(each.doubles for each in several)
    return "\n".join([*head, *helpers.values(), *(each.kernel for each in several)])


def to_opencl(functions: Function | Iterable[Function]) -> str:
    """The source of a program with a kernel for each function. Raises UnsupportedError, as `printed`."""
    return program_text(map(printed, (functions,) if isinstance(functions, Function) else functions))


class _Printer:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.lines: list[str] = []
        self.locals: list[str] = []
        self.numbers: dict[str, int] = {}  # the variables of the unrolled loops that we are in
        self.depth = 1
        self.values = Values(function.name, self.line)

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def text(self) -> str:
        v, params = self.values, []
        for k, p in enumerate(self.function.params):
            whole, name = v.fresh("whole"), v.fresh(p.name)
            v.buffers[p.name] = Pointer(name, p.element, "global")
            pointer = f"__global {'' if p.writes else 'const '}{memory_name(p.element)}*"
            params.append(f"{pointer} {whole}")
            self.line(f"{pointer} {name} = {whole} + numbers_[{k}];")
        for k, dim in enumerate(self.function.dims, len(self.function.params)):
            v.symbols[dim] = v.fresh(dim)
            self.line(f"const long {v.symbols[dim]} = numbers_[{k}];")
        v.symbols["begin"], v.symbols["end"] = "begin_", "end_"
        params += ["__global const long* numbers_", "const long first_", "const long last_", "const long chunk_"]
        self.line("const long begin_ = first_ + chunk_*(long)get_global_id(0);")
        self.line("const long end_ = min(begin_ + chunk_, last_);")
        self.line("if (begin_ >= end_) return;")
        self.block(self.function.body)
        v.uses_double |= any(p.element is DType.F64 for p in self.function.params)
        kernel = f"__kernel void {kernel_name(self.function)}({', '.join(params)}) {{"
        return "\n".join([kernel, *self.locals, *self.lines, "}", ""])

    # ---- statements ----

    def block(self, body: tuple[Statement, ...]) -> None:
        for s in body:
            _STATEMENTS[type(s)](self, s)

    def scoped(self, body: tuple[Statement, ...]) -> None:
        """A body in braces: what it names is not seen outside."""
        variables, symbols = dict(self.values.variables), dict(self.values.symbols)
        self.depth += 1
        self.block(body)
        self.depth -= 1
        self.values.variables, self.values.symbols = variables, symbols

    def name(self, s: Let | Declare) -> None:
        parts = self.values.statement_value(s.value)
        self.values.variables[s.name] = self.values.named(parts, s.value.type, s.name, isinstance(s, Let))

    def assign(self, s: Assign) -> None:
        parts = self.values.statement_value(s.value)
        if len(parts) > 1:  # a later part may read an earlier part's old value
            parts = self.values.named(parts, s.value.type, "next")
        for name, part in zip(self.values.variables[s.name], parts, strict=True):
            self.line(f"{name} = {part};")

    def let_index(self, s: LetIndex) -> None:
        if isinstance(s.value, int | Expr):
            text = self.values.index(s.value)
        else:
            (text,) = self.values.statement_value(s.value)
        name = self.values.fresh(s.name)
        self.line(f"const long {name} = {text};")
        self.values.symbols[s.name] = name

    def alloc(self, s: Alloc) -> None:
        """Declared at the head of the kernel: it lives to its end."""
        name = self.values.fresh(s.name)
        self.locals.append(f"  {memory_name(s.element)} {name}[{s.count}] __attribute__((aligned(64)));")
        self.values.buffers[s.name] = Pointer(name, s.element, "private")

    def store(self, s: Store) -> None:
        v, t = self.values, s.value.type
        parts = v.statement_value(s.value)
        if len(parts) > 1:  # a later part may read what an earlier part's store overwrites
            parts = v.named(parts, t, "stored")
        masks = self.masks(s.mask, t.lanes)
        base, offset = v.index(s.base), 0
        for part, mask, width in zip(parts, masks, split(t.lanes), strict=True):
            self.store_part(v.buffers[s.buffer], base, s.stride if t.lanes > 1 else 1, offset, width, part, mask)
            offset += width

    def masks(self, mask: Value | None, lanes: int) -> list[str | None]:
        if mask is None:
            return [None] * len(split(lanes))
        return list(self.values.named(self.values.statement_value(mask), mask.type, "mask"))

    def store_part(
        self, buffer: Pointer, base: str, stride: Dim, offset: int, width: int, part: str, mask: str | None
    ) -> None:
        v, e = self.values, buffer.element
        at = f"{buffer.name} + ({base} + {offset}L)"
        if stride != 1:
            self.scatter_part(buffer, v.lane_indices(base, stride, offset, width), width, part, mask)
        elif mask is not None:
            self.line(v.call(helpers.masked_store(e, width, buffer.space), at, part, mask) + ";")
        elif width == 1:
            self.line(f"*({at}) = {helpers.to_memory(part, e, 1)};")
        else:
            self.line(f"vstore{width}({helpers.to_memory(part, e, width)}, 0, {at});")

    def scatter(self, s: Scatter) -> None:
        v, lanes = self.values, s.value.type.lanes
        indices = v.named(v.statement_value(s.index), s.index.type, "at")
        parts = v.statement_value(s.value)
        masks = self.masks(s.mask, lanes)
        for at, part, mask, width in zip(indices, parts, masks, split(lanes), strict=True):
            self.scatter_part(v.buffers[s.buffer], at, width, part, mask)

    def scatter_part(self, buffer: Pointer, at: str, width: int, part: str, mask: str | None) -> None:
        args = [buffer.name, at, part] + ([] if mask is None else [mask])
        helper = helpers.scatter(buffer.element, width, buffer.space, mask is not None)
        self.line(self.values.call(helper, *args) + ";")

    def prefetch(self, s: Prefetch) -> None:
        """Nothing: OpenCL's own takes global memory alone, and no pointer past its end."""

    # ---- control flow ----

    def loop(self, s: For) -> None:
        if s.unroll:
            self.unrolled(s)
            return
        v = self.values
        start, stop, name = v.index(s.start), v.fresh("stop"), v.fresh(s.var)
        self.line(f"const long {stop} = {v.index(s.stop)};")
        self.line(f"for (long {name} = {start}; {name} < {stop}; {name} += {s.step}L) {{")
        outer = v.symbols
        v.symbols = {**outer, s.var: name}
        self.scoped(s.body)
        v.symbols = outer
        self.line("}")

    def unrolled(self, s: For) -> None:
        """Repeated with the variable as a number; names stay in sight, each repetition has its own."""
        symbols, numbers = dict(self.values.symbols), dict(self.numbers)
        for value in range(evaluate(s.start, numbers), evaluate(s.stop, numbers), s.step):
            self.numbers[s.var] = value
            self.values.symbols[s.var] = literal(value, DType.I64)
            self.block(s.body)
        self.values.symbols, self.numbers = symbols, numbers

    def branch(self, s: If) -> None:
        if isinstance(s.cond, tuple):
            cond = " & ".join(f"({self.values.index(c)} >= 0)" for c in s.cond) or "1"
        else:
            (cond,) = self.values.statement_value(s.cond)
        self.line(f"if ({cond}) {{")
        self.scoped(s.then)
        if s.otherwise:
            self.line("} else {")
            self.scoped(s.otherwise)
        self.line("}")

    def repeat(self, s: While) -> None:
        self.line("for (;;) {")
        self.depth += 1
        (cond,) = self.values.statement_value(s.cond)
        self.line(f"if (!({cond})) break;")
        self.depth -= 1
        self.scoped(s.body)
        self.line("}")


_STATEMENTS: dict[type, Callable[[_Printer, Any], None]] = {
    Let: _Printer.name,
    Declare: _Printer.name,
    Assign: _Printer.assign,
    LetIndex: _Printer.let_index,
    Alloc: _Printer.alloc,
    Store: _Printer.store,
    Scatter: _Printer.scatter,
    Prefetch: _Printer.prefetch,
    For: _Printer.loop,
    If: _Printer.branch,
    While: _Printer.repeat,
}
