"""Grouping: which nodes become one kernel.

Anchors first: contractions and routines keep a group of their own. Then, in topological order, each statement group
1. takes in producers that only move data, or whose elements it alone reads once each (their statements compose into
   its own);
2. joins, as an epilogue, the contraction whose output it reads at the same point;
3. merges with producers over the same rows (softmax, layer normalisation, elementwise chains), so that what passes
   between them stays in registers or in a row-sized local array.

Every rule that applies is written into the group's `reasons`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, product, sym, symbols
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Graph, Node, Value, free_values
from mapsto.kernel.ast import Cast, Const, Iter, Load, Reduce, Scalar, Stmt, transform, walk, with_value
from mapsto.kernel.compose import (
    complexity,
    has_hard_index,
    identity_prefix,
    index_loads,
    inline,
    is_map,
    is_movement,
    is_pointwise,
    loads_of,
    points,
    reads,
    renamed_iters,
    simplified,
)
from mapsto.ops.lowering import temporaries
from mapsto.ops.registry import Lowering, op
from mapsto.plan.contraction import ACCUMULATOR, Contraction, absorb, is_usable, recognise
from mapsto.plan.names import Names
from mapsto.plan.plan import Plan
from mapsto.plan.transposed import transposed_bias, transposed_phases

# Elements of one row that a merged group may keep between its statements (float32: 64 KiB, half of a typical L2 share).
ROW_LIMIT = 16384
# Below this many elements a merged group runs faster than two steps even on one thread.
SMALL = 32768
COMPLEXITY_LIMIT = 160
TENSOR_LIMIT = 24
# A concatenation of more values than this lies row-major and is written operand by operand.
MOST_OPERANDS = 64


@dataclass
class Group:
    """A set of nodes that one kernel computes. `kind`: rows | contraction | routine | bind | branch | check."""

    kind: str
    nodes: list[Node]
    stmts: list[Stmt] = field(default_factory=list)
    anchor: Contraction | None = None
    phases: tuple[Contraction, ...] = ()
    reasons: list[str] = field(default_factory=list)
    branches: tuple[list[Group], ...] = ()
    name: str = ""
    uses_values: frozenset[str] = frozenset()

    def targets(self) -> list[str]:
        """Values that the group defines, in order."""
        if self.kind in ("routine", "branch", "check"):
            return [v.name for node in self.nodes for v in node.outputs]
        own = [self.anchor.target] if self.anchor else []
        return list(dict.fromkeys(own + [s.target for s in self.stmts]))

    def reads(self) -> set[str]:
        """Values from outside that the group reads."""
        found = set(self.uses_values)
        for stmt in self.stmts:
            found |= reads(stmt)
        for phase in self.phases:
            found |= {phase.a.tensor, phase.b.tensor}
        return found - set(self.targets()) - {ACCUMULATOR}

    @property
    def provenance(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for node in self.nodes for p in node.provenance))


def is_wide(group: Group) -> bool:
    """Whether a group is a concatenation of very many values."""
    return group.kind == "rows" and len(group.stmts) > MOST_OPERANDS and [n.op for n in group.nodes] == ["concat"]


class Region:
    """The groups of one graph level while they are merged."""

    def __init__(
        self,
        graph: Graph,
        values: dict[str, Value],
        constants: dict[str, np.ndarray],
        external: set[str],
        names: Names,
        pinned: Plan | None,
        required: frozenset[Dim] = frozenset(),
    ) -> None:
        self.values = values
        self.constants = constants
        self.external = external
        self.fresh = names.fresh
        self.names = names
        self.pinned = pinned
        self.required = required | {_condition(n) for n in graph.nodes if n.op == "require"}
        self.together = None if pinned is None else pinned.together()
        self.groups: list[Group | None] = []
        self.producer: dict[str, int] = {}
        self.readers: dict[str, set[int]] = {}
        for node in graph.nodes:
            self.groups.append(self._initial(node))
            self._register(len(self.groups) - 1)
        for at in reversed(range(len(self.groups))):
            if self.groups[at] is not None and self.groups[at].kind == "rows":  # type: ignore[union-attr]
                self._drop_if_dead(at)
        for at, group in enumerate(self.groups):
            if group is not None and group.kind == "rows" and not is_wide(group):
                self._improve(at)
            elif group is not None and group.kind == "contraction":
                self._absorb(at)

    # -- making groups -------------------------------------------------------------------------------------------------

    def _initial(self, node: Node) -> Group:
        if node.op == "if":
            used = {n for n in node.inputs if n}
            for inner in node.graphs:
                used |= free_values(inner)
            branches = tuple(
                group_graph(inner, self.values, self.constants, self.names, node.outputs, self.pinned, self.required)
                for inner in node.graphs
            )
            return Group("branch", [node], branches=branches, uses_values=frozenset(used))
        if node.op == "bind_dim":
            return Group("bind", [node], uses_values=frozenset(n for n in node.inputs if n))
        if node.op == "copy":
            return Group("rows", [node], [copy_stmt(self.values[node.inputs[0]], node.output, self.fresh)])
        spec = op(node.op)
        if spec.kind == "control":
            return Group("check", [node], uses_values=frozenset(node.inputs[1:]))  # what is compared
        operands = tuple(self.values[n] if n else None for n in node.inputs)
        if spec.lower is None:
            return Group(
                "routine",
                [node],
                uses_values=frozenset(n for n in node.inputs if n),
                reasons=[f"{node.op} is a routine of its own"],
            )
        stmts = [
            simplified(self._with_literals(renamed_iters(s, self.fresh)))
            for s in spec.lower(Lowering(node, operands, required=self.required))
        ]
        for kept_between in temporaries(stmts, {v.name for v in node.outputs}):
            self.values[kept_between.name] = Value(kept_between.name, kept_between.dtype, kept_between.shape)
        return self._anchor(node, stmts) or Group("rows", [node], stmts)

    def _with_literals(self, stmt: Stmt) -> Stmt:
        """Constants of one element are literals."""

        def leaf(node: Scalar) -> Scalar | None:
            array = self.constants.get(node.tensor) if isinstance(node, Load) else None
            return Const(array.reshape(-1)[0].item(), node.dtype) if array is not None and array.size == 1 else None

        return with_value(stmt, transform(stmt.value, leaf))

    def _anchor(self, node: Node, stmts: list[Stmt]) -> Group | None:
        if op(node.op).kind != "contraction" or len(stmts) != 1:
            return None
        shape = self.values[stmts[0].target].shape
        phases = (
            [stmts[0]]
            if node.op != "conv_transpose"
            else transposed_phases(node, [self.values[n] for n in node.inputs[:2]])
        )
        found = [self._narrowed(recognise(s, shape, frozenset(self.constants))) for s in phases]
        known = [f for f in found if f is not None]
        if len(known) != len(found) or not known or not all(is_usable(c) for c, _ in known):
            return None
        contraction, around = known[0]
        group = Group(
            "contraction",
            [node],
            anchor=contraction,
            phases=tuple(c for c, _ in known),
            reasons=[f"{node.op} has the form of a contraction"],
        )
        if node.op == "conv_transpose" and len(node.inputs) > 2 and node.inputs[2]:
            group.stmts = [transposed_bias(node, self.values[node.inputs[2]])]
            return group
        if not _is_accumulator(around):
            group.stmts = [replace(stmts[0], value=around)]
        return group

    def _narrowed(self, found: tuple[Contraction, Scalar] | None) -> tuple[Contraction, Scalar] | None:
        """32-bit integers that were bytes: A is read where it still is one, a constant B is kept as signed bytes if
        it fits.
        """
        if found is None or found[0].dtype is not DType.I32:
            return found
        c, around = found
        at = self.producer.get(c.a.tensor)
        source = None if at is None else self.groups[at]
        b = self.constants.get(c.b.tensor)
        if source is None or b is None or not _moves(source) or b.size == 0 or b.min() < -128 or b.max() > 127:
            return found
        cast = source.stmts[0].value
        if (
            not isinstance(cast, Cast)
            or not isinstance(cast.arg, Load)
            or cast.arg.dtype is not DType.U8
            or source.stmts[0].index is not None
        ):
            return found
        places = {i.name: e for i, e in zip(source.stmts[0].iters, c.a.index, strict=True)}
        a = Load(cast.arg.tensor, tuple(substitute(e, places) for e in cast.arg.index), DType.U8)
        name = f"{c.b.tensor}.i8"
        self.constants[name] = b.astype(np.int8)
        self.values[name] = Value(name, DType.I8, b.shape)
        return replace(c, a=a, b=replace(c.b, tensor=name, dtype=DType.I8)), around

    def _register(self, at: int) -> None:
        group = self.groups[at]
        assert group is not None
        for name in group.targets():
            self.producer[name] = at
        for name in group.reads():
            self.readers.setdefault(name, set()).add(at)

    def _unregister(self, at: int) -> None:
        group = self.groups[at]
        assert group is not None
        for name in group.reads():
            self.readers.get(name, set()).discard(at)

    # -- improving -----------------------------------------------------------------------------------------------------

    def _improve(self, at: int) -> None:
        """Take in, join or merge with producers until no rule applies."""
        changed = True
        while changed and self.groups[at] is not None:
            group = self.groups[at]
            assert group is not None
            changed = False
            for name in sorted(group.reads(), key=lambda n: -self.producer.get(n, -1)):
                source = self.producer.get(name)
                if source is None or source == at or not self._may_meet(at, source):
                    continue
                if self._take_in(at, name) or self._join_contraction(at, name) or self._merge_rows(at, source):
                    changed = True
                    break

    def _may_meet(self, at: int, source_at: int) -> bool:
        """Whether the two groups still exist and a pinned plan, if there is one, has all their nodes in one group."""
        group, source = self.groups[at], self.groups[source_at]
        if group is None or source is None or is_wide(source):
            return False
        if self.together is None:
            return True
        both = {n.outputs[0].name for n in (*group.nodes, *source.nodes) if n.outputs}
        return any(both <= members for members in self.together)

    def _take_in(self, at: int, name: str) -> bool:
        """Compose the producer of `name` into this group's statements."""
        group, source = self.groups[at], self.groups[self.producer[name]]
        assert group is not None and source is not None
        if group.kind != "rows" or source.kind != "rows" or len(source.stmts) != 1 or not is_map(source.stmts[0]):
            return False
        producer = source.stmts[0]
        if any(name in index_loads(s) for s in group.stmts):
            return False
        occurrences = [(s, load) for s in group.stmts for load in loads_of(s) if load.tensor == name]
        free = is_movement(producer)
        if not free and not self._read_once(name, at, occurrences, producer):
            return False
        stmts = [inline(s, producer) if any(load.tensor == name for load in loads_of(s)) else s for s in group.stmts]
        if any(complexity(s) > COMPLEXITY_LIMIT for s in stmts) or any(has_hard_index(s) for s in stmts):
            return False
        self._unregister(at)
        group.stmts = stmts
        group.nodes = [*(n for n in source.nodes if n not in group.nodes), *group.nodes]
        group.reasons.append(
            f"{name} is {'only moved data' if free else 'read here alone, once an element'}: composed into its reader"
        )
        self._register(at)
        self._drop_if_dead(self.producer[name])
        return True

    def _absorb(self, at: int) -> None:
        """A contraction reads through reshapes and transposes of its operand, where its places stay linear."""
        group = self.groups[at]
        assert group is not None and group.anchor is not None
        while len(group.phases) == 1 and not group.reads() & {group.targets()[-1]}:
            name = group.phases[0].a.tensor
            source_at = self.producer.get(name)
            source = None if source_at is None else self.groups[source_at]
            if source_at is None or source is None or not self._may_meet(at, source_at) or not _moves(source):
                return
            made = absorb(group.phases[0], source.stmts[0])
            if made is None:
                return
            self._unregister(at)
            group.phases, group.anchor = (made,), made
            group.nodes = [*(n for n in source.nodes if n not in group.nodes), *group.nodes]
            group.reasons.append(f"{name} only moves {made.a.tensor}: read where that lies")
            self._register(at)
            self._drop_if_dead(source_at)

    def _read_once(self, name: str, at: int, occurrences: list[tuple[Stmt, Load]], producer: Stmt) -> bool:
        if name in self.external or self.readers.get(name, set()) != {at} or len(occurrences) != 1:
            return False
        ((stmt, load),) = occurrences
        made = product(i.extent for i in producer.iters)
        return known_at_least(made - points(stmt, load), 0)

    def _join_contraction(self, at: int, name: str) -> bool:
        """Become the epilogue of the contraction that makes `name`."""
        group = self.groups[at]
        source_at = self.producer[name]
        source = self.groups[source_at]
        assert group is not None and source is not None
        if group.kind != "rows" or source.kind != "contraction" or source.anchor is None:
            return False
        if name in self.external or self.readers.get(name, set()) != {at} or len(source.stmts) + len(group.stmts) > 8:
            return False
        shape = source.anchor.shape
        if source.targets()[-1] != name:
            return False
        whole = [
            s for s in group.stmts if is_pointwise(s) and s.index is None and tuple(i.extent for i in s.iters) == shape
        ]
        if len(whole) != len(group.stmts) or any(
            not self._at_same_point(s, set(source.targets()) | set(group.targets())) for s in group.stmts
        ):
            return False
        outside = [t for t in group.targets() if t in self.external or self.readers.get(t, set()) - {at}]
        if len(group.targets()) > 1 and outside not in ([], group.targets()[-1:]):
            return False
        self._unregister(at)
        self._unregister(source_at)
        merged = Group(
            "contraction",
            [*source.nodes, *group.nodes],
            [*source.stmts, *group.stmts],
            source.anchor,
            source.phases,
            [
                *source.reasons,
                *group.reasons,
                f"{', '.join(n.op for n in group.nodes)} computed on the accumulators of {name}",
            ],
        )
        self.groups[at] = merged
        self.groups[source_at] = None
        self._register(at)
        return True

    def _at_same_point(self, stmt: Stmt, inside: set[str]) -> bool:
        return all(
            identity_prefix(stmt, load.index) == len(stmt.iters) for load in loads_of(stmt) if load.tensor in inside
        )

    def _merge_rows(self, at: int, source_at: int) -> bool:
        group, source = self.groups[at], self.groups[source_at]
        assert group is not None and source is not None
        if group.kind != "rows" or source.kind != "rows":
            return False
        if any(
            reader <= at and reader != at
            for t in source.targets()
            for reader in self.readers.get(t, set())
            if reader != source_at
        ):
            return False
        stmts = [*source.stmts, *group.stmts]
        tensors = set().union(*(reads(s) for s in stmts)) | {s.target for s in stmts}
        if len(tensors) > TENSOR_LIMIT or not self._rows_fit(stmts, source):
            return False
        self._unregister(at)
        self._unregister(source_at)
        self.groups[at] = Group(
            "rows",
            [*source.nodes, *group.nodes],
            stmts,
            None,
            (),
            [*source.reasons, *group.reasons, "merged over the same rows"],
        )
        self.groups[source_at] = None
        self._register(at)
        return True

    def _rows_fit(self, stmts: list[Stmt], source: Group) -> bool:
        """Whether what passes between the statements is pointwise, or small enough to stay in a row."""
        made = set(source.targets())
        if any(made & index_loads(s) for s in stmts):
            return False
        used = [(s, load) for s in stmts for load in loads_of(s) if load.tensor in made]
        if not used:
            return False
        shared = shared_dims(stmts)
        ranks = {t: len(self.values[t].shape) for t in made}
        if all(len(shared) >= ranks[load.tensor] for _, load in used):
            return True
        if not shared or any(not _whole_rows(s, load.index, shared) for s, load in used):
            return False
        if any(_has_windows(s) for s in source.stmts):
            return False  # it goes over its points as it likes best; a row at a time would take that from it
        shapes = [self.values[load.tensor].shape for _, load in used]
        inner = [product(d for at, d in enumerate(shape) if at not in shared) for shape in shapes]
        outer = product(shapes[0][d] for d in shared)
        known = [i for i in inner if isinstance(i, int)]
        if any(i > ROW_LIMIT for i in known):
            return False
        return not isinstance(outer, int) or outer >= 8 or (len(known) == len(inner) and outer * max(known) <= SMALL)

    def _drop_if_dead(self, at: int) -> None:
        """Remove a group whose targets nobody reads any more."""
        group = self.groups[at]
        assert group is not None
        if any(t in self.external or self.readers.get(t) for t in group.targets()):
            return
        self._unregister(at)
        self.groups[at] = None

    def finished(self) -> list[Group]:
        return [g for g in self.groups if g is not None]


