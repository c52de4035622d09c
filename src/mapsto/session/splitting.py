"""One contraction on two devices: its output channels, its rows or its batch are shared out, and put together again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import reads
from mapsto.placement.problem import HOST, Job, PlacementProblem
from mapsto.plan.division import CHANNELS
from mapsto.plan.placing import Considered

_STEPS = {CHANNELS: 16, "rows": 8, "batch": 1}  # shares are multiples of them, as vectors, blocks and tiles are
_FEW = 64  # places: fewer are shared out one by one, but for channels
_CUTTING = 1.05  # times as long, what is cut out of values for other axes than channels: that may be a work of its own
_GAIN = 1.2  # times as fast as the better device alone it must be expected to be, transfers included


@dataclass(frozen=True)
class _Way:
    """axis: of the output, which is shared out, and its extent. cut: the inputs that are cut along with it, each along
    which axis. rows: of an image, which needs some rows more than its share (a halo). shares_all: no input that is
    moved is needed whole.
    """

    axis: int
    extent: int
    cut: tuple[tuple[int, int], ...]
    rows: _Rows | None = None
    shares_all: bool = False


@dataclass(frozen=True)
class _Rows:
    """How a convolution's window goes down an image of so many rows."""

    extent: int
    span: int  # rows that a window covers
    stride: int
    before: int  # rows of zeros above

    def of(self, begin: int, stop: int) -> tuple[int, int, int, int]:
        """What some of the output's rows read: the first row and the one behind the last, and rows of zeros above and
        below.
        """
        first, last = begin * self.stride - self.before, (stop - 1) * self.stride - self.before + self.span
        begins, ends = max(first, 0), min(last, self.extent)
        return begins, ends, begins - first, last - ends


@dataclass(frozen=True)
class Shares:
    """counts: of contractions, by their outputs, how many places of an axis the other device takes. axes: that axis,
    where it is not their channels.
    """

    counts: Mapping[str, int]
    axes: Mapping[str, str]


def worth_splitting(
    graph: Graph, works: Sequence[Considered], problem: PlacementProblem, axes: Sequence[str] = tuple(_STEPS)
) -> Shares:
    """Contractions that two devices would do sooner together, each along the axis (of `axes`) by which that is
    soonest: the other device takes a share in proportion to what both take alone.
    """
    counts: dict[str, int] = {}
    chosen: dict[str, str] = {}
    producers, values = graph.producers, graph.values()
    for work, job in zip(works, problem.works, strict=True):
        contractions = [n for name in work.nodes if (n := producers[name]).op in ("conv", "matmul")]
        if len(contractions) != 1:
            continue
        found = [(*share, axis) for axis, way in _ways(graph, values, contractions[0]).items() if axis in axes
                 if (share := _share(way, _step(axis, way), job, problem)) is not None]  # fmt: skip
        if found:
            name = contractions[0].outputs[0].name
            _, counts[name], axis = min(found, key=lambda each: each[0] * (1 if each[2] == CHANNELS else _CUTTING))
            if axis != CHANNELS:
                chosen[name] = axis
    return Shares(counts, chosen)


def _step(axis: str, way: _Way) -> int:
    return _STEPS[axis] if axis == CHANNELS or way.extent >= _FEW else 1


def _share(way: _Way, step: int, job: Job, problem: PlacementProblem) -> tuple[float, int] | None:
    """What both devices take together, and the share of the other one; None: it is not worth while."""
    host = job.seconds[HOST]
    other, seconds = min(((d, s) for d, s in enumerate(job.seconds) if d != HOST), key=lambda each: each[1],
                         default=(HOST, math.inf))  # fmt: skip
    if not 0 < seconds < math.inf or not 0 < host < math.inf:
        return None
    share = round(way.extent * host / (host + seconds) / step) * step
    if not 0 < share < way.extent:
        return None
    part = share / way.extent
    brought = sum(_moved(problem, v, HOST, other, part if way.shares_all else 1.0) for v in job.reads)
    back = sum(_moved(problem, v, other, HOST, part) for v in job.writes)
    begins = problem.begins or (0.0,) * len(problem.devices)
    together = max(host * (1 - part), begins[other] + brought + seconds * part + back) + begins[HOST]
    return (together, share) if together * _GAIN < min(host, seconds) else None


def _moved(problem: PlacementProblem, value: int, a: int, b: int, part: float) -> float:
    """Seconds of the transfer of a part of a value."""
    link = problem.links.get((a, b))
    return math.inf if link is None else link.seconds(part * problem.values[value])


def extents_of(graph: Graph, value: str) -> dict[str, int]:
    """The axes along which the contraction that makes a value can be split, with their extents; none where it cannot
    be.
    """
    node = graph.producers.get(value)
    if node is None or node.op not in ("conv", "matmul") or node.outputs[0].name != value:
        return {}
    return {axis: way.extent for axis, way in _ways(graph, graph.values(), node).items()}


def split(graph: Graph, shares: Mapping[str, int], axes: Mapping[str, str] | None = None) -> Graph:
    """The graph with these contractions in two: the first so many of the last places of an axis (channels, where `axes`
    says nothing else), which another device may take, before the others. Operations on single elements that follow are
    made of both. Raises KeyError for no contraction.
    """
    return _Splitting(graph, shares, axes or {}).graph()


