"""Growing OpenCL C text: lines, scopes, names, and index arithmetic placed at the outermost loop where it can be
computed.

What drivers' compilers take long for is text, not loops: an address that is spelled out wherever it is used, divisions
included, is most of a kernel. So an index expression is split by the depth of its symbols, as in `llvm_emit`: each part
is named once, before the loop that it does not depend on, and an address is a pointer that was moved there, with the
constant last. Moving is safe because this arithmetic is total: divisors are at least 1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Atom, Call, Dim, Sym, split_sum
from mapsto.loop import opencl_helpers as helpers
from mapsto.loop.opencl_types import literal, memory_name


@dataclass(frozen=True)
class Pointer:
    """A pointer's C name, element, address space, and whether anything is written through it."""

    name: str
    element: DType
    space: str
    writes: bool = True

    @property
    def declared(self) -> str:
        """The type of a variable that holds it."""
        return f"__{self.space} {'' if self.writes else 'const '}{memory_name(self.element)}*"


class Long(NamedTuple):
    """A long: its text, and the depth of the scope that it can be computed in (0: the kernel's)."""

    text: str
    depth: int

    @property
    def named(self) -> bool:
        return self.text.isidentifier()


@dataclass
class KernelScope:
    """A body in braces: its lines, the symbols that are bound in it, and the arithmetic that is named in it, by text.
    `split`, `atoms`: what was found of expressions since a symbol was bound last.
    """

    lines: list[str] = field(default_factory=list)
    symbols: dict[str, Long | int] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    split: dict[Dim, tuple[list[Long], int]] = field(default_factory=dict)
    atoms: dict[Atom, Long | int] = field(default_factory=dict)

    def bind(self, name: str, value: Long | int) -> None:
        self.rebind({**self.symbols, name: value})

    def rebind(self, symbols: dict[str, Long | int]) -> None:
        self.symbols, self.split, self.atoms = symbols, {}, {}


