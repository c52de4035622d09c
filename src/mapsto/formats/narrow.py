"""The graph in which some products of f32 are products of halves or of integers, and what they read is stored as such.

    z = conv(x, w)   ->   z = conv(bf16(x), bf16(w)), summed in f32; or of quantised ones (`integers`)

What such a product reads is rounded once, by whatever makes it, and all that read it read the rounded one: half the
bytes. It stays f32 where it is an input or an output of the graph, or where a product that is not narrowed reads it
too: then a second, rounded one lies beside it. What only moves such a value (a concatenation, a pooling by maxima)
moves the rounded one, and its own operands are stored so as well.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mapsto.formats.blocks import BlockConstants
from mapsto.formats.chosen import PRODUCTS, ChosenFormat
from mapsto.formats.integers import integer_product
from mapsto.formats.stored import Stored
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import nested
from mapsto.ops.builder import Builder
from mapsto.passes.moving import MOVING, moved
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site


@dataclass(frozen=True)
class Narrowed:
    """A pass: these products in their formats."""

    chosen: tuple[ChosenFormat, ...]
    name: str = "number-formats"

    def __call__(self, graph: Graph) -> Graph:
        formats = {each.value: each for each in self.chosen if each.format is not None}
        if not formats:
            return graph
        return rewritten(graph, _Narrowing(formats, _stored(graph, formats)).rewrite)


# -- which values are stored rounded -----------------------------------------------------------------------------------


def _stored(graph: Graph, formats: Mapping[str, ChosenFormat]) -> dict[str, Stored]:
    """How each value that is not stored as f32 is."""
    makers = {value.name: node for node in graph.walk() for value in node.outputs}
    values = {name: value for each in nested(graph) for name, value in each.values().items()}
    kept = _kept(graph, formats)
    wanted: dict[str, set[Stored]] = defaultdict(set)
    for node in graph.walk():
        each = formats.get(node.outputs[0].name) if node.outputs else None
        if each is not None and each.stored is not None:
            for name in node.inputs[:2]:
                wanted[name].add(each.stored)
    kept |= {name for name, every in wanted.items() if len(every) > 1}
    found: dict[str, Stored] = {}
    waiting = [(name, stored) for name, every in wanted.items() for stored in every]
    while waiting:
        name, stored = waiting.pop()
        maker = makers.get(name)
        if name in found or name in kept or maker is None or not _is_f32(maker, name):
            continue
        found[name] = stored
        shapes = [values[operand].shape for operand in moved(maker)] if maker.op in MOVING else []
        before = zip(moved(maker), _before(maker, shapes, stored), strict=False)
        waiting += [(operand, own) for operand, own in before if operand not in wanted]
    return found


def _before(node: Node, shapes: Sequence[Sequence[Dim]], stored: Stored) -> list[Stored]:
    """How the operands that a node moves are stored, of these shapes: rounding before is rounding after. None of them:
    it moves nothing, or channels that have scales of their own to where they are no channels.
    """
    if node.op not in MOVING:
        return []
    axis = node.output.rank - 1 - stored.after
    if not stored.has_channels or node.op == "max_pool" or (node.op == "concat" and node.attrs["axis"] != axis):
        return [stored] * len(shapes)
    extents = [shape[axis] for shape in shapes]
    if node.op != "concat" or not all(isinstance(extent, int) for extent in extents):
        return []
    ends = list(itertools.accumulate(int(str(extent)) for extent in extents))
    return [stored.of(slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _kept(graph: Graph, formats: Mapping[str, ChosenFormat]) -> set[str]:
    """Values that stay f32: outputs of any graph, what nested graphs are given, and what is read by a product that
    stays as it is.
    """
    kept: set[str] = set()
    for each in nested(graph):
        kept.update(each.outputs)
    for node in graph.walk():
        narrowed = formats.get(node.outputs[0].name) if node.outputs else None
        if node.graphs or (node.op in PRODUCTS and (narrowed is None or narrowed.stored is None)):
            kept.update(node.inputs)
    return kept


def _is_f32(node: Node, name: str) -> bool:
    return not node.graphs and len(node.outputs) == 1 and node.output.name == name and node.output.dtype is DType.F32


# -- the graph ---------------------------------------------------------------------------------------------------------


@dataclass
class _Narrowing:
    """A graph on its way. known: values that were widened, by name: how they are stored, and as what."""

    formats: Mapping[str, ChosenFormat]
    stored: Mapping[str, Stored]
    known: dict[str, tuple[Stored, Value]] = field(default_factory=dict)
    blocks: BlockConstants = field(default_factory=BlockConstants)

    def rewrite(self, site: Site) -> Sequence[Value] | None:
        if len(site.node.outputs) != 1:
            return None
        name = site.node.output.name
        found, lies = self.formats.get(name), self.stored.get(name)
        if found is None and lies is None:
            return None
        b = site.builder
        with b.source(*site.node.provenance):
            if found is not None:
                made = self._product(site, found)
            elif lies is not None and (before := _before(site.node, [v.shape for v in _moved(site)], lies)):
                return (self._widened(b, self._as_stored(site, before), lies),)
            else:
                made = b.add(site.node.op, site.inputs, site.attrs, (), [name])[0]
            return (made if lies is None else self._widened(b, lies.narrow(b, made), lies),)

    def _widened(self, b: Builder, narrow: Value, lies: Stored) -> Value:
        wide = lies.wide(b, narrow)
        self.known[wide.name] = lies, narrow
        return wide

    def _narrow(self, b: Builder, value: Value, stored: Stored) -> Value:
        """A value as it is stored, or rounded now."""
        lies, narrow = self.known.get(value.name, (None, value))
        return narrow if lies == stored else stored.narrow(b, value)

    def _product(self, site: Site, found: ChosenFormat) -> Value:
        b = site.builder
        assert found.format is not None
        if found.format.is_in_blocks:
            return self.blocks.product(site, found.format.operands)
        if found.format.is_quantised:
            assert found.stored is not None
            return integer_product(site, self._narrow(b, site.input(0), found.stored), found.stored)
        rounded, weights_only = Stored(found.format.operands), found.format.weights_only
        operands = [
            value if weights_only and b.array(value) is None else self._narrow(b, value, rounded)
            for value in (site.input(0), site.input(1))
        ]
        attrs = {**site.attrs, "result": DType.F32}
        return b.add(site.node.op, [*operands, *site.inputs[2:]], attrs, (), [site.node.output.name])[0]

    def _as_stored(self, site: Site, before: Sequence[Stored]) -> Value:
        """Moved as it is stored; operands that are not say where to."""
        b = site.builder
        first = [self._narrow(b, value, lies) for value, lies in zip(_moved(site), before, strict=True)]
        rest = site.inputs[len(first) :]
        return b.add(site.node.op, [*first, *rest], site.attrs, (), [site.node.output.name])[0]


def _moved(site: Site) -> list[Value]:
    """The operands whose elements the results are, of a node that moves."""
    return [site.input(i) for i in range(len(moved(site.node)))] if site.node.op in MOVING else []