def _condition(node: Node) -> Dim:
    condition = node.attrs["condition"]
    assert isinstance(condition, (int, Expr))
    return condition


def copy_stmt(source: Value, target: Value, fresh: Callable[[str], str]) -> Stmt:
    """target[i...] = source[i...]."""
    iters = tuple(Iter(fresh("i"), extent) for extent in target.shape)
    return Stmt(target.name, target.dtype, iters, Load(source.name, tuple(sym(i.name) for i in iters), source.dtype))


def _moves(group: Group) -> bool:
    return group.kind == "rows" and len(group.stmts) == 1 and is_movement(group.stmts[0])


def _is_accumulator(e: Scalar) -> bool:
    return getattr(e, "tensor", None) == ACCUMULATOR


def _whole_rows(stmt: Stmt, index: tuple[Dim, ...], shared: tuple[int, ...]) -> bool:
    """Whether the dims of a load that are not shared are at bare iterators or at 0: no windows, no shifts."""
    names = {i.name for i in stmt.iters}
    for node in walk(stmt.value):
        if isinstance(node, Reduce):
            names |= {i.name for i in node.iters}
    return all(e == 0 or any(e == sym(n) for n in names) for d, e in enumerate(index) if d not in shared)


def _has_windows(stmt: Stmt) -> bool:
    """Whether a reduction reads at sums of its own iterators and the statement's (pooling, depthwise convolution)."""
    own = {i.name for i in stmt.iters}
    for node in walk(stmt.value):
        if not isinstance(node, Reduce):
            continue
        inner = {i.name for i in node.iters}
        loads = (n for n in walk(node.body) if isinstance(n, Load))
        if any(symbols(e) & inner and symbols(e) & own for load in loads for e in load.index):
            return True
    return False


