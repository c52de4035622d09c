"""Walks a graph of ATen calls node by node and builds ours: the way in for exported programs, and for the graphs that
torch's compiler makes, forward and backward.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import unset_fake_temporarily

import mapsto.importers.torch.rows  # noqa: F401  (registers the rows)
from mapsto.errors import MapstoError, ModelError, UnsupportedError
from mapsto.importers.quantised import QuantisedValues
from mapsto.importers.torch.places import name_of, place_of
from mapsto.importers.torch.results import TracedResult, TracedResults, Wanted
from mapsto.importers.torch.scalars import SCALARS
from mapsto.importers.torch.symbols import TracedSizes
from mapsto.importers.torch.table import AtenCall, Drawn, find_row
from mapsto.importers.torch.tensors import array_of, dtype_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Graph, Value
from mapsto.ops.arranging import reshape, transpose
from mapsto.ops.builder import Builder
from mapsto.passes.retrace import settled

RUN = "random.run"  # the input that makes draws differ from run to run
_FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Supplied:
    """What a placeholder of torch's graph stands for: a tensor whose elements are constants (`held`), a number of the
    program (`number`), else an input of this name. order: its axes as they lie in memory, outermost first, where the
    tensor is not row-major (None: it is, or shall be copied): the input then has them in this order.
    """

    name: str
    held: Any = None
    number: Any = None
    is_number: bool = False
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Imported:
    """A graph; which placeholders its inputs are; what is drawn for those behind them; what its results are. orders: of
    placeholders whose axes are in another order in the graph, that order.
    """

    graph: Graph
    inputs: tuple[int, ...]
    results: tuple[TracedResult, ...]
    drawn: tuple[Drawn, ...] = ()
    orders: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class _Walk:
    """One import: what the nodes so far have become."""

    builder: Builder
    sizes: TracedSizes
    known: dict[Any, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    missing: set[Any] = field(default_factory=set)  # nodes that stand on what is unsupported
    inputs: list[int] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    quantised: QuantisedValues = field(default_factory=QuantisedValues)
    run: Callable[[], Value] | None = None
    orders: dict[int, tuple[int, ...]] = field(default_factory=dict)


def translate(
    module: Any,
    feeds: Sequence[Supplied],
    name: str = "module",
    names: Mapping[str, str] | None = None,
    results: Sequence[str] = (),
    learns: bool = False,
    shown: int | None = None,
) -> Imported:
    """The graph of an `fx.GraphModule` of functional ATen calls; feeds: what its placeholders are, in order; names:
    better names for torch's symbols; results: names of the program's results, where they have some; learns: whether a
    gradient will be taken of the graph. shown: how many of the results somebody may write into (None: all); the others
    may share memory where the module copies.

    Raises UnsupportedError with all calls that there is no row for.
    """
    with unset_fake_temporarily():  # constants of the graph are real
        walk = _Walk(Builder(name), TracedSizes(names))
        walk.run = _run_of(walk.builder) if learns else None
        return _translated(walk, module, feeds, results, shown)


def _run_of(builder: Builder) -> Callable[[], Value]:
    """Gives an input that makes draws differ from run to run, the same one whenever it is asked for."""
    made: list[Value] = []

    def run() -> Value:
        if not made:
            made.append(builder.input(RUN, DType.U64, ()))
        return made[0]

    return run


def _translated(
    walk: _Walk, module: Any, feeds: Sequence[Supplied], results: Sequence[str], shown: int | None
) -> Imported:
    nodes = list(module.graph.nodes)
    _placeholders(walk, [node for node in nodes if node.op == "placeholder"], feeds)
    for node in nodes:
        if node.op == "get_attr":
            _attribute(walk, module, node)
        elif node.op == "call_function":
            _call(walk, node)
        elif node.op not in ("placeholder", "output"):
            walk.faults.append(f"{place_of(node)}: a {node.op} of {node.target} is no ATen call")
    _raise(walk.faults)
    (output,) = [node for node in nodes if node.op == "output"]
    return _finished(walk, output, [node for node in nodes if node.op == "placeholder"], results, shown)


def _raise(faults: Sequence[str]) -> None:
    if not faults:
        return
    unique = tuple(dict.fromkeys(faults))
    listed = "\n  ".join(unique)
    error = UnsupportedError(unique[0] if len(unique) == 1 else f"{len(unique)} calls are not supported:\n  {listed}")
    error.faults = unique
    raise error


# -- placeholders ------------------------------------------------------------------------------------------------------


def _placeholders(walk: _Walk, nodes: Sequence[Any], feeds: Sequence[Supplied]) -> None:
    """Tensors first that have a bare symbol for an extent, so that whatever others say in it is known."""
    assert len(nodes) == len(feeds), (len(nodes), len(feeds))
    scalars = []
    for at, (node, feed) in enumerate(zip(nodes, feeds, strict=True)):
        held = node.meta.get("val")
        if feed.is_number:
            walk.known[node] = feed.number
        elif feed.held is not None:
            walk.known[node] = walk.builder.constant(array_of(feed.held), feed.name)
        elif isinstance(held, torch.Tensor):
            shared = [each for each in walk.inputs if feeds[each].name == feed.name]
            if shared:  # one tensor by several names
                walk.known[node] = walk.known[nodes[shared[0]]]
            else:
                _input(walk, at, node, feed, held)
        elif isinstance(held, (torch.SymInt, int, torch.SymFloat, float)) and not isinstance(held, bool):
            scalars.append((at, node, feed, held))
        else:
            walk.known[node] = held
    for at, node, feed, held in scalars:
        _number(walk, at, node, feed, held)


def _input(walk: _Walk, at: int, node: Any, feed: Supplied, held: Any) -> None:
    name, shape = feed.name, list[Dim]()
    for axis, size in enumerate(held.shape):
        dim = walk.sizes.dim(size)
        if dim is None:
            symbol = walk.sizes.symbol(size)
            fresh = walk.builder.fresh(f"{name}_{axis}")
            dim = walk.sizes.define(symbol if symbol is not None else f"{fresh} of its own", fresh)
        elif isinstance(dim, Expr) and walk.sizes.symbol(size) is None:
            dim = walk.sizes.define(f"{name}_{axis} of its own", walk.builder.fresh(f"{name}_{axis}"))
        shape.append(dim)
    walk.inputs.append(at)
    if feed.order is None:
        walk.known[node] = walk.builder.input(name, dtype_of(held.dtype), shape)
        return
    walk.orders[at] = feed.order
    lying = walk.builder.input(name, dtype_of(held.dtype), [shape[d] for d in feed.order])
    walk.known[node] = transpose(walk.builder, lying, [feed.order.index(d) for d in range(len(shape))])


def _number(walk: _Walk, at: int, node: Any, feed: Supplied, held: Any) -> None:
    """A number that comes in: a size that a tensor says as well, or an input without axes."""
    if isinstance(held, (torch.SymFloat, float)):
        walk.known[node] = walk.builder.input(feed.name, DType.F64, ())
        walk.inputs.append(at)
        return
    dim = walk.sizes.dim(held) if isinstance(held, torch.SymInt) else held
    if dim is not None:
        walk.known[node] = dim
        return
    symbol = walk.sizes.symbol(held) or feed.name
    value = walk.builder.input(feed.name, DType.I64, ())
    walk.inputs.append(at)
    bound = walk.builder.bind(value, walk.sizes.names.get(symbol, feed.name))
    walk.sizes.known[symbol] = bound
    walk.known[node] = bound


def _attribute(walk: _Walk, module: Any, node: Any) -> None:
    held = module
    for part in str(node.target).split("."):
        held = getattr(held, part)
    if isinstance(held, torch.Tensor):
        walk.known[node] = walk.builder.constant(array_of(held), name_of(node))
    else:
        walk.known[node] = held


# -- calls -------------------------------------------------------------------------------------------------------------


def _call(walk: _Walk, node: Any) -> None:
    if any(source in walk.missing for source in node.all_input_nodes):
        _note_missing(walk, node)
        return
    try:
        walk.known[node] = _result(walk, node)
    except UnsupportedError as error:
        walk.faults.extend(error.faults or [f"{place_of(node)}: {error}"])
        walk.missing.add(node)
    except MapstoError as error:
        raised = type(error)(f"{place_of(node)}: {error}")
        raised.sizes = error.sizes
        raise raised from error


def _note_missing(walk: _Walk, node: Any) -> None:
    """What stands on something unsupported; that it has no row itself is said all the same."""
    walk.missing.add(node)
    if hasattr(node.target, "_schema") and find_row(node.target) is None:
        walk.faults.append(f"{place_of(node)}: {_no_row(node.target)}")


def _no_row(target: Any) -> str:
    return f"{target} is not supported"


def _result(walk: _Walk, node: Any) -> Any:
    target = node.target
    if target is operator.getitem:
        return _given(walk, node.args[0])[node.args[1]]
    if target in SCALARS:
        return SCALARS[target](walk.builder, *[_given(walk, arg) for arg in node.args])
    region = _REGIONS.get(getattr(target, "_name", "")) if isinstance(target, HigherOrderOperator) else None
    if region is not None:
        with walk.builder.source(name_of(node), place=place_of(node)):
            return _checked(walk, node, region(walk, *[_given(walk, arg) for arg in node.args]))
    schema = getattr(target, "_schema", None)
    row = None if schema is None else find_row(target)
    if schema is None or row is None:
        raise UnsupportedError(_no_row(target))
    given = {}
    for k, argument in enumerate(schema.arguments):
        raw = node.args[k] if k < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        given[argument.name] = _given(walk, raw)
    call = AtenCall(walk.builder, target, given, node, walk.sizes, walk.drawn, walk.quantised, walk.run)
    name, values = name_of(node), [v for v in _flat(given.values()) if isinstance(v, Value)]
    with walk.builder.source(name, of=values, place=place_of(node)):
        try:
            made = row(call)
        except _FAULTS as error:
            raise ModelError(f"mapsto cannot read this call ({type(error).__name__}: {error})") from error
        results = made if isinstance(made, (list, tuple)) else [made]
        for value in results:
            if isinstance(value, Value):
                walk.builder.attribute_here(value)
    return _checked(walk, node, made)


# -- graphs within the graph -------------------------------------------------------------------------------------------


def _nested(walk: _Walk, builder: Builder, module: Any, given: Sequence[Any]) -> list[Value]:
    """The results of a graph of torch's, built into `builder` with these values for its placeholders."""
    inner = _Walk(builder, walk.sizes, drawn=walk.drawn, run=walk.run)
    nodes = list(module.graph.nodes)
    for node, value in zip([node for node in nodes if node.op == "placeholder"], given, strict=True):
        inner.known[node] = value
    for node in nodes:
        if node.op == "get_attr":
            _attribute(inner, module, node)
        elif node.op == "call_function":
            _call(inner, node)
    _raise(inner.faults)
    (output,) = [node for node in nodes if node.op == "output"]
    (listed,) = output.args
    made = [_given(inner, raw) for raw in (listed if isinstance(listed, (list, tuple)) else [listed])]
    return [_as_value(builder, value) for value in made]