class KernelWriter:
    """The text of one kernel under construction. `helpers`: the functions and types that it needs, by name."""

    def __init__(self) -> None:
        self.scopes = [KernelScope()]
        self.buffers: dict[str, Pointer] = {}
        self.helpers: dict[str, str] = {}
        self._names = self._loads = 0

    # ---- lines and names ----

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def line(self, text: str) -> None:
        self.scopes[-1].lines.append("  " * (self.depth + 1) + text)

    def fresh(self, hint: str) -> str:
        """A C name that nothing else has and no built-in function can have."""
        self._names += 1
        plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in hint)
        return f"{plain}_{self._names}"

    def call(self, helper: helpers.Helper, *args: str) -> str:
        self.need(helper)
        return f"{helper.name}({', '.join(args)})"

    def need(self, helper: helpers.Helper) -> str:
        """Has a helper's source in the program; its name."""
        for needed in helper.needs:
            self.need(needed)
        self.helpers.setdefault(helper.name, helper.source)
        return helper.name

    def open_scope(self) -> None:
        """What is moved out of a scope while it is open lands before it."""
        self.scopes.append(KernelScope())

    def close_scope(self) -> list[str]:
        """Its lines, which are to follow those of the scope around it."""
        return self.scopes.pop().lines

    def braced(self, head: str, body: Sequence[str]) -> None:
        """A scope's lines in braces, behind a loop's or a condition's head."""
        self.line(f"{head} {{")
        self.scopes[-1].lines += body
        self.line("}")

    def _once(self, declared: str, hint: str, text: str, depth: int) -> str:
        """The name of a value without effects that is computed once, in the scope of the given depth."""
        for outer in self.scopes[: depth + 1]:
            if text in outer.known:
                return outer.known[text]
        name, scope = self.fresh(hint), self.scopes[depth]
        scope.lines.append("  " * (depth + 1) + f"{declared} {name} = {text};")
        scope.known[text] = name
        return name

    # ---- integers ----

    def bind(self, name: str, value: Long | int) -> None:
        """Makes `name` a symbol of index expressions in this scope."""
        self.scopes[-1].bind(name, value)

    def here(self, text: str) -> Long:
        """What was named in this scope."""
        return Long(text, self.depth)

    def index(self, e: Dim) -> str:
        """A long, as an operand."""
        found = self._index(e)
        return _number(found) if isinstance(found, int) else found.text

    def named_index(self, e: Dim) -> Long | int:
        """The same with a name, or as a number."""
        found = self._index(e)
        if isinstance(found, int) or found.named:
            return found
        return Long(self._once("const long", "i", found.text, found.depth), found.depth)

    def address(self, buffer: Pointer, base: Dim, offset: int = 0) -> str:
        """A pointer to element `base` + `offset` of a buffer, as an operand."""
        terms, constant = self._split(base)
        name = buffer.name
        if buffer.space == "global":
            moved = [t for t in terms if t.depth < self.depth]
            terms = [t for t in terms if t.depth == self.depth]
            for depth in sorted({t.depth for t in moved}):
                sum_here = " + ".join(t.text for t in moved if t.depth == depth)
                name = self._once(buffer.declared, "p", f"{name} + ({sum_here})", depth)
        else:  # a compiler may keep an array in registers, if nothing points into it
            terms = self._outer_first(terms)
        constant += offset
        texts = [t.text for t in terms] + [_number(constant)] * bool(constant)
        return f"({name} + ({' + '.join(texts)}))" if texts else name

    def _outer_first(self, terms: Sequence[Long]) -> list[Long]:
        """The same sum, with all that outer scopes can compute as one term that has a name."""
        total: list[Long] = []
        for depth in sorted({t.depth for t in terms if t.depth < self.depth}):
            total += [t for t in terms if t.depth == depth]
            text = " + ".join(t.text for t in total)
            if not text.isidentifier():
                text = self._once("const long", "i", text, depth)
            total = [Long(text, depth)]
        return total + [t for t in terms if t.depth == self.depth]

    def _split(self, e: Dim) -> tuple[list[Long], int]:
        """The terms of an expression that are no numbers, and the sum of those that are."""
        known, loads = self.scopes[-1].split, self._loads
        if e in known:
            return known[e]
        found = split_sum(e, self._term)
        if loads == self._loads:
            known[e] = found
        return found

    def _index(self, e: Dim) -> Long | int:
        terms, constant = self._split(e)
        if not terms:
            return constant
        summed = self._outer_first(terms)
        texts = [t.text for t in summed] + [_number(constant)] * bool(constant)
        return Long(texts[0] if len(texts) == 1 else f"({' + '.join(texts)})", summed[-1].depth)

    def _term(self, monomial: tuple[Atom, ...], coefficient: int) -> Long | int:
        factors: list[Long] = []
        for atom in monomial:
            value = self._atom(atom)
            if isinstance(value, int):
                coefficient *= value
            else:
                factors.append(value)
        if coefficient == 0 or not factors:
            return coefficient
        factors.sort(key=lambda f: f.depth)
        texts = [f.text for f in factors] + [_number(coefficient)] * (coefficient != 1)
        return Long("*".join(texts), factors[-1].depth)

    def _atom(self, atom: Atom) -> Long | int:
        if isinstance(atom, Sym):
            return self._symbol(atom.name)
        if atom.fn == "load":
            return self._loaded(atom)
        known, loads = self.scopes[-1].atoms, self._loads
        if atom in known:
            return known[atom]
        found = self._computed(atom)
        if loads == self._loads:
            known[atom] = found
        return found

    def _computed(self, atom: Call) -> Long | int:
        a, b = (self.named_index(arg) for arg in atom.args)
        if isinstance(a, int) and isinstance(b, int):
            return _folded(atom.fn, a, b)
        depth = max(side.depth for side in (a, b) if isinstance(side, Long))
        text = self._call(atom.fn, b, *(s.text if isinstance(s, Long) else _number(s) for s in (a, b)))
        return Long(self._once("const long", "i", text, depth), depth)

    def _call(self, fn: str, second: Long | int, a: str, b: str) -> str:
        if fn in ("min", "max"):
            return f"{fn}({a}, {b})"
        if fn == "equal":
            return f"({a} == {b} ? 1L : 0L)"
        if fn == "broadcast":
            return f"({a} == 1L ? {b} : {a})"
        if isinstance(second, int) and second > 0 and second & (second - 1) == 0:
            return f"({a} >> {second.bit_length() - 1})" if fn == "floordiv" else f"({a} & {second - 1}L)"
        return self.call(helpers.floor_division() if fn == "floordiv" else helpers.floor_modulus(), a, b)

    def _symbol(self, name: str) -> Long | int:
        for scope in reversed(self.scopes):
            if name in scope.symbols:
                return scope.symbols[name]
        raise KeyError(f"index symbol {name!r} is not defined here")

    def _loaded(self, atom: Call) -> Long:
        """An integer loaded from a buffer at a flat index: never moved or shared, the buffer may be written to."""
        self._loads += 1
        name = self.fresh("loaded")
        self.line(f"const long {name} = (long)*{self.address(self.buffers[atom.tensor], atom.args[0])};")
        return self.here(name)


@functools.lru_cache(maxsize=10_000)
def _number(n: int) -> str:
    return literal(n, DType.I64)


def _folded(fn: str, a: int, b: int) -> int:
    if fn in ("floordiv", "mod"):
        return a // max(b, 1) if fn == "floordiv" else a % max(b, 1)
    if fn in ("min", "max"):
        return min(a, b) if fn == "min" else max(a, b)
    return int(a == b) if fn == "equal" else b if a == 1 else a
