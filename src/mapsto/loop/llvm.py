"""The loop language printed as textual LLVM IR.

Control flow is structured, so SSA form is written directly: a loop gets a phi for its counter and for every variable
that its body assigns; no stack slot and no optimiser pass is needed for registers to be registers. Loops are written
with the test at the end (a guard before them unless the ranges prove a first round). There are no fast-math flags:
the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.expr_proofs import bounds
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
    Type,
    Value,
    While,
)
from mapsto.loop.llvm_convert import Capabilities, Converter
from mapsto.loop.llvm_emit import IrWriter, Ssa, lanes_text, mangled, memory_text, type_text, vector_text
from mapsto.loop.llvm_values import Values

__all__ = ["Capabilities", "to_llvm"]


def to_llvm(functions: Function | Sequence[Function], capabilities: Capabilities = Capabilities()) -> str:  # noqa: B008
    """One LLVM module with the functions, all exported. Target triple and data layout are the compiler's to set."""
    several = (functions,) if isinstance(functions, Function) else tuple(functions)
    declarations: set[str] = set()
    bodies = []
    for function in several:
        printer = _Printer(function, capabilities)
        bodies.append(printer.text())
        declarations |= printer.emitter.declarations
    return "\n".join([*sorted(declarations), "", *bodies])


def _assigned(body: Iterable[Statement]) -> set[str]:
    """Names of the variables that statements assign."""
    found: set[str] = set()
    for s in body:
        if isinstance(s, Assign):
            found.add(s.name)
        elif isinstance(s, Fence):
            found.update(s.kept)
        elif isinstance(s, For | While):
            found |= _assigned(s.body)
        elif isinstance(s, If):
            found |= _assigned(s.then) | _assigned(s.otherwise)
    return found


