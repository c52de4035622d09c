"""Writes loop-language code statement by statement: fresh names, blocks as `with`, short forms for common values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from mapsto.devices.routines.constant_pool import ConstantPool
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, mod, mul, sym, symbols
from mapsto.ir.graph import Value as Tensor
from mapsto.loop import ast as loop
from mapsto.loop.functions import emit

I64 = loop.Type(DType.I64)


class Writer:
    """A function in the making.

    sizes: the dims that it mentions; their symbols become the function's dims. fused: whether the device multiplies and
    adds in one instruction.
    """

    def __init__(self, sizes: Iterable[Dim], fused: bool = True) -> None:
        self._fused = fused
        self.dims = tuple(sorted(set().union(*(symbols(size) for size in sizes))))
        self._taken = {*self.dims, "begin", "end"}
        self._counter = 0
        self._blocks: list[list[loop.Statement]] = [[]]
        self._params: list[loop.Param] = []
        self._operands: list[str] = []
        self._pool = ConstantPool(self.fresh)
        self._pooling = False

    # -- operands ------------------------------------------------------------------------------------------------------

    def param(self, name: str, operand: str, element: DType, writes: bool = False) -> str:
        """Declares a buffer parameter that stands for the tensor `operand`."""
        assert all(p.name != name for p in self._params), name
        self._taken.add(name)
        self._params.append(loop.Param(name, element, writes))
        self._operands.append(operand)
        return name

    def tensor(self, name: str, tensor: Tensor, writes: bool = False) -> str:
        """A parameter for a value of the graph."""
        return self.param(name, tensor.name, tensor.dtype, writes)

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(self._operands)

    def function(self, name: str) -> loop.Function:
        (body,) = self._blocks
        return loop.Function(name, tuple(self._params), self.dims, (*self._pool.prologue(), *body))

    # -- statements ----------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that nothing else in the function has."""
        name = hint
        while name in self._taken:
            self._counter += 1
            name = f"{hint}_{self._counter}"
        self._taken.add(name)
        return name

    def add(self, *statements: loop.Statement) -> None:
        self._blocks[-1].extend(map(self._pool.rewrite, statements) if self._pooling else statements)

    def let(self, hint: str, value: loop.Value) -> loop.Var:
        name = self.fresh(hint)
        self.add(loop.Let(name, value))
        return loop.Var(name, value.type)

    def index(self, hint: str, value: Dim | loop.Value) -> Dim:
        """An index expression or a scalar i64 under a name; a number stays itself."""
        if isinstance(value, int):
            return value
        name = self.fresh(hint)
        self.add(loop.LetIndex(name, value))
        return sym(name)

    def declare(self, hint: str, value: loop.Value) -> loop.Var:
        name = self.fresh(hint)
        self.add(loop.Declare(name, value))
        return loop.Var(name, value.type)

    def assign(self, variable: loop.Var, value: loop.Value) -> None:
        self.add(loop.Assign(variable.name, value))

    def store(self, buffer: str, base: Dim, value: loop.Value, mask: loop.Value | None = None, stride: Dim = 1) -> None:
        self.add(loop.Store(buffer, base, value, stride, mask))

    def alloc(self, hint: str, element: DType, count: int) -> str:
        name = self.fresh(hint)
        self.add(loop.Alloc(name, element, count))
        return name

    def multiply_add(self, a: loop.Value, b: loop.Value, c: loop.Value) -> loop.Value:
        """a*b + c, rounded once or twice: whichever the device does in its own instructions."""
        return loop.Fma(a, b, c) if self._fused else loop.Binary("add", loop.Binary("mul", a, b), c)

    def math(self, fn: str, *args: loop.Value) -> loop.Value:
        """A scalar function of the kernel language (exp, tanh...) lane by lane."""
        statements, value = emit(fn, list(args), self.fresh)
        self.add(*statements)
        return value

    @contextmanager
    def pooled_constants(self) -> Iterator[None]:
        """Vector constants of the statements made inside are read from memory (see `pool`)."""
        before, self._pooling = self._pooling, True
        try:
            yield
        finally:
            self._pooling = before

    # -- blocks --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _block(self) -> Iterator[list[loop.Statement]]:
        self._blocks.append([])
        try:
            yield self._blocks[-1]
        finally:
            self._blocks.pop()

    @contextmanager
    def when(self, cond: loop.Value | Sequence[Dim]) -> Iterator[None]:
        """Runs the block where the scalar bool holds, or where every index expression is at least 0."""
        with self._block() as body:
            yield
        self.add(loop.If(cond if not isinstance(cond, Sequence) else tuple(cond), tuple(body)))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The other branch of the `when` just before."""
        with self._block() as body:
            yield
        last = self._blocks[-1].pop()
        assert isinstance(last, loop.If) and not last.otherwise
        self.add(loop.If(last.cond, last.then, tuple(body)))

    @contextmanager
    def repeat(self, cond: loop.Value) -> Iterator[None]:
        """Repeats the block while the scalar bool, made of variables alone, is true."""
        with self._block() as body:
            yield
        self.add(loop.While(cond, tuple(body)))

    @contextmanager
    def loop(self, hint: str, start: Dim, stop: Dim, step: int = 1, unroll: bool = False) -> Iterator[Dim]:
        """Yields the loop variable."""
        name = self.fresh(hint)
        with self._block() as body:
            yield sym(name)
        self.add(loop.For(name, start, stop, tuple(body), step, unroll))

    @contextmanager
    def share(self, hint: str) -> Iterator[Dim]:
        """The loop over this thread's share of the partition."""
        with self.loop(hint, sym("begin"), sym("end")) as item:
            yield item


# -- values --------------------------------------------------------------------------------------------------------


def as_value(index: Dim) -> loop.Value:
    """An index expression as an i64 scalar."""
    return loop.IndexValue(index, I64)


def integer(value: int) -> loop.Const:
    return loop.Const(value, I64)


def splat(value: loop.Value, lanes: int) -> loop.Value:
    """The scalar in every lane."""
    return value if lanes == 1 else loop.Broadcast(value, loop.Type(value.type.element, lanes))


def constant(value: float, like: loop.Type) -> loop.Const:
    return loop.Const(value, like)


def cast(value: loop.Value, element: DType) -> loop.Value:
    """Converts; nothing where the element type is right already."""
    if value.type.element is element:
        return value
    return loop.Cast(value, loop.Type(element, value.type.lanes))


def both(a: loop.Value, b: loop.Value) -> loop.Value:
    return loop.Binary("and", a, b)


def either(a: loop.Value, b: loop.Value) -> loop.Value:
    return loop.Binary("or", a, b)


def split_index(w: Writer, index: Dim, inner: Dim) -> tuple[Dim, Dim]:
    """(index // inner, index % inner), named. An `inner` of 0 has no index to split, but its code must be writable."""
    by = 1 if inner == 0 else inner
    return w.index("outer", floordiv(index, by)), w.index("inner", mod(index, by))


def row_major(shape: Sequence[Dim], index: Sequence[Dim]) -> Dim:
    """The place of an element in a plain row-major tensor (Horner's rule)."""
    at: Dim = 0
    for extent, i in zip(shape, index, strict=True):
        at = mul(at, extent) + i
    return at
