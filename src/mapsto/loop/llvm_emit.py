"""Growing LLVM IR text: blocks, scopes, and index arithmetic placed at the outermost loop where it can be computed.

No LLVM pass tidies up after us, so the text is made tidy: an index expression is split by the loop depth of its
symbols, every part is emitted once (memoised) in the block before the loop that it does not depend on, and an address
becomes a chain of `getelementptr` from outer to inner, with the constant last, where instruction selection folds it
into the displacement. Hoisting is safe because this arithmetic is total: divisors that are not literals are raised to
at least 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Atom, Call, Dim, Sym, sole_atom, split_sum
from mapsto.ir.expr_proofs import Ranges, bounds, known_at_least
from mapsto.loop.ast import Type

# f16 and bf16 are their bits, in registers too: of values that it cannot compute with LLVM makes calls into
# libraries, or gives up.
_ELEMENT = {
    DType.F16: "i16",
    DType.BF16: "i16",
    DType.F32: "float",
    DType.F64: "double",
    DType.BOOL: "i1",
}


def element_text(element: DType) -> str:
    """LLVM's name of an element type in registers."""
    return _ELEMENT.get(element) or f"i{element.size * 8}"


def memory_text(element: DType) -> str:
    """LLVM's name of an element type in memory: a bool takes a byte."""
    return "i8" if element is DType.BOOL else element_text(element)


def vector_text(name: str, lanes: int) -> str:
    return name if lanes == 1 else f"<{lanes} x {name}>"


def type_text(t: Type) -> str:
    return vector_text(element_text(t.element), t.lanes)


def lanes_text(element: str, numbers: Iterable[int]) -> str:
    """A constant vector."""
    return "<" + ", ".join(f"{element} {n}" for n in numbers) + ">"


def mangled(t: str) -> str:
    """A type's suffix in the name of an overloaded intrinsic: <16 x float> is v16f32."""
    if t.startswith("<"):
        count, _, element = t[1:-1].partition(" x ")
        return f"v{count}{mangled(element)}"
    return {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}.get(t, t)


class Ssa(NamedTuple):
    """An i64 or pointer value: its text and the depth of the scope that defines it (0: the function's entry)."""

    text: str
    depth: int

    @property
    def number(self) -> int | None:
        """The integer that the text is, if it is one."""
        return int(self.text) if self.text.lstrip("-").isdigit() else None


class BufferStart(NamedTuple):
    """Where a buffer begins, and what it holds."""

    pointer: Ssa
    element: DType


@dataclass
class IrScope:
    """A region with one entry (function, loop body, branch): what is defined in it is seen by itself and its inner
    scopes."""

    depth: int
    label: str
    lines: list[str] = field(default_factory=list)
    memo: dict[tuple[str, ...], Ssa] = field(default_factory=dict)
    symbols: dict[str, Ssa | int] = field(default_factory=dict)
    ranges: dict[str, tuple[Dim, Dim]] = field(default_factory=dict)


