"""The row of If: the branch that is taken, where that is known, else both. What sizes rule out is a `fail`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mapsto.errors import BudgetError, MapstoError, ModelError, ShapeError, UnsupportedError
from mapsto.importers.onnx.rows.common import reshape
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import symbols
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.composite import failure


class Branch(NamedTuple):
    """A branch, and what it yields as values of the graph around it."""

    graph: Graph
    results: list[Value]


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
    first, second = _agreeing(call, condition, made)
    return b.add("if", [reshape(b, condition, ())], {}, (first.graph, second.graph))


def _branch(call: NodeCall, graph: Any) -> Branch | MapstoError:
    """A branch as a graph, or why it cannot be one for these input shapes."""
    try:
        return Branch(*call.translator.nested_graph(graph, call.name))
    except BudgetError:
        raise  # the other branch would not make it smaller
    except (UnsupportedError, ShapeError, ModelError) as error:
        return error


def _agreeing(call: NodeCall, condition: Value, made: Sequence[Branch | MapstoError]) -> tuple[Branch, Branch]:
    """Two branches of equal types. One that cannot be built stops the run when it is reached."""
    first, second = made
    if isinstance(first, MapstoError) and isinstance(second, MapstoError):
        raise first  # nor can the other be built; to tell of both would double the message at each level
    if isinstance(first, MapstoError):
        assert not isinstance(second, MapstoError)
        return _failing(call, "then", first, second), second
    if isinstance(second, MapstoError):
        return first, _failing(call, "else", second, first)
    for i, (a, b) in enumerate(zip(first.results, second.results, strict=True)):
        if a.dtype is not b.dtype or a.shape != b.shape:
            raise call.unsupported(
                f"output {i} is {a.dtype.value}{_shown(a)} in one branch and {b.dtype.value}{_shown(b)} in the other"
                + _advice(call, condition)
            )
    return first, second


def _shown(value: Value) -> str:
    return f"[{', '.join(str(d) for d in value.shape)}]"


def _failing(call: NodeCall, which: str, error: MapstoError, other: Branch) -> Branch:
    builder = Builder(call.builder.fresh(f"{call.name}_{which}"), call.builder)
    types = other.results
    message = f"{call.name}: its {which} branch was reached, which these input shapes rule out: {error}"
    with builder.source(call.name):
        outputs = failure(builder, message, types)
    return Branch(builder.finish(outputs), list(outputs))


def _advice(call: NodeCall, condition: Value) -> str:
    """Which extents decide the condition, where it depends on extents alone."""
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
            return ""  # it depends on the data of an input as well
    return f"; the extents {', '.join(sorted(names))} decide: fix them by `shapes`" if names else ""
