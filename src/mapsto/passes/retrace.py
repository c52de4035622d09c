"""Builds a graph anew through the builder, node by node, with a rewrite asked at each: what every rewriting pass stands
on.

Building anew folds constants, shares equal nodes and follows sizes again. Names of values, symbols and outputs stay.
Where nothing is left of that to do (`Graph.settled`), a graph is built anew only for a rewrite that applies.
Provenance stays, whatever a rewrite says of it: `passes.provenance` hands the sources of nodes that are gone on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mapsto.budget import current
from mapsto.errors import ShapeError
from mapsto.ir.bounds import ALL
from mapsto.ir.expr import Dim, Expr, bare_symbol
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Graph, Node, Value, binds, defined_symbols
from mapsto.ir.region import nested, uses
from mapsto.ir.rewrite import Match, RuleTable
from mapsto.ops.bounds import check_again
from mapsto.ops.builder import Builder
from mapsto.ops.composite import failure
from mapsto.ops.provenance import source_names
from mapsto.ops.ranges import Noted
from mapsto.ops.registry import Nesting, op
from mapsto.passes.dead_code import sizes_of
from mapsto.passes.provenance import Trace, hand_on
from mapsto.passes.sites import Rewrite, Site, first_site

# Constants up to this many elements are shared where they are equal, so that nodes that read them can be shared.
SHARED = 64


def rewritten(graph: Graph, rewrite: Rewrite, at: Collection[str] | None = None) -> Graph:
    """The graph built anew with a rewrite, or as it is, where it is settled and the rewrite applies nowhere.

    at: the ops that the rewrite is for (None: any).
    """
    first = 0
    if graph.settled:
        found = first_site(graph, rewrite, at)
        if found is None:
            return graph
        first = found
    return retrace(graph, rewrite, first=first)


def retrace(
    graph: Graph, rewrite: Rewrite | None = None, sizes: Mapping[str, Dim] | None = None, first: int = 0
) -> Graph:
    """The graph built anew. `sizes` replaces size symbols by other dims, which makes a graph for fixed shapes out of an
    open one. first: the first node at which the rewrite is asked.
    """
    builder = Builder(graph.name, anew=True)
    tracer = _start(builder, graph, rewrite, sizes or {})
    made = tracer.body(graph, first)
    for value, sources in zip(made, hand_on(builder, tracer.traces, graph.outputs, made), strict=True):
        builder.attribute(value, sources)
    return settled(builder.finish(made, graph.updates, names=graph.outputs))


def settled(graph: Graph) -> Graph:
    """A graph that the builder has made, said to be settled where it is: no small constants are equal. (One with
    branches is not looked into.)
    """
    keys = [constant_key(array) for array in graph.constants.values() if array.size <= SHARED]
    whole = len(set(keys)) == len(keys) and not any(node.graphs for node in graph.nodes)
    return replace(graph, settled=True) if whole else graph


def copy_into(builder: Builder, graph: Graph) -> dict[str, Value]:
    """Builds a graph's inputs and nodes in a builder, to go on from there; gives the new values by their old names."""
    tracer = _start(builder, graph, None, {})
    for name, value in zip(graph.outputs, tracer.body(graph), strict=True):
        tracer.values[name] = value
    return tracer.values


def _start(builder: Builder, graph: Graph, rewrite: Rewrite | None, sizes: Mapping[str, Dim]) -> _Tracer:
    builder.keep_names(_all_names(graph))
    tracer = _Tracer(builder, rewrite, dict(sizes))
    tracer.take_inputs(graph)
    return tracer


def constant_key(array: np.ndarray) -> Any:
    """What constants are equal by."""
    return array.dtype.str, array.dtype.name, array.shape, array.tobytes()


def _all_names(graph: Graph) -> set[str]:
    names: set[str] = set()
    for each in nested(graph):
        names |= {*each.values(), *defined_symbols(each)} | ({each.name} if each is not graph else set())
    return names


def by_table(table: RuleTable) -> Rewrite:
    """A rewrite that applies the first rule that fits."""

    def rewrite(site: Site) -> Sequence[Value] | None:
        for rule, match in table.matches(site.builder, site.node.op, site.inputs, lambda: _match(site), site.readers):
            absorbed = [source for node in match.nodes.values() for source in node.provenance]
            with site.builder.source(*site.node.provenance, *absorbed):
                value = rule.rewrite(site.builder, match)
            if value is not None:
                return (value,)
        return None

    return rewrite


