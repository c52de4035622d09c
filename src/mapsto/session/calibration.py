"""Data by which values are quantised: examples for a model's inputs, run through it to see what its values are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.errors import ArgumentError
from mapsto.formats.equalise import ReadingWeights, groups_of
from mapsto.formats.ranges import CALIBRATORS, USUAL, SeenRange, SeenValue, seen_range
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.runtime.executable import Executable

_AT_ONCE = 16  # examples, where the model takes any number

Example = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Examples by which values are quantised, and how: `calibrator` chooses a range of what was seen (docs/formats.md).

    data: a dict of arrays by the names of inputs, with all examples along the first axis of each; or a list of such
    dicts, one a run. Arrays that are no input's are left alone. Raises ArgumentError.
    """

    data: Any
    calibrator: str = USUAL

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise ArgumentError(f"calibrator: {brief(self.calibrator)}; there are {', '.join(CALIBRATORS)}")
        if not self.is_stacked and (not isinstance(self.data, (list, tuple)) or not self.data):
            such = "a dict of arrays with examples along their first axes, or a list of dicts, one a run"
            raise ArgumentError(f"calibration: expected {such}; got {brief(self.data)}")
        for feed in [self.data] if self.is_stacked else self.data:
            if not isinstance(feed, Mapping) or not all(isinstance(name, str) for name in feed):
                raise ArgumentError(f"calibration: expected a dict of arrays by names, got {brief(feed)}")

    @property
    def is_stacked(self) -> bool:
        return isinstance(self.data, Mapping)

    @property
    def feeds(self) -> list[dict[str, np.ndarray]]:
        """One a run; or one, of all examples."""
        every = [self.data] if self.is_stacked else self.data
        return [{name: np.asarray(array) for name, array in feed.items()} for feed in every]

    @property
    def digest(self) -> str:
        found = hashlib.sha256(f"{self.calibrator} {self.is_stacked}".encode())
        for feed in self.feeds:
            for name, array in sorted(feed.items()):
                found.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogatepass"))
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def runs(self, inputs: Sequence[Value], whole: bool = False) -> Iterator[Example]:
        """What each run of a graph with these inputs is given; with `whole`, others of the arrays as well, as labels,
        where they are of as many examples. Raises ArgumentError where an input lacks data.
        """
        names = [value.name for value in inputs]
        for feed in self.feeds:
            if missing := [name for name in names if name not in feed]:
                raise ArgumentError(f"calibration: no data for {', '.join(missing)}; there is {', '.join(feed)}")
        if not self.is_stacked:
            yield from (feed if whole else {name: feed[name] for name in names} for feed in self.feeds)
            return
        (arrays,) = self.feeds
        counts = {arrays[value.name].shape[0] if arrays[value.name].ndim else 0 for value in inputs}
        if len(counts) != 1 or 0 in counts:
            raise ArgumentError("calibration: every array holds as many examples as the others, along its first axis")
        firsts = {dim for value in inputs for dim in value.shape[:1] if isinstance(dim, int)}
        count = counts.pop()
        size = min(firsts, default=max(min(_AT_ONCE, count // 2), 1))
        if len(firsts) > 1 or size < 1 or count < size:
            raise ArgumentError(f"calibration: {count} examples, but the model takes {size} at a time")
        if whole:
            names = [name for name, array in arrays.items() if array.shape[:1] == (count,)]
        for start in range(0, count - size + 1, size):
            yield {name: arrays[name][start : start + size] for name in names}


def ranges_of(
    graph: Graph, calibration: Calibration, build: Callable[[Graph], Executable]
) -> dict[str, SeenRange]:
    """What the values that products of a graph read were seen to be, by name. build: makes an executable of a graph.

    The data is gone through twice: for ranges, by which channels are made alike, then for histograms.
    """
    from mapsto.passes import DeadCode

    readers = {name: _channels_read(graph, name) for name in _read_by_products(graph)}
    names = list(readers)
    given = {value.name for value in graph.inputs}
    made = tuple(name for name in names if name not in given)
    found = {name: SeenValue(axis) for name, (axis, _) in readers.items()}
    exe = build(DeadCode()(_yielding(graph, made))) if made else None
    for see in (SeenValue.widen, SeenValue.count):
        for feed in calibration.runs(graph.inputs):
            outputs = {} if exe is None else exe.run({port.name: feed[port.name] for port in exe.inputs})
            for name in names:
                see(found[name], np.asarray(outputs[name] if name in outputs else feed[name]))
        if see is SeenValue.widen:
            for name, (_, weights) in readers.items():
                found[name].equalise(weights, calibration.calibrator)
    return {name: seen_range(seen, calibration.calibrator) for name, seen in found.items()}


def _yielding(graph: Graph, names: tuple[str, ...]) -> Graph:
    """The graph with these values as its outputs."""
    return Graph(graph.name, graph.inputs, names, graph.nodes, graph.constants)


def _read_by_products(graph: Graph) -> list[str]:
    """Values of f32, by name, that a product of the outermost graph reads first and that no constant is."""
    from mapsto.formats.chosen import PRODUCTS

    values = graph.values()
    names = (node.inputs[0] for node in graph.nodes if node.op in PRODUCTS)
    return [n for n in dict.fromkeys(names) if n not in graph.constants and values[n].dtype is DType.F32]


def _channels_read(graph: Graph, name: str) -> tuple[int | None, list[ReadingWeights]]:
    """Along which axis the channels of a value lie that products sum over, and the weights that it is multiplied by;
    None where that is not one axis of a known extent for all of them.
    """
    from mapsto.formats.chosen import PRODUCTS

    value = graph.values()[name]
    products = [node for node in graph.nodes if node.op in PRODUCTS and node.inputs[0] == name]
    weights = [
        ReadingWeights(node.op, w, groups_of(node.attrs))
        for node in products
        if (w := graph.constants.get(node.inputs[1])) is not None and (node.op == "conv" or w.ndim == 2)
    ]
    if len({each.op for each in weights}) != 1:
        return None, []
    axis = 1 if weights[0].op == "conv" else value.rank - 1
    channels = value.shape[axis]
    if channels == 0 or any(each.channels != channels for each in weights):
        return None, []
    return axis, weights
