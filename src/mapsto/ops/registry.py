"""What an op is: its shape rule, numpy reference, lowering and gradient, in one short block an op.

Ops register by `register(OpSpec(...))` at the end of their family's file; `mapsto.ops` imports the families.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import (
    Call,
    Dim,
    Expr,
    atoms,
    broadcast,
    broadcast_extents,
    equality,
    evaluate,
    maximum,
    minimum,
    symbols,
)
from mapsto.ir.expr_proofs import equal, known_at_least
from mapsto.ir.graph import Graph, Node, Value, dims_in
from mapsto.ir.region import Region
from mapsto.kernel.ast import Iter, Load, Scalar, Scan, Stmt
from mapsto.ops.making import Making

Shape = tuple[Dim, ...]
Gradient = Callable[[Making, Node, Sequence[Value | None]], list[Value | None]]


@dataclass(frozen=True)
class Inference:
    """What a shape rule sees. `content(i)` is the known integer elements of input i as an object array of dims, or
    None.

    `lookup(name)` finds a value of the enclosing graphs (for branches that yield one).
    """

    op: str
    inputs: tuple[Value | None, ...]
    attrs: Mapping[str, Any]
    graphs: tuple[Graph, ...] = ()
    content: Callable[[int], np.ndarray | None] = lambda i: None
    assume_nonnegative: Callable[[Dim, str], None] = lambda condition, message: None
    lookup: Callable[[str], Value] | None = None
    proves: Callable[[Dim], bool] = lambda e: known_at_least(e, 0)

    def same(self, a: Dim, b: Dim) -> Dim:
        """The extent that both stand for (the simpler form). Raises ShapeError where they cannot be equal; where that
        is not proved, the builder adds a `require` node, so that a run checks it.
        """
        if a == b:
            return a
        difference = a - b
        if isinstance(difference, int) or known_at_least(difference, 1) or known_at_least(-difference, 1):
            raise ShapeError(f"extents {a} and {b} differ")
        if not self.proves(equality(a, b)):
            self.assume_nonnegative(equality(a, b), f"the sizes {a} and {b} must be equal")
        return simpler(a, b)

    def broadcast(self, a: Dim, b: Dim) -> Dim:
        """The extent that two broadcast to. Raises ShapeError where they cannot; where that is not proved, a run
        checks it.
        """
        if a == b or b == 1:
            return a
        if a == 1:
            return b
        if self.proves(equality(a, b)):
            return simpler(a, b)
        if self.proves(stretches(a, b)):
            return b
        if self.proves(stretches(b, a)):
            return a
        if _equal_or_nothing(a, b):
            return self.same(a, b)
        fixed = next((e for e in (a, b) if known_at_least(e, 2) or e == 0), None)
        if fixed is not None:
            self.stretch(b if fixed is a else a, fixed)
            return fixed
        fits = maximum(stretches(a, b), stretches(b, a))
        if not self.proves(fits):
            self.assume_nonnegative(fits, f"the sizes {a} and {b} must be equal, or one of them 1")
        result = broadcast(a, b)
        return next((e for e in (a, b, *broadcast_extents(result)) if self.proves(equality(e, result))), result)

    def stretch(self, extent: Dim, wanted: Dim) -> None:
        """Requires that an axis of `extent` broadcasts to `wanted`: it is equal to it or 1."""
        if extent in (1, wanted) or self.proves(equality(extent, wanted)) or self.proves(stretches(extent, wanted)):
            return
        if _equal_or_nothing(extent, wanted):
            self.same(extent, wanted)
            return
        if isinstance(wanted, int) and known_at_least(extent, max(wanted + 1, 2)):
            raise ShapeError(f"extents {extent} and {wanted} differ")
        message = f"the size {extent} must be {wanted} or 1"
        self.assume_nonnegative(stretches(extent, wanted), message)

    def at_least(self, a: Dim, b: Dim, what: str) -> None:
        """Requires a >= b: raises ShapeError where that is false; where it is not proved, a run checks it."""
        difference = a - b
        if self.proves(difference):
            return
        if known_at_least(-difference, 1):
            raise ShapeError(f"{what}: {a} is less than {b}")
        self.assume_nonnegative(difference, f"{what}: {a} must be at least {b}")

    def needs_element(self, extent: Dim, made: Dim, what: str) -> None:
        """Requires extent >= 1 where anything is `made` of it (an extent that may be 0)."""
        if self.proves(made - 1):
            self.at_least(extent, 1, what)
        elif not self.proves(extent - 1):
            self.assume_nonnegative(maximum(extent - 1, -made), f"{what}: {extent} must be at least 1")

    def value(self, i: int) -> Value:
        """Input i, which must be present."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise UnsupportedError(f"{self.op}: input {i} is missing")
        return found