class _Printer:
    """Statements of one function."""

    def __init__(self, function: Function, capabilities: Capabilities) -> None:
        self.function = function
        self.emitter = IrWriter()
        self.convert = Converter(self.emitter, capabilities)
        self.values = Values(self.emitter, self.convert)
        self.types: dict[str, str] = {}

    def text(self) -> str:
        e = self.emitter
        for i, param in enumerate(self.function.params):
            slot = e.let(f"getelementptr ptr, ptr %buffers, i64 {i}")
            pointer = e.let(f"load ptr, ptr {slot}, align 8, !invariant.load !{{}}")
            e.add_buffer(param.name, Ssa(pointer, 0), param.element)
        for i, name in enumerate(self.function.dims):
            slot = e.let(f"getelementptr i64, ptr %dims, i64 {i}")
            e.bind(name, Ssa(e.let(f"load i64, ptr {slot}, align 8, !invariant.load !{{}}"), 0))
        e.bind("begin", Ssa("%begin", 0))
        e.bind("end", Ssa("%end", 0))
        self.block(self.function.body)
        e.line("ret void")
        head = f"define void @{self.function.name}(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind {{"
        lines = (text if text.endswith(":") else f"  {text}" for text in e.scope.lines)
        return "\n".join([head, "entry:", *lines, "}", ""])

    def block(self, body: Iterable[Statement]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Statement) -> None:
        if isinstance(s, Let | Declare | Assign):
            self.values.define(s.name, s.value)
            self.types[s.name] = type_text(s.value.type)
        elif isinstance(s, LetIndex):
            self.let_index(s)
        elif isinstance(s, Store):
            self.store(s)
        elif isinstance(s, For):
            self.unrolled(s) if s.unroll else self.loop(s)
        elif isinstance(s, If):
            self.branch(s)
        elif isinstance(s, While):
            self.while_loop(s)
        elif isinstance(s, Scatter):
            self.scatter(s)
        elif isinstance(s, Prefetch):
            self.prefetch(s)
        elif isinstance(s, Fence):
            self.fence(s)
        elif isinstance(s, Alloc):
            self.emitter.local(s.name, s.element, s.count)
        else:
            raise AssertionError(f"unknown statement {s}")

    # ---- simple statements ----

    def let_index(self, s: LetIndex) -> None:
        """A symbol without a range is taken to be a size (>= 0); a loaded index may be anything."""
        e, wide = self.emitter, 2**62
        if not isinstance(s.value, int | Expr):
            e.bind(s.name, Ssa(self.values.statement_value(s.value), e.scope.depth), -wide, wide)
            return
        low, high = bounds(s.value, e.ranges())
        value = e.index(s.value)
        known = value.number
        e.bind(s.name, value if known is None else known, -wide if low is None else low, wide if high is None else high)

    def store(self, s: Store) -> None:
        e, t, v = self.emitter, s.value.type, self.values
        value = self.to_memory(v.statement_value(s.value), s.value)
        stride = 1 if t.lanes == 1 else e.constant(s.stride)
        pointer = e.address(s.buffer, s.base)
        if stride != 1:
            lanes = lanes_text("i64", range(t.lanes))
            i64 = f"<{t.lanes} x i64>"
            scale = v.convert.splat(e.index(s.stride).text, Type(DType.I64, t.lanes))
            self.scatter_to(pointer, e.let(f"mul nsw {i64} {scale}, {lanes}"), value, s.value, s.mask)
        elif s.mask is None:
            memory = vector_text(memory_text(t.element), t.lanes)
            e.line(f"store {memory} {value}, ptr {pointer}, align {t.element.size}")
        else:
            self.masked_store(pointer, value, t, v.value(s.mask))

    def masked_store(self, pointer: str, value: str, t: Type, mask: str) -> None:
        e, element, memory = self.emitter, memory_text(t.element), f"<{t.lanes} x {memory_text(t.element)}>"
        if t.lanes == 1:
            value = e.let(f"insertelement {memory} poison, {element} {value}, i64 0")
            mask = e.let(f"insertelement <1 x i1> poison, i1 {mask}, i64 0")
        args = [(memory, value), ("ptr", pointer), ("i32", str(t.element.size)), (f"<{t.lanes} x i1>", mask)]
        e.call("void", f"llvm.masked.store.{mangled(memory)}.p0", args)

    def scatter(self, s: Scatter) -> None:
        value = self.to_memory(self.values.statement_value(s.value), s.value)
        index = self.values.value(s.index)
        self.scatter_to(self.emitter.buffers[s.buffer].pointer.text, index, value, s.value, s.mask)

    def scatter_to(self, pointer: str, index: str, text: str, value: Value, mask: Value | None) -> None:
        """llvm.masked.scatter writes in lane order where addresses coincide."""
        e, t = self.emitter, value.type
        element, n = memory_text(t.element), t.lanes
        on = None if mask is None else self.values.value(mask)
        if n == 1:
            at = e.let(f"getelementptr {element}, ptr {pointer}, i64 {index}")
            if on is None:
                e.line(f"store {element} {text}, ptr {at}, align {t.element.size}")
            else:
                self.masked_store(at, text, t, on)
            return
        at = e.let(f"getelementptr {element}, ptr {pointer}, <{n} x i64> {index}")
        memory = f"<{n} x {element}>"
        args = [
            (memory, text),
            (f"<{n} x ptr>", at),
            ("i32", str(t.element.size)),
            (f"<{n} x i1>", on or "splat (i1 true)"),
        ]
        e.call("void", f"llvm.masked.scatter.{mangled(memory)}.v{n}p0", args)

    def prefetch(self, s: Prefetch) -> None:
        """Addresses promise nothing of being inside, so one outside is defined."""
        pointer = self.emitter.address(s.buffer, s.base)
        args = [("ptr", pointer), ("i32", "0"), ("i32", str(4 - s.level)), ("i32", "1")]
        self.emitter.call("void", "llvm.prefetch.p0", args)

    def fence(self, s: Fence) -> None:
        """LLVM has fences of arithmetic for floats alone; to take the bits of integers for those is no instruction."""
        e = self.emitter
        e.line('fence syncscope("singlethread") acq_rel')
        for name in s.kept:
            t = self.types[name]
            floats = t.replace("i32", "float")
            value = e.intrinsic("arithmetic.fence", floats, e.to("bitcast", t, self.values.variables[name], floats))
            self.values.variables[name] = e.to("bitcast", floats, value, t)

    def to_memory(self, text: str, value: Value) -> str:
        if value.type.element is not DType.BOOL:
            return text
        return self.emitter.let(f"zext {type_text(value.type)} {text} to {vector_text('i8', value.type.lanes)}")

    # ---- control flow ----

    def unrolled(self, s: For) -> None:
        start, stop = self.emitter.constant(s.start), self.emitter.constant(s.stop)
        assert start is not None and stop is not None, (
            f"loop over {s.var} cannot be unrolled: its bounds are not numbers"
        )
        with self.emitter.own_symbols():
            for value in range(start, stop, s.step):
                self.emitter.bind(s.var, value, value, value)
                self.block(s.body)

    def loop(self, s: For) -> None:
        e, before = self.emitter, self.values.variables
        start, stop = e.index(s.start), e.index(s.stop)
        runs = e.known_less(s.start, s.stop)
        name, head, leave = e.fresh("n"), e.fresh("loop"), e.fresh("done")
        counter, following = f"%{name}", f"%{name}.next"
        carried = sorted(_assigned(s.body) & before.keys())
        e.open_scope(head)
        phis = {v: e.let("phi") for v in carried}  # lines 1.. of the scope; their text follows when the body is known
        self.values.enter({**before, **phis})
        e.bind(s.var, Ssa(counter, e.scope.depth), s.start, s.stop - 1)
        self.block(s.body)
        body = e.close_scope()
        entry, latch = e.scope.label, body.label
        back = self.values.variables
        for i, v in enumerate(carried):
            body.lines[1 + i] = f"{phis[v]} = phi {self.types[v]} [ {before[v]}, %{entry} ], [ {back[v]}, %{latch} ]"
        body.lines.insert(1, f"{counter} = phi i64 [ {start.text}, %{entry} ], [ {following}, %{latch} ]")
        body.lines.append(f"{following} = add nsw i64 {counter}, {s.step}")
        again = "%" + e.fresh("c")
        body.lines.append(f"{again} = icmp slt i64 {following}, {stop.text}")
        body.lines.append(f"br i1 {again}, label %{head}, label %{leave}")
        if runs:
            e.line(f"br label %{head}")
        else:
            first = e.let(f"icmp slt i64 {start.text}, {stop.text}")
            e.line(f"br i1 {first}, label %{head}, label %{leave}")
        e.splice(body)
        e.start_block(leave)
        after = dict(before)
        for v in carried:
            after[v] = back[v] if runs else self.merge(v, [(before[v], entry), (back[v], latch)])
        self.values.enter(after)

    def merge(self, variable: str, sources: list[tuple[str, str]]) -> str:
        pairs = ", ".join(f"[ {text}, %{label} ]" for text, label in sources)
        return self.emitter.let(f"phi {self.types[variable]} {pairs}")

    def branch(self, s: If) -> None:
        e, before = self.emitter, self.values.variables
        cond = self.condition(s.cond)
        leave = e.fresh("join")
        arms = []
        for body in (s.then, s.otherwise):
            self.values.enter(before)
            e.open_scope(e.fresh("arm"))
            head = e.scope.label
            self.block(body)
            arms.append((head, e.close_scope(), self.values.variables))
        e.line(f"br i1 {cond}, label %{arms[0][0]}, label %{arms[1][0]}")
        for _, arm, _ in arms:
            e.splice(arm, f"br label %{leave}")
        e.start_block(leave)
        carried = sorted((_assigned(s.then) | _assigned(s.otherwise)) & before.keys())
        merged = {v: self.merge(v, [(names[v], arm.label) for _, arm, names in arms]) for v in carried}
        self.values.enter({**before, **merged})

    def condition(self, cond: Value | tuple[Dim, ...]) -> str:
        e = self.emitter
        if not isinstance(cond, tuple):
            return self.values.statement_value(cond)
        tests = [e.pure(f"icmp sge i64 {i.text}, 0", i.depth).text for i in (e.index(c) for c in cond)]
        result = tests[0] if tests else "true"
        for test in tests[1:]:
            result = e.let(f"and i1 {result}, {test}")
        return result

    def while_loop(self, s: While) -> None:
        e, before = self.emitter, self.values.variables
        head, body_label, leave = e.fresh("while"), e.fresh("body"), e.fresh("done")
        carried = sorted(_assigned(s.body) & before.keys())
        e.open_scope(head)
        phis = {v: e.let("phi") for v in carried}
        self.values.enter({**before, **phis})
        cond = self.values.statement_value(s.cond)
        e.line(f"br i1 {cond}, label %{body_label}, label %{leave}")
        e.start_block(body_label)
        self.block(s.body)
        body, entry = e.close_scope(), e.scope.label
        for i, v in enumerate(carried):
            back = self.values.variables[v]
            body.lines[1 + i] = f"{phis[v]} = phi {self.types[v]} [ {before[v]}, %{entry} ], [ {back}, %{body.label} ]"
        e.line(f"br label %{head}")
        e.splice(body, f"br label %{head}")
        e.start_block(leave)
        self.values.enter({**before, **phis})
