"""Runs a graph by the ops' numpy references: the meaning of a graph, and a test of every shape rule on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.errors import ExecutionError, MapstoError, ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import bare_symbol, evaluate, symbols
from mapsto.ir.graph import Graph, Node, Value, binds
from mapsto.ir.region import reads
from mapsto.ops.registry import RunNested, evaluated_attrs, op

Observer = Callable[[Node, Sequence[Array]], None]


@dataclass
class _Run:
    """One run's settings. `wide`: f32 is computed in f64."""

    wide: bool
    observe: Observer | None
    sizes: dict[str, int] = field(default_factory=dict)

    def dtype(self, dtype: DType) -> DType:
        return DType.F64 if self.wide and dtype is DType.F32 else dtype

    def array(self, array: Array) -> Array:
        return array.astype(np.float64) if self.wide and array.dtype == np.float32 else array


def run_graph(
    graph: Graph, inputs: Mapping[str, Any], *, wide: bool = False, observe: Observer | None = None
) -> dict[str, Array]:
    """The outputs of a graph, by name.

    inputs: an array for each graph input; sizes are taken from their shapes. wide: everything that is f32 is computed
    in f64, for an answer to measure errors against (outputs are f64 then). observe(node, outputs): called after each
    node.

    Raises ShapeError for wrong inputs, ExecutionError where the run itself fails: a size below zero, an index out of
    range, a `fail` reached.
    """
    run = _Run(wide, observe)
    unknown = sorted(set(inputs) - {v.name for v in graph.inputs})
    if unknown:
        raise ShapeError(f"graph {graph.name}: there is no input named {', '.join(unknown)}; it has {_names(graph)}")
    given: dict[str, Array] = {}
    for value in graph.inputs:
        if value.name not in inputs:
            raise ShapeError(f"graph {graph.name}: input {value.name!r} is missing; it has {_names(graph)}")
        given[value.name] = _accepted(value, np.asarray(inputs[value.name]), run.sizes)
    for value in graph.inputs:
        _check_shape(value, given[value.name].shape, run.sizes)
    with np.errstate(all="ignore"):
        return _run(graph, {n: run.array(a) for n, a in given.items()}, run)


def _names(graph: Graph) -> str:
    return ", ".join(v.name for v in graph.inputs) or "none"


def _accepted(value: Value, array: Array, sizes: dict[str, int]) -> Array:
    """The array, its type checked; takes the sizes that it defines."""
    if array.dtype != value.dtype.numpy:
        raise ShapeError(f"input {value.name!r} is {array.dtype}, expected {value.dtype.value}")
    if array.ndim != value.rank:
        raise ShapeError(f"input {value.name!r} has the shape {list(array.shape)}, expected {value}")
    _take_sizes(value, array.shape, sizes)
    return array