def simpler(a: Dim, b: Dim) -> Dim:
    """The one with the shorter text, an integer before all."""
    return min(a, b, key=lambda d: (isinstance(d, Expr), len(str(d)), str(d)))


def stretches(extent: Dim, wanted: Dim) -> Dim:
    """An expression that is at least 0 exactly where an axis of `extent` broadcasts to `wanted`."""
    return maximum(equality(extent, wanted), equality(extent, 1))


def _equal_or_nothing(a: Dim, b: Dim) -> bool:
    """Whether two extents broadcast only where they are equal: neither is ever 1, or one is min(other, 2 or more)."""
    if all(known_at_least(e, 2) or e == 0 for e in (a, b)):
        return True
    for bounded, other in ((a, b), (b, a)):
        call = next(iter(atoms(bounded)), None)
        if (
            isinstance(call, Call) and call.fn == "min" and minimum(*call.args) == bounded
            and other in call.args and all(e == other or known_at_least(e, 2) for e in call.args)
        ):  # fmt: skip
            return True
    return False


@dataclass
class Lowering:
    """What a lowering sees: the node, its operands' types, fresh iterator names; `required`: what a run has checked of
    its sizes, each at least 0. `prefix`: one that no name of the graph begins with; iterators are called by it and
    their position then, as `kernel.compose.positional` calls those of a single statement.
    """

    node: Node
    inputs: tuple[Value | None, ...]
    counter: list[int] = field(default_factory=lambda: [0])
    required: Set[Dim] = frozenset()
    prefix: str = ""

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs

    @property
    def output(self) -> Value:
        return self.node.outputs[0]

    def value(self, i: int) -> Value:
        found = self.inputs[i]
        assert found is not None
        return found

    def fresh(self, hint: str = "i") -> str:
        """A name for an iterator: not that of a size, which a model may call `i7` as well."""
        if self.prefix:
            self.counter[0] += 1
            return f"{self.prefix}{self.counter[0] - 1}"
        while True:
            self.counter[0] += 1
            name = f"{hint}{self.counter[0]}"
            if name not in self.sizes:
                return name

    @functools.cached_property
    def sizes(self) -> frozenset[str]:
        """The size symbols that the node's types and attributes speak of."""
        values = (*(v for v in self.inputs if v is not None), *self.node.outputs)
        dims = (*(d for v in values for d in v.shape), *dims_in(self.attrs.values()))
        return frozenset(s for d in dims for s in symbols(d))

    def iters(self, shape: Sequence[Dim], hint: str = "i") -> tuple[Iter, ...]:
        """One fresh iterator a dim."""
        if self.prefix:
            self.counter[0] += len(shape)
            return _positional(self.prefix, self.counter[0] - len(shape), tuple(shape))
        return tuple(Iter(self.fresh(hint), extent) for extent in shape)

    def load(self, i: int, index: Sequence[Dim]) -> Load:
        """Input i at an index of its own rank."""
        operand = self.value(i)
        assert len(index) == operand.rank, (self.node.op, i, index, operand)
        return Load(operand.name, tuple(index), operand.dtype)

    def load_broadcast(self, i: int, index: Sequence[Dim]) -> Load:
        """Input i read at an output index by numpy's broadcasting rules (aligned at the right; extent-1 axes read
        element 0).
        """
        operand = self.value(i)
        skip = len(index) - operand.rank
        return self.load(i, self.stretched(operand.shape, list(index)[skip:], self.output.shape[skip:]))

    def stretched(self, extents: Sequence[Dim], index: Sequence[Dim], wanted: Sequence[Dim]) -> list[Dim]:
        """The index into axes of these extents, broadcast to `wanted` and read at `index` there: 0 along an axis of 1.
        Whether an open axis is one, only the run knows: its index is multiplied by equal(extent, wanted).
        """
        found: list[Dim] = []
        for extent, at, full in zip(extents, index, wanted, strict=True):
            never = extent == full or _equal_or_nothing(extent, full) or equality(extent, full) in self.required
            found.append(0 if extent == 1 else at if never else at * equal(extent, full))
        return found

    def stmt(
        self,
        iters: Sequence[Iter],
        value: Scalar,
        output: int = 0,
        index: Sequence[Dim] | None = None,
        scan: Scan | None = None,
    ) -> Stmt:
        target = self.node.outputs[output]
        return Stmt(target.name, target.dtype, tuple(iters), value, None if index is None else tuple(index), scan)

    def temp(self, suffix: str) -> str:
        """The name of a temporary tensor: a target that is no output of the node. Its shape is its statement's extents.
        """
        return f"{self.output.name}.{suffix}"


