"""Builds graphs node by node: infers shapes, folds constants, follows the integers that shapes are made of.

Importers, decompositions and passes all make their nodes here, so every graph is shape-inferred and folded as it is
made. Shape arithmetic (`Shape -> Gather -> Mul -> Concat -> Reshape`) never becomes nodes: the builder knows the
content of small integer tensors as dims. Where such a tensor is needed as data after all, it is materialised by a
`dim_values` node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto.budget import Meter, current
from mapsto.errors import MapstoError, ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.rename import rename_values
from mapsto.ops.bounds import check_inside
from mapsto.ops.provenance import Trail, names_of
from mapsto.ops.ranges import Noted
from mapsto.ops.registry import Inference, OpSpec, op
from mapsto.ops.shapes import static
from mapsto.ops.work import operations

# The largest result, in bytes, that is folded into a constant, unless it replaces constants of its own size.
FOLD_LIMIT = 1 << 26
# The most operations that folding one node may take, unless it is a few for each element of its operands.
FOLD_OPERATIONS = 1 << 25
# What each byte (for operations: each element) of a model's own constants adds to what may be folded altogether.
FOLD_PER_BYTE = 8
# What each input and output of a model's node adds to the nodes that it may become.
NODES_A_PORT = 64
# Nodes that stand for no more sources than this are not charged for them.
_FEW_SOURCES = 64
# Size expressions with more terms and atoms, or calls nested deeper, are not followed: no graph makes sizes that take
# for ever. (The largest of the public models that we know has 9.)
EXPRESSION_SIZE = 256
EXPRESSION_DEPTH = 32
# The largest integer tensor whose elements are followed as dims.
CONTENT_LIMIT = 256
# The types whose elements are followed as dims.
_FOLLOWED = (DType.I64, DType.I32, DType.BOOL)


class Builder:
    """A graph in the making. `parent` is the builder of the enclosing graph, whose values a nested graph may read.

    anew: a graph that was built before; what could be folded has been, so constants allow no further folding.
    """

    def __init__(self, name: str, parent: Builder | None = None, anew: bool = False) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Value] = []
        self._nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._content: dict[str, np.ndarray] = {}
        self._pending: dict[str, tuple[Value, np.ndarray]] = {}
        self._names: set[str] = parent._names if parent else set()
        self._counter: list[int] = parent._counter if parent else [0]
        self._provenance: Trail = parent._provenance if parent else Trail()
        self._place: str = parent._place if parent else ""
        self._cse: dict[Any, tuple[Value, ...]] = {}
        self._meter: Meter = parent._meter if parent else current()
        self._anew: bool = parent._anew if parent else anew
        self._source_nodes: list[int] = parent._source_nodes if parent else [0, 0]  # made for one source; at most
        self._kept: set[str] = parent._kept if parent else set()
        self._required: set[Dim] = set()
        self._least: dict[str, int] = {}  # size symbol -> what it is at least, by what was required
        self._made: dict[str, int] = {}  # value -> place of its node in `nodes`
        self._carried: dict[str, Trail] = {}  # value without a node -> the sources it stands for
        self._taken_on: dict[int, list[Trail]] = {}  # node -> further sources that it stands for
        self._bounds: dict[str, list[Noted]] = {}  # value -> what a run has checked of its elements

    # -- names and sources ---------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that no other value or symbol of the graph has."""
        name = hint
        if hint in self._kept:
            self._kept.discard(hint)
            return hint
        while name in self._names or not name:
            self._counter[0] += 1
            name = f"{hint}_{self._counter[0]}"
        self._names.add(name)
        return name

    def reserve(self, names: Sequence[str]) -> None:
        """Keeps names free for `finish`."""
        self._names.update(names)

    def keep_names(self, names: Iterable[str]) -> None:
        """Names that stay with the values that have them, while a graph is built anew: who asks for one by name gets
        it, once.
        """
        self._names.update(names)
        self._kept.update(names)

    def source(
        self, *names: str, of: Sequence[Value | None] = (), place: str = "", ports: int | None = None
    ) -> AbstractContextManager[None]:
        """Nodes made inside carry these source nodes as their provenance, and what the values `of` stand for.

        place: the source node in a user's words; whoever says it puts it in front of errors raised inside. ports: the
        inputs and outputs of that node of a model; what is made inside is held to a number of nodes for each.
        """
        allowed = None if ports is None else int(self._meter.allowed("each")) + NODES_A_PORT * ports
        return _Standing(self, Trail(names, self._trails(of)), place, allowed)

    @property
    def is_placed(self) -> bool:
        """Whether errors that are raised now get the source node in front of them."""
        return bool(self._place)

    def place(self, op: str) -> str:
        """The source node in a user's words, for what a run says of it; op: what it is made into."""
        if self._place or not self._provenance.names:
            return self._place or op
        return f"node {self._provenance.names[0]!r} ({op})"

    def _count_node(self, name: str) -> None:
        if self._anew:
            return
        self._meter.charge("steps", 1, name)
        self._source_nodes[0] += 1
        if self._source_nodes[0] > self._source_nodes[1] > 0:
            self._meter.check("each", self._source_nodes[0], name)

    # -- leaves --------------------------------------------------------------------------------------------------------

    def input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Value:
        self._meter.check("rank", len(shape), f"input {name!r}")
        value = Value(self.fresh(name), dtype, tuple(shape))
        self.inputs.append(value)
        self.values[value.name] = value
        return value

    def constant(self, array: Any, name: str = "c", dtype: DType | None = None) -> Value:
        """A constant of the graph; `dtype` converts. One of the model's own: it adds to what may be folded."""
        data = np.asarray(array)
        if dtype is not None and data.dtype != dtype.numpy:
            data = data.astype(dtype.numpy)
        if not self._anew:
            self._meter.earn("folded_bytes", FOLD_PER_BYTE * data.nbytes)
            self._meter.earn("folded_operations", FOLD_PER_BYTE * data.size)
            self._meter.earn("native_operations", 2 * FOLD_PER_BYTE * data.size)
        return self._add_constant(data, name)

    def _add_constant(self, data: np.ndarray, name: str) -> Value:
        data = np.ascontiguousarray(data).reshape(data.shape)
        value = Value(self.fresh(name), from_numpy(data.dtype), data.shape)
        self.values[value.name] = value
        self.constants[value.name] = data
        if value.dtype in _FOLLOWED and data.size <= CONTENT_LIMIT:
            self._content[value.name] = _as_dims(data)
        return value

    def known(self, content: Any, dtype: DType = DType.I64, name: str = "dims") -> Value:
        """An integer tensor whose elements are dims; becomes a node only if something reads it as data."""
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
        for at in list(self._taken_on):
            self._settle(at)
        return self._nodes

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
        """The node that made a value; None for inputs, constants and known integers that nothing has read as data."""
        at = self._made.get(value.name)
        if at is not None:
            self._settle(at)
            return self._nodes[at]
        return self.parent.producer(value) if self.parent and value.name not in self.values else None

    def dims(self, value: Value, hint: str = "n") -> list[Dim]:
        """The elements of a 0-d or 1-d integer tensor as dims; those that only a run can know become fresh symbols."""
        content = self.content(value)
        if content is not None:
            return list(content.reshape(-1))
        if not all(isinstance(d, int) for d in value.shape):
            raise ShapeError(f"{value}: a shape whose own length is not known before the run")
        count = math.prod(static(value.shape))
        self._meter.charge("terms", count, f"the elements of {value} as sizes")
        flat = value if value.rank < 2 else self.one("reshape", [value], shape=(count,))
        found = [self.element(flat, i) for i in range(count)]
        return [self.bind(self.scalar_element(flat, i), hint) if e is None else e for i, e in enumerate(found)]

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

    def bind(self, scalar: Value, hint: str = "n", symbol: str = "") -> Expr:
        """A size symbol defined at run time by an integer scalar; `symbol` names it where the name is settled already.
        """
        content = self.content(scalar)
        if content is not None and isinstance(content.reshape(-1)[0], Expr):
            return content.reshape(-1)[0]  # type: ignore[no-any-return]
        name = symbol or self.fresh(hint)
        self.add("bind_dim", [scalar], {"symbol": name})
        # from here on the scalar is known as that symbol: shape arithmetic follows it, and it is bound only once
        self._content[scalar.name] = np.full(static(scalar.shape), sym(name), dtype=object)
        return sym(name)

    def broadcast(self, a: Dim, b: Dim, what: str = "broadcast") -> Dim:
        """The extent that two broadcast to; where only a run knows whether they fit, it checks that."""
        return self._inference(what).broadcast(a, b)

    def require(self, condition: Dim, message: str, where: str | None = None) -> None:
        """A run stops with the message where `condition` is negative; asked once for each condition, and not where it
        is proved.
        """
        if self.proves(condition):
            return
        if isinstance(condition, int):
            raise ShapeError(message)
        self._required.add(condition)
        self._note_least(condition)
        place = where if where is not None else next(iter(self._provenance.names), self.name)
        self.add("require", [], {"condition": condition, "message": f"{place}: {message}" if place else message})

    def _note_least(self, condition: Dim) -> None:
        """Keeps a lower bound of a size symbol: `symbol - k >= 0`."""
        if not isinstance(condition, Expr):
            return
        names = symbols(condition)
        name = next(iter(names))
        least = sym(name) - condition
        if len(names) == 1 and isinstance(least, int):
            self._least[name] = max(least, self._least.get(name, 0))

    def proves(self, e: Dim) -> bool:
        """Whether e >= 0 for all sizes that get past the conditions required so far."""
        if known_at_least(e, 0):
            return True
        if isinstance(e, int):
            return False
        bounds: dict[str, Dim] = {}
        builder: Builder | None = self
        while builder is not None:
            if e in builder._required:
                return True
            for name, least in builder._least.items():
                bounds.setdefault(name, sym(name) + least)
            builder = builder.parent
        raised = substitute(e, bounds)
        return raised != e and known_at_least(raised, 0)

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
            raise ShapeError(f"{name}({', '.join(str(v) for v in kept)}) {attrs}: {error}") from error
        results = [(dtype, tuple(_plain(d) for d in shape)) for dtype, shape in results]
        if any(isinstance(d, int) and d < 0 for _, shape in results for d in shape):
            said = "; ".join(str(list(shape)) for _, shape in results)
            raise ShapeError(f"{name}({', '.join(str(v) for v in kept)}): the result would have the shape {said}")
        if any(_too_long(d) for _, shape in results for d in shape):
            raise ShapeError(
                f"{name}: the sizes of its result are expressions too long to follow (more than {EXPRESSION_SIZE} "
                f"terms, or nested deeper than {EXPRESSION_DEPTH}); fix sizes by `shapes`"
            )
        self._meter.check("rank", max((len(shape) for _, shape in results), default=0), f"the result of {name}")
        for i, allowed in spec.indices(kept, attrs).items() if spec.indices is not None else ():
            values = kept[i]
            if values is not None:
                check_inside(self, values, allowed, self.place(name))
        folded = self._fold(spec, kept, attrs, results, names)
        if folded is not None:
            for value in folded:
                self._attribute(value, Trail((), (self._provenance, *self._trails(kept))))
            return folded
        return self._append(spec, kept, attrs, results, tuple(graphs), names)

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
        self._count_node(spec.name)
        for value in inputs:
            self._materialise(value)
        key = (
            spec.name,
            tuple(v.name if v else "" for v in inputs),
            tuple((k, _attr_key(attrs[k])) for k in sorted(attrs)),
        )
        if not graphs and spec.foldable:
            found = self._lookup_same(key)
            if found is not None:
                self._attribute(found[0], Trail((), (self._provenance, *self._trails(inputs))))
                return found
        outputs = tuple(
            Value(self.fresh(names[i] if i < len(names) and names[i] else spec.name), dtype, shape)
            for i, (dtype, shape) in enumerate(results)
        )
        provenance = self._written((self._provenance, *self._trails(inputs)))
        node = Node(spec.name, tuple(v.name if v else "" for v in inputs), outputs, attrs, graphs, provenance)
        self._nodes.append(node)
        for value in outputs:
            self.values[value.name] = value
            self._made[value.name] = len(self._nodes) - 1
        if not graphs and spec.foldable:
            self._cse[key] = outputs
        return outputs

    def attribute(self, value: Value, sources: Sequence[str]) -> None:
        """Says that `value` stands for these source nodes as well: its node takes them on, or, where it has none, those
        that read it.
        """
        self._attribute(value, Trail(tuple(sources)))

    def attribute_here(self, value: Value) -> None:
        """Says that `value` stands for the source nodes of the enclosing `source`."""
        self._attribute(value, self._provenance)

    def _attribute(self, value: Value, trail: Trail) -> None:
        owner: Builder | None = self
        while owner is not None and value.name not in owner.values:
            owner = owner.parent
        if owner is None:
            return
        at = owner._made.get(value.name)
        if at is not None:
            if not trail.before and all(name in owner._nodes[at].provenance[:_FEW_SOURCES] for name in trail.names):
                return
            owner._taken_on.setdefault(at, []).append(trail)
            return
        known = owner._carried.get(value.name)
        owner._carried[value.name] = trail if known is None else Trail((), (known, trail))

    def _settle(self, at: int) -> None:
        """Writes out what a node has taken on."""
        trails = self._taken_on.pop(at, None)
        if trails is not None:
            node = self._nodes[at]
            provenance = self._written((Trail(node.provenance), *trails))
            if provenance != node.provenance:
                self._nodes[at] = replace(node, provenance=provenance)

    def _written(self, trails: Sequence[Trail]) -> tuple[str, ...]:
        names = names_of(trails)
        if len(names) > _FEW_SOURCES:
            self._meter.charge("sources", len(names), "the source nodes that nodes stand for")
        return names

    def _trails(self, inputs: Sequence[Value | None]) -> tuple[Trail, ...]:
        """Sources of the operands that have no node of their own."""
        found: list[Trail] = []
        for value in inputs:
            builder: Builder | None = self
            while value is not None and builder is not None:
                trail = builder._carried.get(value.name)
                if trail is not None:
                    found.append(trail)
                builder = builder.parent
        return tuple(found)

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
        provenance = owner._written((owner._provenance, owner._carried.pop(value.name, Trail())))
        owner._made[value.name] = len(owner._nodes)
        attrs: dict[str, Any] = {"values": flat, "shape": value.shape, "dtype": value.dtype}
        owner._nodes.append(Node("dim_values", (), (value,), attrs, (), provenance))

    def _fold(
        self, spec: OpSpec, inputs: tuple[Value | None, ...], attrs: dict[str, Any],
        results: list[tuple[DType, tuple[Dim, ...]]], names: Sequence[str],
    ) -> tuple[Value, ...] | None:  # fmt: skip
        """The outputs without a node: as constants, or as integers that are followed."""
        if not spec.foldable or not all(isinstance(d, int) for _, shape in results for d in shape):
            return None
        folded = self._fold_constants(spec, inputs, attrs, results, names)
        return folded if folded is not None else self._fold_content(spec, inputs, attrs, results, names)

    def _fold_constants(
        self, spec: OpSpec, inputs: tuple[Value | None, ...], attrs: dict[str, Any],
        results: list[tuple[DType, tuple[Dim, ...]]], names: Sequence[str],
    ) -> tuple[Value, ...] | None:  # fmt: skip
        arrays = [self.array(v) for v in inputs]
        if spec.reference is None or any(isinstance(a, Expr) for a in _flat_attrs(attrs)):
            return None
        if any(a is None and v is not None for a, v in zip(arrays, inputs, strict=True)):
            return None
        shapes = [static(shape) for _, shape in results]
        size = sum(math.prod(shape) * dtype.size for shape, (dtype, _) in zip(shapes, results, strict=True))
        if size > max(FOLD_LIMIT, *(a.nbytes for a in arrays if a is not None), 0):
            return None
        work = operations(spec.name, arrays, attrs, shapes)
        if work > max(FOLD_OPERATIONS, *(FOLD_PER_BYTE * a.size for a in arrays if a is not None), 0):
            return None
        if not (self._meter.afford("folded_operations", work) and self._meter.afford("folded_bytes", size)):
            return None
        self._meter.tick(spec.name)
        with np.errstate(all="ignore"):
            values = spec.reference(list(arrays), attrs, shapes)
        return tuple(
            self._add_constant(np.asarray(a).astype(dtype.numpy, copy=False), names[i] if i < len(names) else "folded")
            for i, (a, (dtype, _)) in enumerate(zip(values, results, strict=True))
        )

    def _fold_content(
        self, spec: OpSpec, inputs: tuple[Value | None, ...], attrs: dict[str, Any],
        results: list[tuple[DType, tuple[Dim, ...]]], names: Sequence[str],
    ) -> tuple[Value, ...] | None:  # fmt: skip
        if spec.content is None or len(results) != 1 or results[0][0] not in _FOLLOWED:
            return None
        shape = static(results[0][1])
        if math.prod(shape) > CONTENT_LIMIT:
            return None
        contents = [self.content(v) for v in inputs]
        if any(c is None for c in contents):
            return None
        elements = spec.content([c for c in contents if c is not None], attrs, [shape])
        if elements is None:
            return None
        data = np.asarray(elements, dtype=object).reshape(shape)
        if any(_too_long(e) or _wraps(e, results[0][0]) for e in data.flat):
            return None
        return (self.known(data, results[0][0], names[0] if names else "dims"),)

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
            own = value.name == wanted or (value.name in self._made and value.name not in made)
            if names and (not own or value.name in made):
                node = self.producer(value)
                sources = node.provenance if node else () if self._trails([value]) else (wanted,)
                before = value
                with self.source(*sources, of=[value]):
                    value = self.one("copy", [value])
                if len(self._nodes[-1].provenance) > _FEW_SOURCES:
                    self._carried.pop(before.name, None)  # said once: not again by each further copy of it
            results.append(value.name)
            made.add(value.name)
            mapping[value.name] = wanted
            taken.append(wanted)
        graph = Graph(
            self.name, tuple(self.inputs), tuple(results), tuple(self.nodes), dict(self.constants), tuple(updates)
        )
        return rename_values(graph, self._free_names(mapping, set(taken))) if names or labels else graph

    def _free_names(self, mapping: Mapping[str, str], firm: Set[str]) -> dict[str, str]:
        """`mapping` without clashes: firm names go to whom they are meant for, and whoever had one of them gets a fresh
        one.
        """
        inputs = {v.name for v in self.inputs}
        given: dict[str, str] = {}
        used = set(firm)
        for old, new in mapping.items():
            if new in firm and old not in inputs:
                given[old] = new
        for old, new in mapping.items():
            free = new not in self._names or new in self.values  # symbols and values of nested graphs keep their names
            if old not in given and old not in inputs and new not in used and free:
                given[old] = new
                used.add(new)
        for old in [n for n in used if n in self._names and n not in given and n not in inputs]:
            given[old] = self.fresh(old)
        self._names |= used
        return {old: new for old, new in given.items() if old != new}