def _match(site: Site) -> Match:
    return Match(site.attrs, site.node.outputs)


@dataclass
class _Tracer:
    """One level of a graph on its way from the old to the new."""

    builder: Builder
    rewrite: Rewrite | None
    sizes: dict[str, Dim]
    parent: _Tracer | None = None
    values: dict[str, Value] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    shared: dict[Any, Value] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # new name -> how often its old values are read
    traces: list[Trace] = field(default_factory=list)  # what became of each node, in order

    def take_inputs(self, graph: Graph) -> None:
        """Makes the graph's inputs anew."""
        for value in graph.inputs:
            shape = [substitute(d, self.sizes) for d in value.shape]
            self.values[value.name] = self.builder.input(value.name, value.dtype, shape)

    def body(self, graph: Graph, first: int = 0) -> list[Value]:
        """The graph's nodes built; gives its outputs. first: the first node at which the rewrite is asked."""
        self.arrays = graph.constants
        old = uses(graph)
        bound = {name for node in graph.nodes for name in binds(node)}
        for value in graph.inputs:
            self.counts[self.values[value.name].name] = old.get(value.name, 0)
        meter = current()
        for at, node in enumerate(graph.nodes):
            meter.tick(node.op)
            made, more = self._node(node, at >= first)
            self.traces.append(Trace.of(node, made, sizes_of(node) & bound if bound else set(), more))
            for before, after in zip(node.outputs, made, strict=True):
                self.values[before.name] = after
                self.counts[after.name] = self.counts.get(after.name, 0) + old.get(before.name, 0)
        return [self._find(name) for name in graph.outputs]

    def _find(self, name: str) -> Value:
        """The new value of an old name."""
        tracer: _Tracer | None = self
        while tracer is not None:
            if name in tracer.values:
                return tracer.values[name]
            if name in tracer.arrays:
                tracer.values[name] = tracer._constant(name)
                return tracer.values[name]
            tracer = tracer.parent
        raise ShapeError(f"graph {self.builder.name!r}: no value named {name!r}")

    def _constant(self, name: str) -> Value:
        array = self.arrays[name]
        if array.size > SHARED:
            return self.builder.constant(array, name)
        key = constant_key(array)
        if key not in self.shared:
            self.shared[key] = self.builder.constant(array, name)
        return self.shared[key]

    def _readers(self, value: Value) -> int:
        """How often a value was read before; 1 for one that a rewrite has made."""
        tracer: _Tracer | None = self
        while tracer is not None:
            if value.name in tracer.counts:
                return tracer.counts[value.name]
            tracer = tracer.parent
        return 1

    def _node(self, node: Node, asked: bool) -> tuple[Sequence[Value], Sequence[str]]:
        """The values that take the place of a node's, and sources that they stand for besides the node's own."""
        builder = self.builder
        inputs = tuple(self._find(n) if n else None for n in node.inputs)
        attrs = {k: self._attr(v) for k, v in node.attrs.items()}
        with builder.source(*node.provenance):
            if node.op == "bind_dim":
                return self._bind(str(node.attrs["symbol"]), inputs[0], str(node.attrs.get("what", ""))), ()
            if node.op == "require":
                said = {name: name in attrs for name in ("always", "liftable")}
                builder.require(attrs["condition"], str(attrs["message"]), where="", **said)
                return (), ()
            if node.op == "bounds_check":
                assert inputs[0] is not None
                check_again(builder, inputs[0], attrs)
                return (), ()
            nesting = op(node.op).nesting
            if nesting is not None:
                return self._nesting(node, nesting, inputs, attrs)
            rewrite = self.rewrite if asked else None
            made = None if rewrite is None else rewrite(Site(builder, node, inputs, attrs, self._readers))
            if made is None:
                made = builder.add(node.op, inputs, attrs, (), [v.name for v in node.outputs])
        for value in made:
            builder.attribute(value, node.provenance)
        return made, ()

    def _attr(self, attr: Any) -> Any:
        if not self.sizes:
            return attr
        if isinstance(attr, tuple):
            return tuple(self._attr(a) for a in attr)
        return substitute(attr, self.sizes) if isinstance(attr, Expr) else attr

    def _bind(self, symbol: str, scalar: Value | None, what: str) -> tuple[()]:
        """A size whose integer is known by now is no symbol any more."""
        assert scalar is not None
        content = self.builder.content(scalar)
        known = content.reshape(-1)[0] if content is not None else None
        if known is None:
            self.builder.bind(scalar, symbol=symbol, what=what)
        elif known != self.sizes.get(symbol):
            self.sizes[symbol] = known
        return ()

    # -- nested graphs -------------------------------------------------------------------------------------------------

    def _nesting(
        self, node: Node, nesting: Nesting, inputs: tuple[Value | None, ...], attrs: dict[str, Any]
    ) -> tuple[Sequence[Value], Sequence[str]]:
        contents = [self.builder.content(value) for value in inputs]
        taken = nesting.taken(contents)
        if taken is not None:
            return self._inlined(node, nesting, inputs, taken)
        if nesting.idle(contents):
            return self._started(node, nesting, inputs)
        below = dict(nesting.below(attrs))
        made = [self._nested(inner, below) for inner in node.graphs]
        graphs, left = [graph for graph, _ in made], [source for _, sources in made for source in sources]
        return self.builder.add(node.op, inputs, attrs, graphs, [v.name for v in node.outputs]), left

    def _inlined(
        self, node: Node, nesting: Nesting, inputs: tuple[Value | None, ...], taken: int
    ) -> tuple[Sequence[Value], Sequence[str]]:
        """The nodes of the graph that is taken, in this graph; the others' are stood for by what is yielded."""
        region = nesting.regions(node)[taken]
        inner = _Tracer(self.builder, self.rewrite, self.sizes, self)
        for value, start in zip(region.graph.inputs, region.starts, strict=True):
            given = inputs[start] if start is not None else None
            assert given is not None, f"{node.op}: nothing is given for {value.name!r}"
            inner.values[value.name] = given
        yields = inner.body(region.graph)
        made = [yields[region.results.index(i)] for i in range(len(node.outputs))]
        for value in made:
            self.builder.attribute(value, node.provenance)
        self.traces.extend(inner.traces)
        others = (graph for i, graph in enumerate(node.graphs) if i != taken)
        return made, [source for graph in others for source in _sources(graph)]

    def _started(
        self, node: Node, nesting: Nesting, inputs: tuple[Value | None, ...]
    ) -> tuple[Sequence[Value], Sequence[str]]:
        """What a loop that runs no round yields: its states as they start."""
        (region,) = nesting.regions(node)
        starts = dict(zip(region.carried, region.starts, strict=True))
        made: list[Value] = []
        for i, output in enumerate(node.outputs):
            start = starts[region.results.index(i)]
            value = inputs[start] if start is not None else None
            assert value is not None, f"{node.op}: nothing is given for {output.name!r}"
            for dim, extent in zip(output.shape, value.shape, strict=True):
                if (name := bare_symbol(dim)) in binds(node):
                    self.sizes.setdefault(name, extent)
            self.builder.attribute(value, node.provenance)
            made.append(value)
        return made, _sources(region.graph)

    def _nested(self, graph: Graph, below: Mapping[int, Dim]) -> tuple[Graph, Sequence[str]]:
        """A nested graph built anew, and the sources in it that only the node itself stands for now. below: extents
        that integers of its inputs are known to stay below.
        """
        tracer = self._deeper(graph)
        for i, extent in below.items():
            tracer.builder.note_bounds(tracer.builder.inputs[i].name, Noted("place", (ALL,), (extent,)))
        try:
            made = tracer.body(graph)
        except ShapeError as error:
            return self._failing(graph, error), _sources(graph)
        left = hand_on(tracer.builder, tracer.traces, graph.outputs, made)
        return tracer.builder.finish(made), source_names(left)

    def _deeper(self, graph: Graph) -> _Tracer:
        builder = Builder(self.builder.fresh(graph.name), self.builder)
        tracer = _Tracer(builder, self.rewrite, dict(self.sizes), self)
        tracer.take_inputs(graph)
        return tracer

    def _failing(self, graph: Graph, error: ShapeError) -> Graph:
        """A nested graph that the sizes rule out: reaching it stops the run."""
        builder = self._deeper(graph).builder
        own = graph.values()
        types = [own[name] if name in own else self._find(name) for name in graph.outputs]
        made = [replace(v, shape=tuple(substitute(d, self.sizes) for d in v.shape)) for v in types]
        return builder.finish(failure(builder, str(error), made))


def _sources(graph: Graph) -> list[str]:
    return [source for node in graph.walk() for source in node.provenance]
