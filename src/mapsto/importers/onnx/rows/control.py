"""The row of If: the branch that is taken, where that is known, else both. What sizes rule out is a `fail`; an extent
that the branches do not agree on is a size that the run decides before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mapsto.errors import BudgetError, MapstoError, ModelError, ShapeError, UnsupportedError
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import Dim, sym, symbols
from mapsto.ir.graph import Graph, Value, defined_symbols
from mapsto.ops.arranging import reshape
from mapsto.ops.builder import Builder
from mapsto.ops.composite import failure
from mapsto.ops.registry import Shape


class Branch(NamedTuple):
    """A branch in the making, and what it yields."""

    builder: Builder
    results: list[Value]

    def graph(self) -> Graph:
        return self.builder.finish(self.results)

    def sizes(self) -> set[str]:
        """The sizes among its results' that it finds by itself."""
        mentioned = {name for value in self.results for d in value.shape for name in symbols(d)}
        return mentioned & defined_symbols(self.graph()) if mentioned else set()


@row("If")
def _if(call: NodeCall) -> Result:
    b, condition = call.builder, call.input()
    if any(isinstance(d, int) and d != 1 for d in condition.shape):
        raise call.wrong(f"the condition {condition} has more than one element")
    branches = [call.graph("then_branch"), call.graph("else_branch")]
    if any(len(branch.output) != len(call.outputs) for branch in branches):
        raise call.wrong("its branches do not yield as many values as it has outputs")
    known = call.content(0)
    if known is not None:
        taken = known.reshape(-1)[0]
        if isinstance(taken, int):
            return call.translator.inline_graph(branches[0 if taken else 1], call.name)
    made = [_branch(call, branch) for branch in branches]
    first, second = _agreeing(call, condition, branches, made)
    return b.add("if", [reshape(b, condition, ())], {}, (first.graph(), second.graph()))


def chosen_value(call: NodeCall, condition: Value, then: Value, other: Value) -> Value:
    """One of two values of one type and rank, as a scalar says; where their shapes differ, an `if` whose branches
    yield them.
    """
    b = call.builder
    if then.dtype is other.dtype and then.shape == other.shape:
        return b.one("select", [condition, then, other])
    branches = [Branch(Builder(b.fresh(call.name), b), [value]) for value in (then, other)]
    first, second = _of_equal_shapes(call, condition, (), branches)
    return b.add("if", [condition], {}, (first.graph(), second.graph()))[0]


def _branch(call: NodeCall, graph: Any) -> Branch | MapstoError:
    """A branch as a graph, or why it cannot be one for these input shapes."""
    try:
        builder = Builder(call.builder.fresh(graph.name or call.name), call.builder)
        made = call.translator.inline_graph(graph, call.name, (), builder)
        return Branch(builder, call.tensors(made, "an output of a branch that a run decides on"))
    except BudgetError:
        raise  # the other branch would not make it smaller
    except (UnsupportedError, ShapeError, ModelError) as error:
        return error


def _agreeing(
    call: NodeCall, condition: Value, graphs: Sequence[Any], made: Sequence[Branch | MapstoError]
) -> tuple[Branch, Branch]:
    """Two branches of equal types. One that cannot be built stops the run when it is reached."""
    first, second = made
    if isinstance(first, MapstoError) and isinstance(second, MapstoError):
        raise first  # nor can the other be built; to tell of both would double the message at each level
    built = _of_equal_shapes(call, condition, graphs, [branch for branch in made if isinstance(branch, Branch)])
    if isinstance(first, MapstoError):
        return _failing(call, "then", first, built[0]), built[0]
    if isinstance(second, MapstoError):
        return built[0], _failing(call, "else", second, built[0])
    return built[0], built[1]