@functools.lru_cache(maxsize=1024)
def _positional(prefix: str, first: int, shape: Shape) -> tuple[Iter, ...]:
    """Iterators over a shape, called by their position: a model has thousands of tensors of a few shapes."""
    return tuple(Iter(f"{prefix}{first + k}", extent) for k, extent in enumerate(shape))


RunNested = Callable[[int, Sequence[np.ndarray]], list[np.ndarray]]
"""(number of a nested graph, arrays for its inputs) -> what it yields."""


@dataclass(frozen=True)
class Nesting:
    """What an op does with the graphs nested in its nodes.

    regions: how values go into and out of each. run: the numpy reference: (operands, attributes, a way to run a nested
    graph) -> outputs. taken: from what is known of the operands' integers (object arrays of dims, or None), the one
    graph that runs, once; None where that is not decided. idle: from the same, whether what is carried from round to
    round stays as it starts. below: (input of the only graph, extent that its integers stay below, from 0 on).
    """

    regions: Callable[[Node], tuple[Region, ...]]
    run: Callable[[Sequence[Any], Mapping[str, Any], RunNested], list[np.ndarray]]
    taken: Callable[[Sequence[np.ndarray | None]], int | None] = lambda contents: None
    idle: Callable[[Sequence[np.ndarray | None]], bool] = lambda contents: False
    below: Callable[[Mapping[str, Any]], Iterable[tuple[int, Dim]]] = lambda attrs: ()


Infer = Callable[[Inference], list[tuple[DType, Shape]]]
Reference = Callable[[list[Any], Mapping[str, Any], list[tuple[int, ...]]], list[np.ndarray]]


@dataclass(frozen=True)
class OpSpec:
    """One op of the intermediate representation.

    infer: (dtype, shape) of each output. reference: numpy arrays (None for an absent input), attrs with all dims
    evaluated to ints, output shapes -> outputs.
    lower: statements that define the outputs by name; None for a routine, which a device writes in the loop language.
    content: integer elements of the output from those of the inputs (object arrays of dims), for shape arithmetic; None
    where it has none.
    gradient: (builder, node, gradients of outputs or None) -> gradients of inputs (None where there is none).
    nesting: what it does with nested graphs, for an op that has some; it has no other reference then.
    indices: (inputs, attrs) -> which inputs are indices into which axes; the builder has those checked.
    kind: elementwise | movement | reduction | contraction | window | routine | control | source
    """

    name: str
    kind: str
    infer: Infer
    reference: Reference | None = None
    lower: Callable[[Lowering], list[Stmt]] | None = None
    content: Callable[[list[np.ndarray], Mapping[str, Any], Sequence[Shape]], np.ndarray | None] | None = None
    gradient: Gradient | None = None
    foldable: bool = True
    nesting: Nesting | None = None
    indices: Callable[[Sequence[Value | None], Mapping[str, Any]], Mapping[int, Allowed]] | None = None


_OPS: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    assert spec.name not in _OPS, f"op {spec.name} registered twice"
    _OPS[spec.name] = spec
    return spec


def op(name: str) -> OpSpec:
    if name not in _OPS:
        raise UnsupportedError(f"there is no op named {name!r}; known: {', '.join(sorted(_OPS))}")
    return _OPS[name]


def known_ops() -> list[str]:
    return sorted(_OPS)


def evaluated_attrs(attrs: Mapping[str, Any], env: Mapping[str, int]) -> dict[str, Any]:
    """Attributes with every symbolic dim replaced by its number."""
    def value(attr: Any) -> Any:
        if isinstance(attr, Expr):
            return evaluate(attr, env)
        return tuple(value(a) for a in attr) if isinstance(attr, tuple) else attr

    return {name: value(attr) for name, attr in attrs.items()}
