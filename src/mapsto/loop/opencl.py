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
from dataclasses import dataclass, replace
from typing import Any

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Expr
from mapsto.loop import opencl_helpers as helpers
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Declare,
    Fence,
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
from mapsto.loop.opencl_values import Values
from mapsto.loop.opencl_writer import KernelWriter, Pointer

__all__ = ["Printed", "kernel_name", "printed", "program_text", "to_opencl"]


def kernel_name(function: Function) -> str:
    """The kernel's name in the source: never that of a built-in function."""
    return "kernel_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in function.name)


def _body_name(kernel: str) -> str:
    return f"body_of_{kernel}"


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

    def renamed(self, function: Function) -> Printed:
        """As it is printed from the same function under another name."""
        name, text = kernel_name(function), self.kernel
        for old, new in ((self.name, name), (_body_name(self.name), _body_name(name))):
            text = text.replace(f" {old}(", f" {new}(")
        return replace(self, name=name, kernel=text)


def printed(function: Function) -> Printed:
    """A function as a kernel. Raises UnsupportedError for what OpenCL C has no exact form of."""
    printer = _Printer(function)
    text = printer.text()
    tensors = len(function.params)
    named = kernel_name(function)
    helpers, doubles = printer.writer.helpers, printer.values.uses_double
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
        self.writer = KernelWriter()
        self.values = Values(function.name, self.writer)
        self.locals: list[str] = []
        self.body = _body_name(kernel_name(function))

    def line(self, text: str) -> None:
        self.writer.line(text)

    def text(self) -> str:
        w, params = self.writer, []
        for k, p in enumerate(self.function.params):
            whole = w.fresh("whole")
            pointer = Pointer(w.fresh(p.name), p.element, "global", p.writes)
            w.buffers[p.name] = pointer
            params.append(f"{pointer.declared} {whole}")
            self.line(f"{pointer.declared} {pointer.name} = {whole} + numbers_[{k}];")
        for k, dim in enumerate(self.function.dims, len(self.function.params)):
            name = w.fresh(dim)
            w.bind(dim, w.here(name))
            self.line(f"const long {name} = numbers_[{k}];")
        w.bind("begin", w.here("begin_"))
        w.bind("end", w.here("end_"))
        params.append("__global const long* numbers_")
        self.block(self.function.body)
        self.values.uses_double |= any(p.element is DType.F64 for p in self.function.params)
        return "\n".join([*self.whole(params), *self.kernel(params)])

    def whole(self, params: list[str]) -> list[str]:
        """The function itself, which no compiler is to copy into what calls it: PoCL has three callers of a kernel, and
        would compile it as often.
        """
        head = ", ".join([*params, "const long begin_", "const long end_"])
        lines = self.writer.scopes[0].lines
        return [f"static __attribute__((noinline)) void {self.body}({head}) {{", *self.locals, *lines, "}"]

    def kernel(self, params: list[str]) -> list[str]:
        """What is started: a work-item's share."""
        given = ", ".join([*(p.split()[-1] for p in params), "begin_", "end_"])
        return [
            f"__kernel void {kernel_name(self.function)}"
            f"({', '.join([*params, 'const long first_', 'const long last_', 'const long chunk_'])}) {{",
            "  const long begin_ = first_ + chunk_*(long)get_global_id(0);",
            "  const long end_ = min(begin_ + chunk_, last_);",
            f"  if (begin_ < end_) {self.body}({given});",
            "}",
            "",
        ]

    # ---- statements ----

    def block(self, body: tuple[Statement, ...]) -> None:
        for s in body:
            _STATEMENTS[type(s)](self, s)

    def scoped(self, body: tuple[Statement, ...], **symbols: str) -> list[str]:
        """The lines of a body in braces: what it names is not seen outside."""
        variables = dict(self.values.variables)
        self.writer.open_scope()
        for symbol, name in symbols.items():
            self.writer.bind(symbol, self.writer.here(name))
        self.block(body)
        self.values.variables = variables
        return self.writer.close_scope()

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
        w = self.writer
        if isinstance(s.value, int | Expr):
            w.bind(s.name, w.named_index(s.value))
            return
        (text,) = self.values.statement_value(s.value)
        name = w.fresh(s.name)
        self.line(f"const long {name} = {text};")
        w.bind(s.name, w.here(name))

    def alloc(self, s: Alloc) -> None:
        """Declared at the head of the kernel: it lives to its end."""
        name = self.writer.fresh(s.name)
        self.locals.append(f"  {memory_name(s.element)} {name}[{s.count}] __attribute__((aligned(64)));")
        self.writer.buffers[s.name] = Pointer(name, s.element, "private")

    def store(self, s: Store) -> None:
        v, t = self.values, s.value.type
        parts = v.statement_value(s.value)
        if len(parts) > 1:  # a later part may read what an earlier part's store overwrites
            parts = v.named(parts, t, "stored")
        masks, buffer, offset = self.masks(s.mask, t.lanes), self.writer.buffers[s.buffer], 0
        strided = t.lanes > 1 and s.stride != 1
        base = self.writer.index(s.base) if strided else ""
        for part, mask, width in zip(parts, masks, split(t.lanes), strict=True):
            if strided:
                self.scatter_part(buffer, v.lane_indices(base, s.stride, offset, width), width, part, mask)
            else:
                self.store_part(buffer, self.writer.address(buffer, s.base, offset), width, part, mask)
            offset += width

    def masks(self, mask: Value | None, lanes: int) -> list[str | None]:
        if mask is None:
            return [None] * len(split(lanes))
        return list(self.values.named(self.values.statement_value(mask), mask.type, "mask"))

    def store_part(self, buffer: Pointer, at: str, width: int, part: str, mask: str | None) -> None:
        e = buffer.element
        if mask is not None:
            self.line(self.writer.call(helpers.masked_store(e, width, buffer.space), at, part, mask) + ";")
            return
        for helper in helpers.vector_in_memory(e, width):
            self.writer.need(helper)
        self.line(f"{helpers.lvalue(at, e, width, buffer.space)} = {helpers.to_memory(part, e, width)};")

    def scatter(self, s: Scatter) -> None:
        v, lanes = self.values, s.value.type.lanes
        indices = v.named(v.statement_value(s.index), s.index.type, "at")
        parts = v.statement_value(s.value)
        masks = self.masks(s.mask, lanes)
        for at, part, mask, width in zip(indices, parts, masks, split(lanes), strict=True):
            self.scatter_part(self.writer.buffers[s.buffer], at, width, part, mask)

    def scatter_part(self, buffer: Pointer, at: str, width: int, part: str, mask: str | None) -> None:
        args = [buffer.name, at, part] + ([] if mask is None else [mask])
        helper = helpers.scatter(buffer.element, width, buffer.space, mask is not None)
        self.line(self.writer.call(helper, *args) + ";")

    def prefetch(self, s: Prefetch) -> None:
        """Nothing: OpenCL's own takes global memory alone, and no pointer past its end."""

    def fence(self, s: Fence) -> None:
        """Nothing: the driver's compiler knows its registers."""

    # ---- control flow ----

    def loop(self, s: For) -> None:
        if s.unroll:
            self.unrolled(s)
            return
        w = self.writer
        start, stop, name = w.index(s.start), w.named_index(s.stop), w.fresh(s.var)
        end = literal(stop, DType.I64) if isinstance(stop, int) else stop.text
        body = self.scoped(s.body, **{s.var: name})
        w.braced(f"for (long {name} = {start}; {name} < {end}; {name} += {s.step}L)", body)

    def unrolled(self, s: For) -> None:
        """Repeated with the variable as a number; names stay in sight, each repetition has its own."""
        w = self.writer
        start, stop = w.named_index(s.start), w.named_index(s.stop)
        assert isinstance(start, int) and isinstance(stop, int), f"loop over {s.var}: its bounds are not numbers"
        symbols = dict(w.scopes[-1].symbols)
        for value in range(start, stop, s.step):
            w.bind(s.var, value)
            self.block(s.body)
        w.scopes[-1].rebind(symbols)

    def branch(self, s: If) -> None:
        if isinstance(s.cond, tuple):
            cond = " & ".join(f"({self.writer.index(c)} >= 0)" for c in s.cond) or "1"
        else:
            (cond,) = self.values.statement_value(s.cond)
        then, otherwise = self.scoped(s.then), self.scoped(s.otherwise)
        self.writer.braced(f"if ({cond})", then)
        if s.otherwise:
            self.writer.braced("else", otherwise)

    def repeat(self, s: While) -> None:
        w, variables = self.writer, dict(self.values.variables)
        w.open_scope()
        (cond,) = self.values.statement_value(s.cond)
        self.line(f"if (!({cond})) break;")
        self.block(s.body)
        self.values.variables = variables
        w.braced("for (;;)", w.close_scope())


_STATEMENTS: dict[type, Callable[[_Printer, Any], None]] = {
    Let: _Printer.name,
    Declare: _Printer.name,
    Assign: _Printer.assign,
    LetIndex: _Printer.let_index,
    Alloc: _Printer.alloc,
    Store: _Printer.store,
    Scatter: _Printer.scatter,
    Prefetch: _Printer.prefetch,
    Fence: _Printer.fence,
    For: _Printer.loop,
    If: _Printer.branch,
    While: _Printer.repeat,
}
