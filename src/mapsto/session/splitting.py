"""One contraction on two devices: its output channels are shared out, and put together again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import reads
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.plan.placing import Considered

_CHANNELS = 16  # shares are multiples of them, as vectors and blocks of channels are
_GAIN = 1.2  # times as fast as the better device alone it must be expected to be, transfers included


@dataclass(frozen=True)
class _Splittable:
    """A contraction with constant weights: which inputs are cut along which axis, and the axis of the output."""

    cut: tuple[tuple[int, int], ...]
    axis: int
    channels: int


def worth_splitting(graph: Graph, works: Sequence[Considered], problem: PlacementProblem) -> dict[str, int]:
    """Contractions that two devices would do sooner together, by their outputs: how many of the channels the other
    device takes, in proportion to what both take alone.
    """
    found: dict[str, int] = {}
    producers = graph.producers
    for work, job in zip(works, problem.works, strict=True):
        contractions = [n for name in work.nodes if (n := producers[name]).op in ("conv", "matmul")]
        if len(contractions) != 1 or (how := _splittable(graph, contractions[0])) is None:
            continue
        host = job.seconds[HOST]
        other, seconds = min(((d, s) for d, s in enumerate(job.seconds) if d != HOST), key=lambda each: each[1],
                             default=(HOST, math.inf))  # fmt: skip
        if not 0 < seconds < math.inf or not 0 < host < math.inf:
            continue
        share = round(how.channels * host / (host + seconds) / _CHANNELS) * _CHANNELS
        brought = sum(problem.move(v, HOST, other) for v in job.reads)
        back = sum(problem.move(v, other, HOST) for v in job.writes)
        together = max(host * (1 - share / how.channels), seconds * share / how.channels + brought + back)
        if 0 < share < how.channels and together * _GAIN < min(host, seconds):
            found[contractions[0].outputs[0].name] = share
    return found


def channels_of(graph: Graph, value: str) -> int:
    """Output channels of the contraction that makes a value, if it can be split; else 0."""
    node = graph.producers.get(value)
    if node is None or node.op not in ("conv", "matmul") or node.outputs[0].name != value:
        return 0
    how = _splittable(graph, node)
    return 0 if how is None else how.channels


def split(graph: Graph, shares: Mapping[str, int]) -> Graph:
    """The graph with these contractions in two: the first so many of the last channels, which another device may take,
    before the others. Operations on single elements that follow are made of both. Raises KeyError for no contraction.
    """
    return _Splitting(graph, shares).graph()


class _Splitting:
    def __init__(self, graph: Graph, shares: Mapping[str, int]) -> None:
        self.source, self.shares = graph, shares
        self.constants = dict(graph.constants)
        self.names = set(graph.values())
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)

    def graph(self) -> Graph:
        nodes: list[Node] = []
        done: set[str] = set()
        for node in self.source.nodes:
            name = node.outputs[0].name if node.outputs else ""
            if name in done:
                continue
            if name in self.shares:
                chain = [node, *self._chain(node)]
                done |= {each.outputs[0].name for each in chain}
                nodes += self._halves(chain, self.shares[name])
            else:
                nodes.append(node)
        kept = {name for node in nodes for name in reads(node)} | set(self.source.outputs)
        constants = {name: array for name, array in self.constants.items() if name in kept}
        return replace(self.source, nodes=tuple(nodes), constants=constants, settled=False)

    def _chain(self, node: Node) -> Iterator[Node]:
        """What is done with single elements of its output alone, one after the other, and nobody else reads."""
        name = node.output.name
        while name not in self.source.outputs and len(self.readers.get(name, ())) == 1:
            (reader,) = self.readers[name]
            if reader.op not in _SINGLE or len(reader.inputs) != 1 or reader.graphs:
                return
            yield reader
            name = reader.output.name

    def _halves(self, chain: Sequence[Node], share: int) -> Iterator[Node]:
        how = _splittable(self.source, chain[0])
        assert how is not None, f"{chain[0].op} cannot be split"
        first = how.channels - share
        ends: dict[int, str] = {}
        for begin, stop in ((first, how.channels), (0, first)):
            inputs = list(chain[0].inputs)
            for at, axis in how.cut:
                inputs[at] = self._part(inputs[at], axis, begin, stop)
            for node in chain:
                made = self._half(node.output, how.axis, stop - begin)
                yield replace(node, inputs=tuple(inputs), outputs=(made,))
                inputs = [made.name]
            ends[begin] = inputs[0]
        joined = (ends[0], ends[first])
        yield Node("concat", joined, chain[-1].outputs, {"axis": how.axis}, (), chain[-1].provenance)

    def _part(self, name: str, axis: int, begin: int, stop: int) -> str:
        made = self._fresh(f"{name} {begin}..{stop}")
        self.constants[made] = np.ascontiguousarray(np.take(self.source.constants[name], range(begin, stop), axis))
        return made

    def _half(self, value: Value, axis: int, extent: int) -> Value:
        shape = (*value.shape[:axis], extent, *value.shape[axis + 1 :])
        return Value(self._fresh(f"{value.name} of {extent}"), value.dtype, shape)

    def _fresh(self, name: str) -> str:
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name


_SINGLE = {"relu", "leaky_relu", "sigmoid", "tanh", "elu", "erf", "exp", "neg", "abs", "sqrt", "softplus"}


def _splittable(graph: Graph, node: Node) -> _Splittable | None:
    weights = graph.constants.get(node.inputs[1])
    if weights is None:
        return None
    if node.op == "conv" and node.attrs.get("group") == 1:
        biased = len(node.inputs) > 2 and node.inputs[2]
        if biased and node.inputs[2] not in graph.constants:
            return None
        return _Splittable(((1, 0), *(((2, 0),) if biased else ())), 1, weights.shape[0])
    if node.op == "matmul" and weights.ndim == 2:
        return _Splittable(((1, 1),), node.output.rank - 1, weights.shape[1])
    return None