class IrWriter:
    """The text of one function under construction."""

    def __init__(self) -> None:
        self.scopes = [IrScope(0, "entry")]
        self.declarations: set[str] = set()
        self.buffers: dict[str, BufferStart] = {}
        self._counter = 0

    # ---- lines and names ----

    @property
    def scope(self) -> IrScope:
        return self.scopes[-1]

    def fresh(self, prefix: str = "v") -> str:
        self._counter += 1
        return f"{prefix}{self._counter}"

    def line(self, text: str) -> None:
        self.scope.lines.append(text)

    def let(self, operation: str) -> str:
        """Emit `%new = operation` here; the new name."""
        name = "%" + self.fresh()
        self.scope.lines.append(f"{name} = {operation}")
        return name

    def op(self, name: str, t: str, *operands: str) -> str:
        """Emit `name t operands`."""
        return self.let(f"{name} {t} {', '.join(operands)}")

    def to(self, name: str, source: str, operand: str, target: str) -> str:
        """Emit a conversion instruction."""
        return self.let(f"{name} {source} {operand} to {target}")

    def choose(self, lanes: int, cond: str, t: str, a: str, b: str) -> str:
        """Emit a select between two values of type `t`."""
        return self.let(f"select {vector_text('i1', lanes)} {cond}, {t} {a}, {t} {b}")

    def shuffle(self, t: str, a: str, b: str, lanes: Sequence[int]) -> str:
        """Emit a vector of lanes picked from a's, followed by b's; -1 leaves a lane undefined."""
        order = ", ".join(f"i32 {lane}" if lane >= 0 else "i32 poison" for lane in lanes)
        return self.let(f"shufflevector {t} {a}, {t} {b}, <{len(lanes)} x i32> <{order}>")

    def start_block(self, label: str) -> None:
        self.scope.lines.append(f"{label}:")
        self.scope.label = label

    def open_scope(self, label: str) -> IrScope:
        """A scope whose text is kept apart until `close_scope`: what is hoisted out of it meanwhile lands before it."""
        self.scopes.append(IrScope(len(self.scopes), label, [f"{label}:"]))
        return self.scope

    def close_scope(self) -> IrScope:
        return self.scopes.pop()

    def call(self, returns: str, name: str, args: list[tuple[str, str]]) -> str:
        """Call an external or intrinsic function, declaring it."""
        self.declarations.add(f"declare {returns} @{name}({', '.join(t for t, _ in args)})")
        operation = f"call {returns} @{name}({', '.join(f'{t} {v}' for t, v in args)})"
        if returns != "void":
            return self.let(operation)
        self.line(operation)
        return ""

    def splice(self, scope: IrScope, *lines: str) -> None:
        """Emit the text of a closed scope here, and lines after it."""
        self.scope.lines += [*scope.lines, *lines]

    def local(self, name: str, element: DType, count: int) -> None:
        """A local array, in the function's entry block: a stack slot made in a loop would grow the stack each round."""
        slot = "%" + self.fresh("a")
        self.scopes[0].lines.insert(0, f"{slot} = alloca [{count} x {memory_text(element)}], align 64")
        self.add_buffer(name, Ssa(slot, 0), element)

    def add_buffer(self, name: str, pointer: Ssa, element: DType) -> None:
        self.buffers[name] = BufferStart(pointer, element)

    @contextmanager
    def own_symbols(self) -> Iterator[None]:
        """What is bound inside is not seen after it."""
        symbols = dict(self.scope.symbols)
        yield
        self.scope.symbols = symbols

    def intrinsic(self, name: str, t: str, *operands: str) -> str:
        """Call LLVM's intrinsic function of operands of type `t`, which its result has as well."""
        return self.call(t, f"llvm.{name}.{mangled(t)}", [(t, operand) for operand in operands])

    def pure(self, operation: str, depth: int) -> Ssa:
        """Emit a computation without effects once, in the scope of the given depth."""
        scope = self.scopes[depth]
        key = (operation,)
        for outer in self.scopes[: depth + 1]:
            if key in outer.memo:
                return outer.memo[key]
        name = "%" + self.fresh("i")
        scope.lines.append(f"{name} = {operation}")
        scope.memo[key] = Ssa(name, depth)
        return scope.memo[key]

    # ---- integers ----

    def bind(self, name: str, value: Ssa | int, low: Dim | None = None, high: Dim | None = None) -> None:
        """Make `name` a symbol of index expressions, with its range where both ends are known."""
        self.scope.symbols[name] = value
        if low is not None and high is not None:
            self.scope.ranges[name] = (low, high)

    def ranges(self) -> Ranges:
        found: dict[str, tuple[Dim, Dim]] = {}
        for scope in self.scopes:
            found.update(scope.ranges)
        return found

    def known_nonnegative(self, e: Dim) -> bool:
        low, _ = bounds(e, self.ranges())
        return low is not None and known_at_least(low, 0)

    def known_less(self, a: Dim, b: Dim) -> bool:
        low, _ = bounds(b - a - 1, self.ranges())
        return low is not None and known_at_least(low, 0)

    def _symbol(self, name: str) -> Ssa | int:
        for scope in reversed(self.scopes):
            if name in scope.symbols:
                return scope.symbols[name]
        raise KeyError(f"index symbol {name!r} is not defined here")

    def _atom(self, atom: Atom) -> Ssa | int:
        if isinstance(atom, Sym):
            return self._symbol(atom.name)
        if atom.fn == "load":
            return self._load(atom)
        a, b = (self.index(arg) for arg in atom.args)
        x, y = a.number, b.number
        if x is not None and y is not None:
            folded = {
                "floordiv": lambda: x // max(y, 1),
                "mod": lambda: x % max(y, 1),
                "min": lambda: min(x, y),
                "max": lambda: max(x, y),
                "equal": lambda: int(x == y),
                "broadcast": lambda: y if x == 1 else x,
            }
            return folded[atom.fn]()
        depth = max(a.depth, b.depth)
        if atom.fn in ("min", "max"):
            return self._extreme(atom.fn, a, b, depth)
        if atom.fn == "equal":
            same = self.pure(f"icmp eq i64 {a.text}, {b.text}", depth)
            return self.pure(f"zext i1 {same.text} to i64", depth)
        if atom.fn == "broadcast":
            one = self.pure(f"icmp eq i64 {a.text}, 1", depth)
            return self.pure(f"select i1 {one.text}, i64 {b.text}, i64 {a.text}", depth)
        return self._divide(atom, a, b, depth)

    def _extreme(self, fn: str, a: Ssa, b: Ssa, depth: int) -> Ssa:
        self.declarations.add(f"declare i64 @llvm.s{fn}.i64(i64, i64)")
        return self.pure(f"call i64 @llvm.s{fn}.i64(i64 {a.text}, i64 {b.text})", depth)

    def _divide(self, atom: Call, a: Ssa, b: Ssa, depth: int) -> Ssa:
        """Floor division and modulus by a positive divisor; truncating instructions are right where the dividend is
        never negative."""
        if b.text.startswith("%"):
            b = self._extreme("max", b, Ssa("1", 0), b.depth)
        if self.known_nonnegative(atom.args[0]):
            return self.pure(f"{'udiv' if atom.fn == 'floordiv' else 'urem'} i64 {a.text}, {b.text}", depth)
        by = b.number
        if by is not None and by & (by - 1) == 0:
            if atom.fn == "mod":
                return self.pure(f"and i64 {a.text}, {by - 1}", depth)
            return self.pure(f"ashr i64 {a.text}, {by.bit_length() - 1}", depth)
        rest = self.pure(f"srem i64 {a.text}, {b.text}", depth)
        sign = self.pure(f"ashr i64 {rest.text}, 63", depth)
        if atom.fn == "floordiv":
            quotient = self.pure(f"sdiv i64 {a.text}, {b.text}", depth)
            return self.pure(f"add nsw i64 {quotient.text}, {sign.text}", depth)
        return self.pure(f"add nsw i64 {rest.text}, {self.pure(f'and i64 {sign.text}, {b.text}', depth).text}", depth)

    def _load(self, atom: Call) -> Ssa:
        """An integer loaded from a buffer at a flat index: never moved or shared, the buffer may be written to."""
        element = self.buffers[atom.tensor].element
        (base,) = atom.args
        memory = memory_text(element)
        value = self.let(f"load {memory}, ptr {self.address(atom.tensor, base)}, align {element.size}")
        if element.size < 8:
            value = self.let(f"{'sext' if element.is_signed else 'zext'} {memory} {value} to i64")
        return Ssa(value, self.scope.depth)

    def _term(self, monomial: tuple[Atom, ...], coefficient: int) -> Ssa | int:
        factors = []
        for atom in monomial:
            value = self._atom(atom)
            if isinstance(value, int):
                coefficient *= value
            else:
                factors.append(value)
        if coefficient == 0 or not factors:
            return coefficient
        factors.sort(key=lambda s: (s.depth, s.text))
        product = factors[0]
        for factor in factors[1:]:
            product = self.pure(f"mul nsw i64 {product.text}, {factor.text}", factor.depth)
        return product if coefficient == 1 else self.pure(f"mul nsw i64 {product.text}, {coefficient}", product.depth)

    def _split(self, e: Dim) -> tuple[list[Ssa], int]:
        """The terms of an expression from outer to inner depth, and its constant."""
        if isinstance(e, int):
            return [], e
        terms, constant = split_sum(e, self._term)
        terms.sort(key=lambda s: s.depth)
        return terms, constant

    def _sum(self, terms: list[Ssa]) -> Ssa:
        total = terms[0]
        for term in terms[1:]:
            total = self.pure(f"add nsw i64 {total.text}, {term.text}", max(total.depth, term.depth))
        return total

    def index(self, e: Dim) -> Ssa:
        """The i64 value of an index expression."""
        atom = sole_atom(e)
        if atom is not None:
            value = self._atom(atom)
            return Ssa(str(value), 0) if isinstance(value, int) else value
        terms, constant = self._split(e)
        if not terms:
            return Ssa(str(constant), 0)
        total = self._sum(terms)
        return total if constant == 0 else self.pure(f"add nsw i64 {total.text}, {constant}", total.depth)

    def constant(self, e: Dim) -> int | None:
        """The number that an expression is here (unrolled loop variables are numbers), or None."""
        return e if isinstance(e, int) else self.index(e).number

    def address(self, buffer: str, base: Dim) -> str:
        """A pointer to element `base` of a buffer."""
        pointer, element = self.buffers[buffer]
        memory = memory_text(element)
        terms, constant = self._split(base)
        while terms:
            depth = terms[0].depth
            same = [t for t in terms if t.depth == depth]
            terms = [t for t in terms if t.depth != depth]
            offset = self._sum(same)
            pointer = self.pure(
                f"getelementptr {memory}, ptr {pointer.text}, i64 {offset.text}", max(depth, pointer.depth)
            )
        if constant:
            return self.pure(f"getelementptr {memory}, ptr {pointer.text}, i64 {constant}", self.scope.depth).text
        return pointer.text
