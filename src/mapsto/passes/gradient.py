"""Reverse-mode differentiation of a graph.

For y = f(x) the gradient of the loss with respect to x is the sum, over the nodes that read x, of what their gradient
rules give (Griewank and Walther, Evaluating Derivatives, chapter 3). The rules stand beside the ops. Recurrent layers
are written out first; where one of several graphs runs, so does one of several gradients, each of which computes its
graph anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.graph import Graph, Node, Value, binds
from mapsto.ir.region import Region, reads
from mapsto.ops.builder import Builder
from mapsto.ops.registry import Gradient, op
from mapsto.ops.unrolled import RECURRENT, unrolled
from mapsto.passes.padded_sums import parts_joined
from mapsto.passes.retrace import copy_into, retrace
from mapsto.passes.sites import Site
from mapsto.passes.softmax_gradient import gradient_of_softmax, is_shift, softmax_of

# What the rules cannot go through, as it gives no numbers to differentiate.
_WITHOUT_OUTPUTS = ("bind_dim", "require", "bounds_check")


@dataclass
class _Sums:
    """The gradients that values have got so far, by the values' names, term by term. even: axes along which all that a
    value has got adds up to zero.
    """

    terms: dict[str, list[Value]] = field(default_factory=dict)
    even: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, builder: Builder, name: str) -> Value | None:
        """The sum; None where there is nothing of it."""
        terms = self.terms.get(name)
        if terms is None:
            return None
        total, *others = parts_joined(builder, terms) if len(terms) > 1 else terms
        for term in others:
            total = builder.one("add", [total, term])
        self.terms[name] = [total]
        return total

    def add(self, name: str, value: Value, even: tuple[int, ...] = ()) -> None:
        """even: axes along which `value` adds up to zero."""
        terms = self.terms.setdefault(name, [])
        if terms and self.even[name] != even:
            even = ()
        terms.append(value)
        self.even[name] = even


def gradient(graph: Graph, loss: str, wrt: Sequence[str]) -> Graph:
    """The graph with further outputs `NAME.gradient`, one for each name in `wrt`: the derivative of `loss` by it, in
    its shape.

    loss: a float value of one element. wrt: inputs, or constants, which become inputs after those there are (see
    `as_inputs`).
    Raises ShapeError for a wrong loss or name, UnsupportedError where an op on the way has no gradient.
    """
    builder, values = _forward(as_inputs(graph, wrt), wrt)
    found = _of_loss(builder, _named(values, loss), [_named(values, name) for name in wrt])
    outputs = [*(values[name] for name in graph.outputs), *found]
    return builder.finish(outputs, graph.updates, names=[*graph.outputs, *(f"{name}.gradient" for name in wrt)])


def as_inputs(graph: Graph, names: Sequence[str]) -> Graph:
    """Constants as further inputs, so that they can change. Their present elements are `graph.constants[name]`."""
    known = {value.name for value in graph.inputs}
    chosen = [name for name in names if name not in known]
    missing = [name for name in chosen if name not in graph.constants]
    if missing:
        raise ShapeError(f"graph {graph.name!r} has no input or constant named {', '.join(missing)}")
    arrays = {name: graph.constants[name] for name in chosen}
    added = tuple(Value(name, from_numpy(array.dtype), array.shape) for name, array in arrays.items())
    rest = {name: array for name, array in graph.constants.items() if name not in arrays}
    return replace(graph, inputs=(*graph.inputs, *added), constants=rest, settled=False)


def _forward(graph: Graph, wrt: Sequence[str]) -> tuple[Builder, dict[str, Value]]:
    """The graph in a builder that goes on from its end, with the new values by their old names."""
    if any(node.op in RECURRENT for node in graph.walk()):
        graph = retrace(graph, _written_out(_dependents(graph.nodes, set(wrt))))
    builder = Builder(graph.name)
    return builder, copy_into(builder, graph)


def _written_out(depends: Collection[str]) -> Callable[[Site], Sequence[Value] | None]:
    """A rewrite of the recurrent layers that a gradient goes through."""

    def rewrite(site: Site) -> Sequence[Value] | None:
        if site.node.op not in RECURRENT or not any(name in depends for name in site.node.inputs):
            return None
        return unrolled(site.builder, site.node.op, site.inputs, site.attrs)

    return rewrite


def _named(values: dict[str, Value], name: str) -> Value:
    if name not in values:
        raise ShapeError(f"there is no value named {name!r}")
    return values[name]


def _of_loss(builder: Builder, loss: Value, wrt: Sequence[Value]) -> list[Value]:
    """Gradients of the loss with respect to some values."""
    if not loss.dtype.is_float or any(d != 1 for d in loss.shape):
        raise ShapeError(f"a loss is one float, not {loss}")
    wrong = [value for value in wrt if not value.dtype.is_float]
    if wrong:
        raise ShapeError(f"{wrong[0]} is no float: nothing can be differentiated by it")
    with builder.source("loss"):
        sums = _Sums()
        sums.add(loss.name, builder.one("full", [], shape=loss.shape, value=1.0, dtype=loss.dtype))
    return _backward(builder, sums, wrt)


def _backward(builder: Builder, sums: _Sums, wrt: Sequence[Value]) -> list[Value]:
    """Gradients with respect to some values, by walking the nodes so far backwards; sums: what is known of them."""
    forward = list(builder.nodes)
    depends = _dependents(forward, {value.name for value in wrt})
    for node in reversed(forward):
        if not any(value.name in sums.terms for value in node.outputs) or not any(n in depends for n in reads(node)):
            continue
        with builder.source(*node.provenance):
            incoming = [sums.of(builder, value.name) for value in node.outputs]
            softmax = softmax_of(builder, node)
            if softmax is None or incoming[0] is None:
                _add_gradients(builder, node, incoming, depends, sums)
            elif softmax.z.name in depends:
                passed = gradient_of_softmax(builder, node, softmax, incoming[0])
                sums.add(softmax.z.name, passed, softmax.axes)
    return [_result(builder, value, sums) for value in wrt]


def _dependents(nodes: Sequence[Node], start: set[str]) -> set[str]:
    """Values that depend on those in `start`."""
    found = set(start)
    for node in nodes:
        if any(name in found for name in (reads(node) if node.graphs else node.inputs)):
            found.update(value.name for value in node.outputs if value.dtype.is_float)
    return found


def _add_gradients(
    builder: Builder, node: Node, incoming: Sequence[Value | None], depends: Collection[str], sums: _Sums
) -> None:
    """Adds what one node passes on to the gradients of what it reads."""
    if node.op in _WITHOUT_OUTPUTS:
        return
    nesting, rule = op(node.op).nesting, op(node.op).gradient
    regions = () if nesting is None else nesting.regions(node)
    if regions and all(not region.starts for region in regions):
        names = [name for name in sorted(reads(node)) if name in depends]
        passed = _of_choice(builder, node, regions, incoming, names)
    elif rule is not None:
        names, passed = list(node.inputs), _by_rule(builder, node, rule, incoming)
        if node.op == "sub" and is_shift(node, builder.lookup(node.inputs[1]), sums.even[node.output.name]):
            passed = [passed[0], None]
    else:
        raise _without_gradient(node)
    for name, value in zip(names, passed, strict=True):
        if value is not None and name in depends:
            sums.add(name, value)


def _by_rule(
    builder: Builder, node: Node, rule: Gradient, incoming: Sequence[Value | None]
) -> Sequence[Value | None]:
    try:
        return rule(builder, node, incoming)
    except (UnsupportedError, ShapeError) as error:
        if not node.provenance:
            raise
        raise type(error)(f"{error} (from {', '.join(node.provenance)})") from error


def _without_gradient(node: Node) -> UnsupportedError:
    where = f" (from {', '.join(node.provenance)})" if node.provenance else ""
    why = "a loop whose rounds only a run counts has none; fix the sizes by `shapes`" if node.graphs else (
        "the op has no gradient yet"
    )  # fmt: skip
    return UnsupportedError(f"{node.op} -> {node.outputs[0].name}{where}: {why}")


def _of_choice(
    builder: Builder, node: Node, regions: Sequence[Region], incoming: Sequence[Value | None], names: Sequence[str]
) -> Sequence[Value | None]:
    """The gradients of values that the graphs of a node read, one of which runs: a node of the same kind, whose graphs
    compute theirs anew and go back through them.
    """
    wrt = [builder.lookup(name) for name in names]
    graphs = []
    for region in regions:
        inner = Builder(builder.fresh("gradient"), builder)
        values = _again(inner, region.graph)
        sums = _Sums()
        for name, at in zip(region.graph.outputs, region.results, strict=True):
            g = None if at is None else incoming[at]
            if g is not None:
                sums.add(values[name].name if name in values else name, g)
        graphs.append(inner.finish(_backward(inner, sums, wrt)))
    inputs = [builder.lookup(name) if name else None for name in node.inputs]
    return builder.add(node.op, inputs, node.attrs, graphs)


def _again(inner: Builder, graph: Graph) -> dict[str, Value]:
    """The nodes of a nested graph built in another one beside it, with the new values by their old names. What a run
    has checked is not checked again.
    """
    values = {name: inner.constant(array, name) for name, array in graph.constants.items()}
    for node in graph.nodes:
        if binds(node) or node.graphs:
            raise UnsupportedError(
                f"{node.op} in a branch: no gradient of a branch whose sizes only a run knows, or that has branches or "
                "loops of its own"
            )
        if node.op in _WITHOUT_OUTPUTS:
            continue
        inputs = [None if not n else values[n] if n in values else inner.lookup(n) for n in node.inputs]
        made = inner.add(node.op, inputs, node.attrs)
        values.update(zip((v.name for v in node.outputs), made, strict=True))
    return values


def _result(builder: Builder, value: Value, sums: _Sums) -> Value:
    """The gradient of a value; zeros where the loss does not depend on it."""
    dtype: DType = value.dtype
    with builder.source(f"gradient {value.name}"):
        if (found := sums.of(builder, value.name)) is not None:
            return found
        return builder.one("full", [], shape=value.shape, value=0.0, dtype=dtype)