class _Splitting:
    def __init__(self, graph: Graph, shares: Mapping[str, int], axes: Mapping[str, str]) -> None:
        self.source, self.shares, self.axes = graph, shares, axes
        self.constants = dict(graph.constants)
        self.values = graph.values()
        self.names = set(self.values)
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
                way = _ways(self.source, self.values, node)[self.axes.get(name, CHANNELS)]
                nodes += self._halves(chain, way, self.shares[name])
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

    def _halves(self, chain: Sequence[Node], way: _Way, share: int) -> Iterator[Node]:
        first = way.extent - share
        ends: dict[int, str] = {}
        node = chain[0]
        for begin, stop in ((first, way.extent), (0, first)):
            inputs, attrs = list(node.inputs), dict(node.attrs)
            low, high = begin, stop
            if way.rows is not None:
                low, high, above, below = way.rows.of(begin, stop)
                attrs["pads"] = _with_pads(node.attrs, above, below)
            for at, axis in way.cut:
                inputs[at], cutting = self._part(inputs[at], axis, low, high, node)
                yield from cutting
            for each in chain:
                made = self._half(each.output, way.axis, stop - begin)
                kept = attrs if each is node else each.attrs
                yield replace(each, inputs=tuple(inputs), outputs=(made,), attrs=kept)
                inputs = [made.name]
            ends[begin] = inputs[0]
        joined = (ends[0], ends[first])
        yield Node("concat", joined, chain[-1].outputs, {"axis": way.axis}, (), chain[-1].provenance)

    def _part(self, name: str, axis: int, begin: int, stop: int, node: Node) -> tuple[str, list[Node]]:
        """Some places of an input: a constant, or what a node cuts out."""
        value = self.values[name]
        if (begin, stop) == (0, value.shape[axis]):
            return name, []
        made = self._fresh(f"{name} {begin}..{stop}")
        if name in self.source.constants:
            self.constants[made] = np.ascontiguousarray(np.take(self.source.constants[name], range(begin, stop), axis))
            return made, []
        shape = (*value.shape[:axis], stop - begin, *value.shape[axis + 1 :])
        starts = tuple(begin if k == axis else 0 for k in range(value.rank))
        attrs: dict[str, Any] = {"starts": starts, "steps": (1,) * value.rank, "shape": shape}
        return made, [Node("slice", (name,), (Value(made, value.dtype, shape),), attrs, (), node.provenance)]

    def _half(self, value: Value, axis: int, extent: int) -> Value:
        shape = (*value.shape[:axis], extent, *value.shape[axis + 1 :])
        return Value(self._fresh(f"{value.name} of {extent}"), value.dtype, shape)

    def _fresh(self, name: str) -> str:
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name


_SINGLE = {"relu", "leaky_relu", "sigmoid", "tanh", "elu", "erf", "exp", "neg", "abs", "sqrt", "softplus"}


def _with_pads(attrs: Mapping[str, Any], above: int, below: int) -> tuple[Any, ...]:
    pads = attrs["pads"]
    rank = len(pads) // 2
    return (above, *pads[1:rank], below, *pads[rank + 1 :])


def _ways(graph: Graph, values: Mapping[str, Value], node: Node) -> dict[str, _Way]:
    """The axes along which a contraction can be split."""
    shapes = [values[name].shape for name in node.inputs[:2]]
    if node.op == "conv":
        found = {CHANNELS: _channels_of_conv(graph, node), "rows": _rows_of_conv(node, *shapes)}
        if isinstance(count := shapes[0][0], int):
            found["batch"] = _Way(0, count, ((0, 0),), shares_all=node.inputs[1] in graph.constants)
    else:
        found = {CHANNELS: _channels_of_matmul(graph, node), **_rows_and_batch_of_matmul(graph, node, *shapes)}
    return {axis: way for axis, way in found.items() if way is not None and way.extent > 1}


def _channels_of_conv(graph: Graph, node: Node) -> _Way | None:
    weights = graph.constants.get(node.inputs[1])
    biased = len(node.inputs) > 2 and node.inputs[2]
    if weights is None or node.attrs.get("group") != 1 or (biased and node.inputs[2] not in graph.constants):
        return None
    return _Way(1, weights.shape[0], ((1, 0), *(((2, 0),) if biased else ())))


def _rows_of_conv(node: Node, x: Sequence[Any], w: Sequence[Any]) -> _Way | None:
    """Of the first axis of the image. Each row reads at least one that is no padding."""
    rank = len(x) - 2
    attrs: Mapping[str, Any] = node.attrs
    extent, above, below = node.output.shape[2], attrs["pads"][0], attrs["pads"][rank]
    if not isinstance(extent, int) or not all(isinstance(each, int) for each in (x[2], w[2], above, below)):
        return None
    span = attrs["dilations"][0] * (w[2] - 1) + 1
    if max(above, below) >= span:
        return None
    return _Way(2, extent, ((0, 2),), _Rows(x[2], span, attrs["strides"][0], above), shares_all=True)


def _channels_of_matmul(graph: Graph, node: Node) -> _Way | None:
    weights = graph.constants.get(node.inputs[1])
    if weights is None or weights.ndim != 2:
        return None
    return _Way(node.output.rank - 1, weights.shape[1], ((1, 1),))


def _rows_and_batch_of_matmul(graph: Graph, node: Node, a: Sequence[Any], b: Sequence[Any]) -> dict[str, _Way]:
    found: dict[str, _Way] = {}
    rank = node.output.rank
    moves_b = node.inputs[1] not in graph.constants
    if len(a) > 1 and isinstance(a[-2], int):
        axis = rank - 1 - (len(b) > 1)
        found["rows"] = _Way(axis, a[-2], ((0, len(a) - 2),), shares_all=not moves_b)
    batch = node.output.shape[0] if max(len(a), len(b)) > 2 else None
    if isinstance(batch, int):
        sides = [k for k, shape in enumerate((a, b)) if len(shape) == max(len(a), len(b)) and shape[0] != 1]
        if sides and all((a, b)[k][0] == batch for k in sides):
            found["batch"] = _Way(0, batch, tuple((k, 0) for k in sides), shares_all=not moves_b or 1 in sides)
    return found
