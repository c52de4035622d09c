"""The graph in which some products of f32 are products of halves, and values that they read are stored as such.

    z = conv(x, w)   ->   z = conv(bf16(x), bf16(w)), summed in f32

What such a product reads is rounded once, by whatever makes it, and all that read it read the rounded one: half the
bytes. It stays f32 where it is an input or an output of the graph, or where a product that is not narrowed reads it
too: then a second, rounded one lies beside it. What only moves such a value (a concatenation, a pooling by maxima)
moves the rounded one, and its own operands are stored so as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mapsto.formats.chosen import PRODUCTS, ChosenFormat
from mapsto.formats.format import ProductFormat
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import nested
from mapsto.ops.builder import Builder
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

# Ops whose results are elements of their first operands (a concatenation's: of all): rounding before is rounding after.
_MOVING = frozenset({"reshape", "transpose", "slice", "concat", "expand", "tile", "max_pool"})


@dataclass(frozen=True)
class Narrowed:
    """A pass: these products in their formats."""

    chosen: tuple[ChosenFormat, ...]
    name: str = "number-formats"

    def __call__(self, graph: Graph) -> Graph:
        formats = {each.value: each.format for each in self.chosen if each.format is not None}
        if not formats:
            return graph
        stored = _stored(graph, formats)
        return rewritten(graph, lambda site: _rewrite(site, formats, stored))


# -- which values are stored rounded -----------------------------------------------------------------------------------


def _stored(graph: Graph, formats: Mapping[str, ProductFormat]) -> dict[str, DType]:
    """The type that each value which is stored rounded has then."""
    makers = {value.name: node for node in graph.walk() for value in node.outputs}
    kept = _kept(graph, formats)
    wanted: dict[str, set[DType]] = defaultdict(set)
    for node in graph.walk():
        found = formats.get(node.outputs[0].name) if node.outputs else None
        if found is not None and not found.weights_only:
            for name in node.inputs[:2]:
                wanted[name].add(found.operands)
    found_types: dict[str, DType] = {}
    waiting = [(name, next(iter(types))) for name, types in wanted.items() if len(types) == 1]
    clashing = {name for name, types in wanted.items() if len(types) > 1}
    while waiting:
        name, dtype = waiting.pop()
        maker = makers.get(name)
        if name in found_types or name in kept or name in clashing or maker is None or not _is_f32(maker, name):
            continue
        found_types[name] = dtype
        if maker.op in _MOVING:
            waiting += [(operand, dtype) for operand in _moved(maker)]
    return found_types


def _kept(graph: Graph, formats: Mapping[str, ProductFormat]) -> set[str]:
    """Values that stay f32: outputs of any graph, what nested graphs are given, and what is read by a product that
    stays as it is.
    """
    kept: set[str] = set()
    for each in nested(graph):
        kept.update(each.outputs)
    for node in graph.walk():
        narrowed = formats.get(node.outputs[0].name) if node.outputs else None
        if node.graphs or (node.op in PRODUCTS and (narrowed is None or narrowed.weights_only)):
            kept.update(node.inputs)
    return kept


def _is_f32(node: Node, name: str) -> bool:
    return not node.graphs and len(node.outputs) == 1 and node.output.name == name and node.output.dtype is DType.F32


def _moved(node: Node) -> Iterable[str]:
    return node.inputs if node.op == "concat" else node.inputs[:1]


# -- the graph ---------------------------------------------------------------------------------------------------------


def _rewrite(site: Site, formats: Mapping[str, ProductFormat], stored: Mapping[str, DType]) -> Sequence[Value] | None:
    if len(site.node.outputs) != 1:
        return None
    name = site.node.output.name
    found, dtype = formats.get(name), stored.get(name)
    if found is None and dtype is None:
        return None
    b = site.builder
    with b.source(*site.node.provenance):
        if found is not None:
            made = _product(site, found)
        elif site.node.op in _MOVING:
            assert dtype is not None
            made = _moving(site, dtype)
        else:
            made = b.add(site.node.op, site.inputs, site.attrs, (), [name])[0]
        if dtype is not None:
            made = _wide(b, _narrow(b, made, dtype))
    return (made,)


def _product(site: Site, found: ProductFormat) -> Value:
    b = site.builder
    operands = [
        value if found.weights_only and b.array(value) is None else _narrow(b, value, found.operands)
        for value in (site.input(0), site.input(1))
    ]
    attrs = {**site.attrs, "result": DType.F32}
    return b.add(site.node.op, [*operands, *site.inputs[2:]], attrs, (), [site.node.output.name])[0]


def _moving(site: Site, dtype: DType) -> Value:
    """Moved as it is stored. The other operands say where to."""
    b, count = site.builder, len(site.inputs) if site.node.op == "concat" else 1
    first = [_narrow(b, site.input(i), dtype) for i in range(count)]
    return b.add(site.node.op, [*first, *site.inputs[count:]], site.attrs, (), [site.node.output.name])[0]


def _narrow(b: Builder, value: Value, dtype: DType) -> Value:
    """A value rounded: as it was before it was widened, where it was."""
    if value.dtype is dtype:
        return value
    maker = b.producer(value)
    if maker is not None and maker.op == "cast":
        source = b.lookup(maker.inputs[0])
        if source.dtype is dtype:
            return source
    return b.one("cast", [value], to=dtype)


def _wide(b: Builder, value: Value) -> Value:
    return b.one("cast", [value], to=DType.F32)
