"""Random ONNX models for property tests: many ops, odd attributes, odd shapes (empty axes and scalars too).

A `Case` is a model with data for its inputs. Its values carry whether they are *exact*: the same bits in every engine
(inputs, constants, and what only moves, compares or picks them). Ops that jump (floor, comparisons, argmax) or that
magnify rounding without bound (division, logarithm) take exact operands only: engines that round differently agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.random_graphs import moving, pointwise, reducing, windows
from tests.random_graphs.maker import F32, Maker, Val, data

OPSET = 20
OPS: tuple[Callable[[Maker], None], ...] = (*pointwise.OPS, *moving.OPS, *reducing.OPS, *windows.OPS)


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and `spice`: what unusual numbers are in them ("", "nan", "inf")."""

    model: onnx.ModelProto
    every: onnx.ModelProto  # the same with every value as an output
    feed: dict[str, np.ndarray]
    spice: str
    ancestors: dict[str, tuple[str, ...]]  # output -> every value that it depends on
    exact: dict[str, bool]  # output -> whether every engine gives the same bits

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs; said when a model is loaded, as an extent of 0 in a file means one that is not known."""
        return {name: array.shape for name, array in self.feed.items()}

    def ops_behind(self, output: str) -> set[str]:
        """The ops that an output depends on."""
        values = self.ancestors[output]
        return {node.op_type for node in self.model.graph.node if any(name in values for name in node.output)}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis shows a failing case."""
        fed = {name: f"{array.dtype.name}{list(array.shape)}" for name, array in self.feed.items()}
        printer.text(f"feed {fed} {self.spice}\n{onnx.printer.to_text(self.model)}")


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any], most_nodes: int = 10) -> Case:
    """A random model with its data."""
    g = Maker(draw)
    g.add_input(F32, g.shape(0, 4))
    for _ in range(draw(st.integers(1, most_nodes))):
        draw(st.sampled_from(OPS))(g)
    if not g.nodes:
        pointwise.unary(g)
    spice = draw(st.sampled_from(("", "", "", "", "nan", "inf")))
    seed = draw(st.integers(0, 10_000))
    weights = weights_of(g.nodes)
    feed = {
        # an infinite weight times the zero of a border is NaN only for who multiplies them
        v.name: data(v.dtype, v.shape, seed + i, "" if v.name in weights else spice)
        for i, v in enumerate(g.inputs)
    }
    return finish(g, feed, spice, draw)


def finish(g: Maker, feed: dict[str, np.ndarray], spice: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Case:
    """What nobody reads is an output; some of what is read is one as well."""
    read = {name for node in g.nodes for name in node.input}
    made = {name for node in g.nodes for name in node.output}
    results = [v for v in g.values if v.name in made]
    outputs = [v for v in results if v.name not in read]
    others = [v for v in results if v.name in read]
    if others:
        outputs += [v for v in draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if v not in outputs]
    graph = helper.make_graph(
        g.nodes,
        "random",
        [value_info(v) for v in g.inputs],
        [value_info(v) for v in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in g.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    exact = {v.name: v.exact for v in outputs}
    return Case(
        model,
        with_all_values(model, results),
        feed,
        spice,
        {v.name: ancestors(v.name, g.nodes) for v in outputs},
        exact,
    )


def ancestors(name: str, nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    """Every value that one depends on, itself included."""
    producer = {output: node for node in nodes for output in node.output}
    found, queue = {name}, [name]
    while queue:
        node = producer.get(queue.pop())
        for other in node.input if node is not None else ():
            if other and other not in found:
                found.add(other)
                queue.append(other)
    return tuple(sorted(found))


def with_all_values(model: onnx.ModelProto, results: Sequence[Val]) -> onnx.ModelProto:
    """The model with every value that a node makes as an output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    listed = {output.name for output in copy.graph.output}
    copy.graph.output.extend(value_info(v) for v in results if v.name not in listed)
    return copy


def value_info(value: Val) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def with_open_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with symbols for the extents of its inputs, equal extents by one symbol.

    Weights of convolutions keep theirs (a kernel's extent must be known), and so do extents of 0 and 1 (whether an
    operand is broadcast must be known).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = weights_of(model.graph.node)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if value.name not in weights and dim.dim_value > 1:
                dim.dim_param = f"d{dim.dim_value}"  # a oneof: this takes the number's place
    return copy


def weights_of(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of the values that convolutions have as weights or bias."""
    return {name for node in nodes if node.op_type.startswith("Conv") for name in node.input[1:]}