class _Standing:
    """While it is entered, what a builder makes is made for these sources. (A class: a model has 10^5 nodes.)"""

    __slots__ = ("_before", "_builder", "_now")

    def __init__(self, builder: Builder, provenance: Trail, place: str, allowed: int | None) -> None:
        self._builder = builder
        self._now = provenance, place, allowed

    def __enter__(self) -> None:
        b = self._builder
        self._before = b._provenance, b._place, b._source_nodes[0], b._source_nodes[1]
        b._provenance, b._place, allowed = self._now
        if allowed is not None:
            b._source_nodes[:] = 0, allowed

    def __exit__(self, *_: object) -> None:
        b = self._builder
        b._provenance, b._place, *b._source_nodes[:] = self._before


def _too_long(dim: Any) -> bool:
    if not isinstance(dim, Expr):
        return False
    size, depth = dim.extent
    return size > EXPRESSION_SIZE or depth > EXPRESSION_DEPTH


def _wraps(dim: Any, dtype: DType) -> bool:
    """Whether the type does not hold a number: what then wraps around is no size, but a number for a run to compute."""
    if isinstance(dim, Expr) or dtype is DType.BOOL:
        return False
    limits = np.iinfo(dtype.numpy)
    return not limits.min <= int(dim) <= limits.max


def _attr_key(attr: Any) -> Any:
    """An attribute as a key: 0.0, -0.0, 0 and False are equal in Python, but not here."""
    if isinstance(attr, tuple):
        return tuple(_attr_key(a) for a in attr)
    return (type(attr).__name__, repr(attr)) if isinstance(attr, (bool, int, float)) else attr


def _plain(dim: Any) -> Dim:
    return dim if isinstance(dim, Expr) else int(dim)


def _flat_attrs(attrs: Mapping[str, Any]) -> Iterator[Any]:
    for attr in attrs.values():
        if isinstance(attr, tuple):
            yield from _flat_attrs(dict(enumerate(attr)))  # type: ignore[arg-type]
        else:
            yield attr


def _as_dims(data: np.ndarray) -> np.ndarray:
    elements = np.empty(data.shape, dtype=object)
    for at in np.ndindex(*data.shape):
        elements[at] = int(data[at])
    return elements