def _of_equal_shapes(
    call: NodeCall, condition: Value, graphs: Sequence[Any], branches: Sequence[Branch]
) -> Sequence[Branch]:
    """The branches (both, or the one that could be built), extents that a run decides being sizes around them."""
    outputs = list(zip(*(branch.results for branch in branches), strict=True))
    for i, (a, *others) in enumerate(outputs):
        for b in others:
            if a.dtype is not b.dtype or a.rank != b.rank:
                names = sorted(_deciding(call, condition)) if a.dtype is b.dtype else []
                advice = f"; the extents {', '.join(names)} decide: fix them by `shapes`" if names else ""
                raise call.unsupported(
                    f"output {i} is {a.dtype.value}{_shown(a)} in one branch and {b.dtype.value}{_shown(b)} in the "
                    f"other{advice}",
                    map(sym, names),
                )
    inner = {name for branch in branches for name in branch.sizes()}
    open_ones = [i for i, values in enumerate(outputs) if _is_open(values, inner)]
    if not open_ones:
        return branches
    shapes = [[value.shape for value in outputs[i]] for i in open_ones]
    if any(symbols(d) & inner for each in shapes for shape in each for d in shape):
        decided = _found_inside(call, condition, graphs, open_ones)
    else:
        decided = [_chosen(call, condition, then, other) for then, other in shapes]
    wanted = dict(zip(open_ones, decided, strict=True))
    return [
        Branch(b, [_brought(b, value, wanted[i]) if i in wanted else value for i, value in enumerate(results)])
        for b, results in branches
    ]


def _is_open(values: Sequence[Value], inner: set[str]) -> bool:
    """Whether the branches do not agree on the shape of an output, or one finds an extent of it by itself."""
    return len({v.shape for v in values}) > 1 or any(symbols(d) & inner for value in values for d in value.shape)


def _chosen(call: NodeCall, condition: Value, first: Shape, second: Shape) -> Shape:
    """The shape of an output: where the branches differ, sizes that the condition chooses between."""
    b = call.builder

    def chosen(then: Dim, other: Dim) -> Dim:
        if then == other:
            return then
        extent = b.one("select", [reshape(b, condition, ()), b.known(then), b.known(other)])
        return b.bind(extent, "extent", what=b.place(call.op))

    return tuple(chosen(then, other) for then, other in zip(first, second, strict=True))


def _found_inside(call: NodeCall, condition: Value, graphs: Sequence[Any], outputs: Sequence[int]) -> list[Shape]:
    """The shapes of outputs whose extents a branch computes: an `if` of its own yields them, and no more is computed
    for it than they need.
    """
    b = call.builder
    made = [_branch(call, graph) for graph in graphs]
    ranks = next([branch.results[i].rank for i in outputs] for branch in made if isinstance(branch, Branch))
    arms = []
    for branch in made:
        builder = branch.builder if isinstance(branch, Branch) else Builder(b.fresh(call.name), b)
        dims = [d for i in outputs for d in branch.results[i].shape] if isinstance(branch, Branch) else [0] * sum(ranks)
        arms.append(builder.finish([builder.known(np.array(dims, dtype=object))]))
    (found,) = b.add("if", [reshape(b, condition, ())], {}, arms)
    extents = iter(b.dims(found, "extent", b.place(call.op)))
    return [tuple(next(extents) for _ in range(rank)) for rank in ranks]


def _brought(b: Builder, value: Value, shape: Sequence[Dim]) -> Value:
    """A value in another name of its shape, which it has where its branch is taken."""
    for own, wanted in zip(value.shape, shape, strict=True):
        b.same(own, wanted, "if")
    return reshape(b, value, shape)


def _shown(value: Value) -> str:
    return f"[{', '.join(str(d) for d in value.shape)}]"


def _failing(call: NodeCall, which: str, error: MapstoError, other: Branch) -> Branch:
    builder = Builder(call.builder.fresh(f"{call.name}_{which}"), call.builder)
    types = other.results
    message = f"{call.name}: its {which} branch was reached, which these input shapes rule out: {error}"
    with builder.source(call.name):
        outputs = failure(builder, message, types)
    return Branch(builder, list(outputs))


def _deciding(call: NodeCall, condition: Value) -> set[str]:
    """Which extents decide the condition, where it depends on extents alone; none where it does not."""
    names: set[str] = set()
    seen: set[str] = set()
    waiting = [condition.name]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        value = call.builder.lookup(name)
        node = call.builder.producer(value)
        content = call.builder.content(value)
        if content is not None:
            for element in content.reshape(-1):
                names |= symbols(element)
        elif node is not None:
            waiting.extend(n for n in node.inputs if n)
        elif call.builder.array(value) is None:
            return set()  # it depends on the data of an input as well
    return names