def _as_value(builder: Builder, value: Any) -> Value:
    """A tensor, also of a number."""
    if isinstance(value, Value):
        return value
    return builder.known(value) if isinstance(value, Expr) else builder.constant(np.asarray(value))


def _chosen(walk: _Walk, condition: Any, then: Any, otherwise: Any, operands: Sequence[Any] = ()) -> list[Value]:
    """torch.cond: both branches as graphs of an `if`, or the one that is known to be taken."""
    outer = walk.builder
    if isinstance(condition, bool):
        return _nested(walk, outer, then if condition else otherwise, operands)
    graphs = []
    for module in (then, otherwise):
        inner = Builder(outer.fresh("branch"), outer)
        graphs.append(inner.finish(_nested(walk, inner, module, operands)))
    return list(outer.add("if", [reshape(outer, _as_value(outer, condition), ())], {}, graphs))


def _repeated(walk: _Walk, condition: Any, body: Any, states: Sequence[Any], others: Sequence[Any] = ()) -> list[Value]:
    """torch.while_loop: a `loop` that begins where the condition holds, and goes on while it does."""
    outer = walk.builder
    starts = [_as_value(outer, state) for state in states]
    (begins,) = _nested(walk, outer, condition, [*starts, *others])
    inner = Builder(outer.fresh("body"), outer)
    own = [inner.input(outer.fresh("state"), start.dtype, start.shape) for start in starts]
    following = _nested(walk, inner, body, [*own, *others])
    (again,) = _nested(walk, inner, condition, [*following, *others])
    graph = inner.finish([reshape(inner, again, ()), *following])
    attrs = {"sizes": (), "below": (-1,) * len(starts)}
    return list(outer.add("loop", [reshape(outer, begins, ()), *starts], attrs, [graph]))