def shared_dims(stmts: Iterable[Stmt]) -> tuple[int, ...]:
    """The dims of the targets that all statements iterate alike, and at which each reads what the others made.

    Where all targets have one rank these may be any dims (a softmax over channels shares all but those); else they
    are leading ones.
    """
    stmts = list(stmts)
    rank = min(len(s.iters) for s in stmts)
    shared = [d for d in range(rank) if all(s.iters[d].extent == stmts[0].iters[d].extent for s in stmts)]
    targets = {s.target for s in stmts}
    for stmt in stmts:
        if index_loads(stmt) & targets:
            return ()
        for index in _own_indices(stmt, targets):
            shared = [d for d in shared if d < len(index) and _is_iter(index[d], stmt.iters[d])]
        if stmt.scan is not None:
            scanned = [i.name for i in stmt.iters].index(stmt.scan.iter)
            shared = [d for d in shared if d != scanned]
    if any(len(s.iters) != rank for s in stmts):
        shared = [d for at, d in enumerate(shared) if d == at]
    return tuple(shared)


def _own_indices(stmt: Stmt, targets: set[str]) -> list[tuple[Dim, ...]]:
    """Indices at which a statement touches what its group makes."""
    found = [load.index for load in loads_of(stmt) if load.tensor in targets]
    return found if stmt.index is None else [*found, stmt.index]