def _take_sizes(value: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """An axis whose extent is a symbol alone says what the symbol is."""
    for dim, extent in zip(value.shape, shape, strict=True):
        name = bare_symbol(dim)
        if name is not None:
            sizes.setdefault(name, extent)


def _take_bound(node: Node, results: Sequence[Array], sizes: dict[str, int]) -> None:
    """The sizes of a node's results that it alone decides."""
    for name in binds(node):
        sizes.pop(name, None)
    for value, result in zip(node.outputs, results, strict=True):
        _take_sizes(value, result.shape, sizes)


def _check_shape(value: Value, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
    for axis, (dim, extent) in enumerate(zip(value.shape, shape, strict=True)):
        missing = symbols(dim) - set(sizes)
        if missing:
            raise ShapeError(f"input {value.name!r}: nothing says the size {', '.join(sorted(missing))} of axis {axis}")
        if evaluate(dim, sizes) != extent:
            raise ShapeError(
                f"input {value.name!r}: axis {axis} has {extent} elements, expected {dim} = {evaluate(dim, sizes)}"
            )


def _run(graph: Graph, values: dict[str, Array], run: _Run) -> dict[str, Array]:
    """Runs a graph whose inputs, and the values of the graphs around it, are in `values`."""
    for name, constant in graph.constants.items():
        values[name] = run.array(constant)
    last = _last_uses(graph)
    own = set(graph.values())
    for at, node in enumerate(graph.nodes):
        results = _run_node(node, values, run)
        for value, array in zip(node.outputs, results, strict=True):
            values[value.name] = array
        if run.observe is not None:
            run.observe(node, results)
        for name in last.get(at, ()):
            if name in own:
                values.pop(name, None)
    return {name: values[name] for name in graph.outputs}


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """Node place -> values that nothing reads after it."""
    last: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        for name in reads(node) | {v.name for v in node.outputs}:
            last[name] = at
    found: dict[int, list[str]] = {}
    for name, at in last.items():
        if name not in graph.outputs:
            found.setdefault(at, []).append(name)
    return found


def _run_node(node: Node, values: dict[str, Array], run: _Run) -> list[Array]:
    inputs = [values[name] if name else None for name in node.inputs]
    try:
        if node.op == "bind_dim":
            assert inputs[0] is not None
            return _bind(node, inputs[0], run)
        spec = op(node.op)
        attrs = evaluated_attrs(node.attrs, run.sizes)
        attrs = {k: run.dtype(a) if isinstance(a, DType) else a for k, a in attrs.items()}
        if spec.nesting is not None:
            results = spec.nesting.run(inputs, attrs, _nested(node, values, run))
            _take_bound(node, results, run.sizes)
            shapes = [_extents(v, run.sizes) for v in node.outputs]
        else:
            shapes = [_extents(v, run.sizes) for v in node.outputs]
            assert spec.reference is not None, f"{node.op} has no reference"
            results = [np.asarray(r) for r in spec.reference(inputs, attrs, shapes)]
    except MapstoError as error:
        raise type(error)(f"{_where(node)}: {error}") from error
    except (ValueError, IndexError, KeyError) as error:
        raise ExecutionError(f"{_where(node)}: {error}") from error
    _check_results(node, results, shapes, run)
    return results


def _where(node: Node) -> str:
    source = f" (from {', '.join(node.provenance)})" if node.provenance else ""
    return f"{node.op} -> {', '.join(v.name for v in node.outputs) or 'nothing'}{source}"


def _extents(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(evaluate(d, sizes) for d in value.shape)
    if any(d < 0 for d in shape):
        raise ExecutionError(f"the shape of {value} came out as {list(shape)}")
    return shape


def _check_results(node: Node, results: list[Array], shapes: list[tuple[int, ...]], run: _Run) -> None:
    """What the reference gives is what the shape rule said."""
    assert len(results) == len(node.outputs), f"{_where(node)}: {len(results)} results for {len(node.outputs)} outputs"
    for value, result, shape in zip(node.outputs, results, shapes, strict=True):
        wanted = run.dtype(value.dtype)
        if result.shape != shape or from_numpy(result.dtype) is not wanted:
            raise ExecutionError(
                f"{_where(node)}: inferred {wanted.value}{list(shape)}, "
                f"the reference gives {result.dtype}{list(result.shape)}"
            )


def _bind(node: Node, scalar: Array, run: _Run) -> list[Array]:
    size = int(scalar.reshape(()))
    if size < 0:
        what = str(node.attrs.get("what", ""))
        raise ExecutionError(f"{f'{what}: ' if what else ''}the size {node.attrs['symbol']} came out as {size}")
    run.sizes[str(node.attrs["symbol"])] = size
    return []


def _nested(node: Node, values: Mapping[str, Array], run: _Run) -> RunNested:
    """Runs a node's nested graphs: beside what they are given they know the values and sizes around them."""

    def run_one(number: int, arguments: Sequence[Array]) -> list[Array]:
        graph = node.graphs[number]
        inside = replace(run, sizes=dict(run.sizes))
        for value, array in zip(graph.inputs, arguments, strict=True):
            _take_sizes(value, array.shape, inside.sizes)
        for value, array in zip(graph.inputs, arguments, strict=True):
            _check_shape(value, array.shape, inside.sizes)
        given = {value.name: array for value, array in zip(graph.inputs, arguments, strict=True)}
        outputs = _run(graph, {**values, **given}, inside)
        return [outputs[name] for name in graph.outputs]

    return run_one