_REGIONS = {"cond": _chosen, "while_loop": _repeated}


def _given(walk: _Walk, raw: Any) -> Any:
    """An argument of torch's graph as what it has become."""
    if isinstance(raw, torch.fx.Node):
        return walk.known[raw]
    if isinstance(raw, (list, tuple)):
        return [_given(walk, each) for each in raw]
    return raw


def _flat(found: Any) -> list[Any]:
    return [leaf for each in found for leaf in (_flat(each) if isinstance(each, (list, tuple)) else [each])]


def _checked(walk: _Walk, node: Any, made: Any) -> Any:
    """What a row made, seen against what torch says of it: types, numbers of axes and extents are the same."""
    said = node.meta.get("val")
    pairs = zip(made, said, strict=False) if isinstance(made, (list, tuple)) and said is not None else [(made, said)]
    for value, held in pairs:
        if not isinstance(value, Value) or not isinstance(held, torch.Tensor):
            if isinstance(held, (torch.SymInt, int)) and isinstance(value, (Expr, int)):
                _define(walk, held, value)
            continue
        fits = value.dtype is dtype_of(held.dtype) and value.rank == held.dim()
        for ours, theirs in zip(value.shape, held.shape, strict=False):
            _define(walk, theirs, ours)
            fits = fits and (not isinstance(ours, int) or not isinstance(theirs, int) or ours == theirs)
        if not fits:
            raise ModelError(f"mapsto makes {value} of it, and torch {held.dtype}{list(held.shape)}: a fault of mapsto")
    return made