def _is_iter(e: Dim, it: Iter) -> bool:
    return e == sym(it.name) or (it.extent == 1 and e == 0)


def row_order(stmts: list[Stmt]) -> tuple[int, ...] | None:
    """The order of dims that puts the shared ones first; None where they are first already."""
    shared = shared_dims(stmts)
    if shared == tuple(range(len(shared))):
        return None
    return (*shared, *(d for d in range(len(stmts[0].iters)) if d not in shared))


def group_graph(
    graph: Graph,
    values: dict[str, Value],
    constants: dict[str, np.ndarray],
    names: Names,
    copies: tuple[Value, ...] = (),
    pinned: Plan | None = None,
    required: frozenset[Dim] = frozenset(),
) -> list[Group]:
    """The groups of a graph. `copies`: the graph is a branch, whose outputs are copied to these values. `required`:
    what a run has checked of its sizes by then, each at least 0.
    """
    values.update(graph.values())
    constants.update(graph.constants)
    external = set(graph.outputs)
    if copies:
        extra = tuple(
            Node("copy", (name,), (target,), {}, (), ()) for name, target in zip(graph.outputs, copies, strict=True)
        )
        graph = replace(graph, nodes=(*graph.nodes, *extra))
        external = {v.name for v in copies}
    for node in graph.nodes:
        for value in node.outputs:
            values[value.name] = value
    region = Region(graph, values, constants, external, names, pinned, required)
    return region.finished()
