"""Builds graphs node by node: infers shapes, folds constants, follows the integers that shapes are made of.

Importers, decompositions and passes all make their nodes here, so every graph is shape-inferred and folded as it is
made. Shape arithmetic (`Shape -> Gather -> Mul -> Concat -> Reshape`) never becomes nodes: the builder knows the
content of small integer tensors as dims. Where such a tensor is needed as data after all, it is materialised by a
`dim_values` node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mapsto.budget import current
from mapsto.errors import MapstoError, ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.rename import rename_values
from mapsto.ir.text import attrs_text
from mapsto.ops.bounds import check_inside
from mapsto.ops.charges import Charges
from mapsto.ops.conditions import Conditions
from mapsto.ops.folding import (
    EXPRESSION_DEPTH,
    EXPRESSION_SIZE,
    as_dims,
    fold_constants,
    fold_content,
    is_followed,
    too_long,
)
from mapsto.ops.names import Names
from mapsto.ops.provenance import FEW_SOURCES, Nodes, Trail
from mapsto.ops.ranges import Noted
from mapsto.ops.registry import Inference, OpSpec, op
from mapsto.ops.shapes import is_beyond_addresses, static

_LARGE = 1 << 20  # bytes of a constant that is no copy where it is a transposed one: it is laid anew in the end


class Builder:
    """A graph in the making. `parent` is the builder of the enclosing graph, whose values a nested graph may read.

    anew: a graph that was built before; what could be folded has been, so constants allow no further folding.
    """

    def __init__(self, name: str, parent: Builder | None = None, anew: bool = False) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Value] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._content: dict[str, np.ndarray] = {}
        self._pending: dict[str, tuple[Value, np.ndarray]] = {}
        self._names: Names = parent._names if parent else Names()
        self._provenance: Trail = parent._provenance if parent else Trail()
        self._place: str = parent._place if parent else ""
        self._charges: Charges = parent._charges if parent else Charges(current(), anew)
        self._nodes: Nodes = Nodes(self.values, self._charges.sources, parent._nodes if parent else None)
        self._conditions: Conditions = Conditions(parent._conditions if parent else None)
        self._cse: dict[Any, tuple[Value, ...]] = {}
        self._bounds: dict[str, list[Noted]] = {}  # value -> what a run has checked of its elements

    # -- names and sources ---------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that no other value or symbol of the graph has."""
        return self._names.fresh(hint)

    def reserve(self, names: Sequence[str]) -> None:
        """Keeps names free for `finish`."""
        self._names.reserve(names)

    def keep_names(self, names: Iterable[str]) -> None:
        """Names that stay with the values that have them, while a graph is built anew: who asks for one by name gets
        it, once.
        """
        self._names.keep(names)

    def source(
        self, *names: str, of: Sequence[Value | None] = (), place: str = "", ports: int | None = None
    ) -> AbstractContextManager[None]:
        """Nodes made inside carry these source nodes as their provenance, and what the values `of` stand for.

        place: the source node in a user's words; whoever says it puts it in front of errors raised inside. ports: the
        inputs and outputs of that node of a model; what is made inside is held to a number of nodes for each.
        """
        allowed = None if ports is None else self._charges.ports(ports)
        return _Standing(self, Trail(names, self._nodes.trails(of)), place, allowed)

    @property
    def is_placed(self) -> bool:
        """Whether errors that are raised now get the source node in front of them."""
        return bool(self._place)

    def place(self, op: str) -> str:
        """The source node in a user's words, for what a run says of it; op: what it is made into."""
        if self._place or not self._provenance.names:
            return self._place or op
        return f"node {self._provenance.names[0]!r} ({op})"

    # -- leaves --------------------------------------------------------------------------------------------------------

    def input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Value:
        self._charges.meter.check("rank", len(shape), f"input {name!r}")
        value = Value(self.fresh(name), dtype, tuple(shape))
        self.inputs.append(value)
        self.values[value.name] = value
        return value

    def constant(self, array: Any, name: str = "c", dtype: DType | None = None) -> Value:
        """A constant of the graph; `dtype` converts. One of the model's own: it adds to what may be folded."""
        data = np.asarray(array)
        if dtype is not None and data.dtype != dtype.numpy:
            data = data.astype(dtype.numpy)
        self._charges.constant(data.size, data.nbytes)
        return self._add_constant(data, name)

    def _add_constant(self, data: np.ndarray, name: str) -> Value:
        if data.nbytes < _LARGE or not _is_permuted(data):
            data = np.ascontiguousarray(data).reshape(data.shape)
        value = Value(self.fresh(name), from_numpy(data.dtype), data.shape)
        self.values[value.name] = value
        self.constants[value.name] = data
        if is_followed(value.dtype, data.size):
            self._content[value.name] = as_dims(data)
        return value

    def known(self, content: Any, dtype: DType = DType.I64, name: str = "dims") -> Value:
        """An integer tensor of dims, or a dim alone; becomes a node only if something reads it as data."""
        elements = np.asarray(content, dtype=object)
        if all(isinstance(e, (int, np.integer, bool, np.bool_)) for e in elements.flat):
            return self.constant(elements.astype(dtype.numpy), name)
        value = Value(self.fresh(name), dtype, elements.shape)
        self.values[value.name] = value
        self._content[value.name] = elements
        self._pending[value.name] = (value, elements)
        return value

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes so far."""
        return self._nodes.all()

    # -- queries -------------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Value:
        if name in self.values:
            return self.values[name]
        if self.parent is None:
            raise ShapeError(f"graph {self.name!r}: no value named {name!r}")
        return self.parent.lookup(name)

    def array(self, value: Value | None) -> np.ndarray | None:
        """The elements of a constant, else None."""
        if value is None:
            return None
        if value.name in self.constants:
            return self.constants[value.name]
        return self.parent.array(value) if self.parent and value.name not in self.values else None

    def content(self, value: Value | None) -> np.ndarray | None:
        """The known integer elements of a small tensor, as an object array of dims, else None."""
        if value is None:
            return None
        if value.name in self._content:
            return self._content[value.name]
        return self.parent.content(value) if self.parent and value.name not in self.values else None

    def producer(self, value: Value) -> Node | None:
        """The node that made a value; None for inputs, constants and known integers that nothing has read as data.

        Sources that it has taken on are not written into it yet: passes.provenance sees that none is lost.
        """
        node = self._nodes.of(value.name)
        if node is not None:
            return node
        return self.parent.producer(value) if self.parent and value.name not in self.values else None

    def dims(self, value: Value, hint: str = "n", what: str = "") -> list[Dim]:
        """The elements of a 0-d or 1-d integer tensor as dims; those that only a run can know become fresh symbols.
        what: what they are, in a user's words, for the error of a run that finds one below zero.
        """
        content = self.content(value)
        if content is not None:
            return list(content.reshape(-1))
        if not all(isinstance(d, int) for d in value.shape):
            error = ShapeError(
                f"{value}: a list of sizes whose own length only a run knows, so that the rank of the result hangs on "
                "it; fix that length by `shapes`"
            )
            error.sizes = frozenset(name for d in value.shape for name in symbols(d))
            raise error
        count = math.prod(static(value.shape))
        self._charges.meter.charge("terms", count, f"the elements of {value} as sizes")
        flat = value if value.rank < 2 else self.one("reshape", [value], shape=(count,))
        found = [self.element(flat, i) for i in range(count)]
        return [
            self.bind(self.scalar_element(flat, i), hint, what=what) if e is None else e for i, e in enumerate(found)
        ]

    def element(self, value: Value, i: int) -> Dim | None:
        """Element i of a vector or scalar of integers, looked for where it comes from; None where only a run knows."""
        content = self.content(value)
        if content is not None:
            return content.reshape(-1)[i]  # type: ignore[no-any-return]
        node = self.producer(value)
        parts = [self.lookup(n) for n in node.inputs if n] if node is not None else []
        if node is not None and node.op == "concat" and value.rank == 1:
            at = i
            for part in parts:
                extent = part.shape[0]
                if not isinstance(extent, int):
                    break
                if at < extent:
                    return self.element(part, at)
                at -= extent
        elif node is not None and node.op in ("reshape", "cast") and parts[0].dtype.is_integer:
            return self.element(parts[0], i)
        return None

    def scalar_element(self, value: Value, i: int) -> Value:
        """Element i of a vector or scalar, as a value of one element."""
        if value.shape in ((), (1,)):
            return value
        return self.one("slice", [value], starts=(i,), steps=(1,), shape=(1,))

    def bind(self, scalar: Value, hint: str = "n", symbol: str = "", what: str = "") -> Expr:
        """A size symbol defined at run time by an integer scalar; `symbol` names it where the name is settled already.
        what: what the scalar is, in a user's words.
        """
        content = self.content(scalar)
        if content is not None and isinstance(content.reshape(-1)[0], Expr):
            return content.reshape(-1)[0]  # type: ignore[no-any-return]
        name = symbol or self.fresh(hint)
        self.add("bind_dim", [scalar], {"symbol": name, "what": what} if what else {"symbol": name})
        # from here on the scalar is known as that symbol: shape arithmetic follows it, and it is bound only once
        self._content[scalar.name] = np.full(static(scalar.shape), sym(name), dtype=object)
        return sym(name)

    def broadcast(self, a: Dim, b: Dim, what: str = "broadcast") -> Dim:
        """The extent that two broadcast to; where only a run knows whether they fit, it checks that."""
        return self._inference(what).broadcast(a, b)

    def same(self, a: Dim, b: Dim, what: str) -> Dim:
        """The extent that both stand for; where only a run knows whether they are equal, it checks that."""
        return self._inference(what).same(a, b)

    def require(
        self, condition: Dim, message: str, where: str | None = None, always: bool = False, liftable: bool = False
    ) -> None:
        """A run stops with the message where `condition` is negative; asked once for each condition, and not where it
        is proved. always: also where nothing else uses the sizes that it speaks of, which are bound for its sake.
        liftable: a graph in which these sizes are fixed may do without it.
        """
        if self.proves(condition):
            return
        if isinstance(condition, int):
            raise ShapeError(message)
        self._conditions.add(condition)
        place = where if where is not None else next(iter(self._provenance.names), self.name)
        attrs = {"condition": condition, "message": f"{place}: {message}" if place else message}
        said = {name: True for name, holds in (("always", always), ("liftable", liftable)) if holds}
        self.add("require", [], attrs | said)

    def proves(self, e: Dim) -> bool:
        """Whether e >= 0 for all sizes that get past the conditions required so far."""
        return self._conditions.proves(e)

    def note_bounds(self, name: str, noted: Noted) -> None:
        """Keeps what a run has checked of a value's elements by now."""
        self._bounds.setdefault(name, []).append(noted)

    def noted_bounds(self, value: Value) -> list[Noted]:
        """What a run has checked of a value's elements, here or in an enclosing graph."""
        around = self.parent.noted_bounds(value) if self.parent is not None else []
        return [*around, *self._bounds.get(value.name, ())]

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def one(self, name: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        """Adds a node with one output, and gives the output."""
        (value,) = self.add(name, inputs, attrs)
        return value

    def add(
        self,
        name: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        graphs: Sequence[Graph] = (),
        names: Sequence[str] = (),
    ) -> tuple[Value, ...]:
        """Adds a node; gives its outputs. Folds it away when every input is a constant or known content."""
        spec = op(name)
        attrs = dict(attrs or {})
        kept = tuple(inputs)
        while kept and kept[-1] is None:
            kept = kept[:-1]
        try:
            results = spec.infer(self._inference(name, kept, attrs, tuple(graphs)))
        except MapstoError:
            raise
        except (ValueError, IndexError, TypeError) as error:
            raise ShapeError(f"{name}({', '.join(str(v) for v in kept)}) {attrs_text(attrs)}: {error}") from error
        if not all(type(d) is int and d >= 0 for _, shape in results for d in shape):
            results = _checked(name, kept, results)
            self._require_extents(name, results)
        results = [(dtype, tuple(shape)) for dtype, shape in results]
        for dtype, shape in results:
            if is_beyond_addresses(dtype, shape):
                raise ShapeError(f"{name}: its result {dtype!r}{list(shape)} has more bytes than memory has addresses")
        self._charges.meter.check("rank", max((len(shape) for _, shape in results), default=0), f"the result of {name}")
        for i, allowed in spec.indices(kept, attrs).items() if spec.indices is not None else ():
            values = kept[i]
            if values is not None:
                check_inside(self, values, allowed, self.place(name))
        key = _node_key(name, kept, attrs) if spec.foldable and not graphs else None
        made = self._lookup_same(key) if key is not None else None
        if made is not None:
            self._charges.node(name)
        else:
            made = self._fold(spec, kept, attrs, results, names)
            is_folded = made is not None
            if made is None:
                made = self._append(spec, kept, attrs, results, tuple(graphs), names)
            if key is not None:
                self._cse[key] = made
            if not is_folded:
                return made
        trail = Trail((), (self._provenance, *self._nodes.trails(kept)))
        for value in made[:1] if self._nodes.has(made[0].name) else made:
            self._nodes.attribute(value, trail)
        return made

    def _require_extents(self, name: str, results: Sequence[tuple[DType, Sequence[Dim]]]) -> None:
        """Sizes for which an extent would come out negative (a window is longer than what it goes over) end a run."""
        for _, shape in results:
            for extent in shape:
                if isinstance(extent, Expr):
                    self.require(extent, f"{name}: its result would have the shape [{', '.join(map(str, shape))}]")

    def _inference(
        self,
        name: str,
        inputs: tuple[Value | None, ...] = (),
        attrs: Mapping[str, Any] | None = None,
        graphs: tuple[Graph, ...] = (),
    ) -> Inference:
        """What the shape rule of a node that is about to be added sees; what it assumes, a run checks."""
        return Inference(
            name, inputs, attrs or {}, graphs,
            content=lambda i: self.content(inputs[i]) if i < len(inputs) else None,
            assume_nonnegative=self.require,
            lookup=self.lookup,
            proves=self.proves,
        )  # fmt: skip

    def _append(
        self, spec: OpSpec, inputs: tuple[Value | None, ...], attrs: dict[str, Any],
        results: list[tuple[DType, tuple[Dim, ...]]], graphs: tuple[Graph, ...], names: Sequence[str],
    ) -> tuple[Value, ...]:  # fmt: skip
        self._charges.node(spec.name)
        for value in inputs:
            self._materialise(value)
        outputs = tuple(
            Value(self._names.fresh(names[i] if i < len(names) and names[i] else spec.name), dtype, shape)
            for i, (dtype, shape) in enumerate(results)
        )
        provenance = self._nodes.written((self._provenance, *self._nodes.trails(inputs)))
        names_in = tuple(v.name if v else "" for v in inputs)
        self._nodes.add(Node(spec.name, names_in, outputs, attrs, graphs, provenance))
        for value in outputs:
            self.values[value.name] = value
        return outputs

    def attribute(self, value: Value, sources: Sequence[str] | Trail) -> None:
        """Says that `value` stands for these source nodes as well: its node takes them on, or, where it has none, those
        that read it.
        """
        self._nodes.attribute(value, sources if isinstance(sources, Trail) else Trail(tuple(sources)))

    def attribute_here(self, value: Value) -> None:
        """Says that `value` stands for the source nodes of the enclosing `source`."""
        self._nodes.attribute(value, self._provenance)

    def _lookup_same(self, key: Any) -> tuple[Value, ...] | None:
        """The outputs of an equal node already made (common subexpressions), here or in an enclosing graph."""
        found = self._cse.get(key)
        if found is None and self.parent is not None:
            return self.parent._lookup_same(key)
        return found

    def _materialise(self, value: Value | None) -> None:
        if value is None:
            return
        owner: Builder | None = self
        while owner is not None and value.name not in owner._pending:
            owner = owner.parent
        if owner is None:
            return
        _, elements = owner._pending.pop(value.name)
        flat = tuple(elements.reshape(-1))
        provenance = owner._nodes.written((owner._provenance, owner._nodes.handed_over(value.name)))
        attrs: dict[str, Any] = {"values": flat, "shape": value.shape, "dtype": value.dtype}
        owner._nodes.add(Node("dim_values", (), (value,), attrs, (), provenance))

    def _fold(
        self, spec: OpSpec, inputs: tuple[Value | None, ...], attrs: dict[str, Any],
        results: list[tuple[DType, tuple[Dim, ...]]], names: Sequence[str],
    ) -> tuple[Value, ...] | None:  # fmt: skip
        """The outputs without a node: as constants, or as integers that are followed."""
        if not spec.foldable or not all(isinstance(d, int) for _, shape in results for d in shape):
            return None
        arrays = [self.array(v) for v in inputs]
        if not any(a is None and v is not None for a, v in zip(arrays, inputs, strict=True)):
            made = fold_constants(spec, arrays, attrs, results, self._charges.meter)
            if made is not None:
                hints = [*names, *("folded" for _ in made)]
                return tuple(self._add_constant(data, hint) for data, hint in zip(made, hints, strict=False))
        contents = [self.content(v) for v in inputs] if spec.content is not None else [None]
        if any(c is None for c in contents):
            return None
        data = fold_content(spec, [c for c in contents if c is not None], attrs, results)
        return None if data is None else (self.known(data, results[0][0], names[0] if names else "dims"),)

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(
        self,
        outputs: Sequence[Value],
        updates: Sequence[tuple[str, str]] = (),
        names: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Graph:
        """The graph so far, with these outputs; what nothing reads stays for the dead-code pass.

        names: what the outputs are to be called; a value that cannot take on its name (an input, a constant, the same
        output twice) is copied. labels: better names for other values, where they are free.
        """
        for value in outputs:
            self._materialise(value)
        mapping = dict(labels or {})
        taken = [v.name for v in self.inputs]
        results: list[str] = []
        made: set[str] = set()
        for i, value in enumerate(outputs):
            wanted = names[i] if names else value.name
            own = value.name == wanted or (self._nodes.has(value.name) and value.name not in made)
            if names and (not own or value.name in made):
                self._nodes.settle(value.name)
                node = self.producer(value)
                sources = node.provenance if node else () if self._nodes.trails([value]) else (wanted,)
                before = value
                with self.source(*sources, of=[value]):
                    value = self.one("copy", [value])
                if len(self._nodes.last.provenance) > FEW_SOURCES:
                    self._nodes.handed_over(before.name)  # said once: not again by each further copy of it
            results.append(value.name)
            made.add(value.name)
            mapping[value.name] = wanted
            taken.append(wanted)
        graph = Graph(
            self.name, tuple(self.inputs), tuple(results), tuple(self.nodes), dict(self.constants), tuple(updates)
        )
        if not names and not labels:
            return graph
        fixed = {v.name for v in self.inputs}
        return rename_values(graph, self._names.settled(mapping, set(taken), fixed, self.values.keys()))


class _Standing:
    """While it is entered, what a builder makes is made for these sources. (A class: a model has 10^5 nodes.)"""

    __slots__ = ("_before", "_builder", "_now")

    def __init__(self, builder: Builder, provenance: Trail, place: str, allowed: int | None) -> None:
        self._builder = builder
        self._now = provenance, place, allowed

    def __enter__(self) -> None:
        b = self._builder
        self._before = b._provenance, b._place, b._charges.made, b._charges.allowed
        b._provenance, b._place, allowed = self._now
        if allowed is not None:
            b._charges.made, b._charges.allowed = 0, allowed

    def __exit__(self, *_: object) -> None:
        b = self._builder
        b._provenance, b._place, b._charges.made, b._charges.allowed = self._before


def _is_permuted(array: np.ndarray) -> bool:
    """Whether all elements of some memory are an array's, each once, in an order of its axes."""
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return array.transpose(order).flags.c_contiguous


def _node_key(name: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> Any:
    """What nodes that compute the same have alike."""
    return name, tuple(v.name if v else "" for v in inputs), tuple((k, _attr_key(attrs[k])) for k in sorted(attrs))


def _attr_key(attr: Any) -> Any:
    """An attribute as a key: 0.0, -0.0, 0 and False are equal in Python, but not here."""
    if isinstance(attr, tuple):
        return tuple(_attr_key(a) for a in attr)
    return (type(attr).__name__, repr(attr)) if isinstance(attr, (bool, int, float)) else attr


def _checked(
    name: str, inputs: Sequence[Value | None], results: Sequence[tuple[DType, Sequence[Any]]]
) -> list[tuple[DType, tuple[Dim, ...]]]:
    """Types of results, whose extents may be anything that a shape rule makes of its numbers. Raises ShapeError."""
    plain = [(dtype, tuple(_plain(d) for d in shape)) for dtype, shape in results]
    if any(isinstance(d, int) and d < 0 for _, shape in plain for d in shape):
        said = "; ".join(str(list(shape)) for _, shape in plain)
        raise ShapeError(f"{name}({', '.join(str(v) for v in inputs)}): the result would have the shape {said}")
    if any(too_long(d) for _, shape in plain for d in shape):
        error = ShapeError(
            f"{name}: the sizes of its result are expressions too long to follow (more than {EXPRESSION_SIZE} "
            f"terms, or nested deeper than {EXPRESSION_DEPTH}); fix sizes by `shapes`"
        )
        error.sizes = frozenset(symbol for _, shape in plain for d in shape for symbol in symbols(d))
        raise error
    return plain


def _plain(dim: Any) -> Dim:
    return dim if isinstance(dim, Expr) else int(dim)