def _define(walk: _Walk, theirs: Any, ours: Dim) -> None:
    """A symbol of torch's that nothing defined before (a size that depends on data) is what ours turned out to be."""
    symbol = walk.sizes.symbol(theirs) if isinstance(theirs, torch.SymInt) else None
    if symbol is not None:
        walk.sizes.known.setdefault(symbol, ours)


# -- the end -----------------------------------------------------------------------------------------------------------


def _finished(
    walk: _Walk, output: Any, placeholders: Sequence[Any], said: Sequence[str], shown: int | None
) -> Imported:
    (listed,) = output.args
    wanted = []
    for at, raw in enumerate(listed if isinstance(listed, (list, tuple)) else [listed]):
        name = said[at] if said else str(getattr(raw, "name", "out"))
        wanted.append(Wanted(raw, _given(walk, raw), name, shown is not None and at >= shown))
    feeds = {node: at for at, node in enumerate(placeholders)}
    names = {value.name: at for value, at in zip(walk.builder.inputs, walk.inputs, strict=False)}
    results = TracedResults(walk.builder, feeds, names)
    found = results.found(wanted, may_look=not said)
    graph = settled(walk.builder.finish(results.values, names=results.names)) if results.values else _empty(walk)
    return Imported(graph, tuple(walk.inputs), found, tuple(walk.drawn), walk.orders)


def _empty(walk: _Walk) -> Graph:
    """A graph has a result: where the program has none, one that says nothing."""
    return walk.builder.finish([walk.builder.constant(np.zeros(1, np.float32), "nothing")])
