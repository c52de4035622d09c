"""rows: tasks over the same rows are one kernel, so that what passes between them stays in registers or in a row-sized
local array (softmax, layer normalisation, elementwise chains).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mapsto.ir.expr import Dim, product, sym, symbols
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, Load, Reduction, Stmt, bodies, walk
from mapsto.kernel.compose import index_loads, loads_of, reads
from mapsto.kernel.facts import facts
from mapsto.plan.layout import plain
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Around, Refusal, Rule
from mapsto.plan.task import Task, joined_nodes
from mapsto.plan.views import view_layout, view_source

TENSOR_LIMIT = 24
# Rows for each unit from which on shares differ little.
_SHARES = 4


def _allowed(source: Task, reader: Task, value: str, around: Around) -> str:
    if around.between():
        return f"something in between reads what {source.targets[-1]} is made with"
    if len(source.reads.union(source.targets, reader.reads, reader.targets)) > TENSOR_LIMIT:
        return f"one kernel would touch more than {TENSOR_LIMIT} tensors"
    if not around.alone(value) and _is_view(reader, around.value(value)):
        return f"{reader.targets[-1]} is a view of {value}, which is in memory for others too: it needs no code"
    return ""


def _is_view(reader: Task, of: Value) -> bool:
    """Whether a task only moves the elements of a row-major value, to where strides say."""
    load = view_source(reader)
    return (
        load is not None
        and load.tensor == of.name
        and view_layout(reader.stmts[0], load, plain(of.shape), 0) is not None
    )


def _join(source: Task, reader: Task, value: str) -> Task | Refusal:
    return replace(
        reader,
        recipe=made("rows", source.recipe, reader.recipe),
        nodes=joined_nodes(source.nodes, reader.nodes),
        stmts=(*source.stmts, *reader.stmts),
        because=(*source.because, *reader.because, "merged over the same rows"),
        made={**source.made, **reader.made},
    )


def _pays(source: Task, reader: Task, value: str, joined: Task, around: Around) -> str:
    return _misfit(joined, source, around)


def _misfit(joined: Task, source: Task, around: Around) -> str:
    """"" where what passes between the statements is pointwise, or stays in a row, if that costs less."""
    made_here, stmts = set(source.targets), joined.stmts
    if any(made_here & index_loads(s) for s in stmts):
        return f"elements of {', '.join(source.targets)} are indices"
    used = [(s, load) for s in stmts for load in loads_of(s) if load.tensor in made_here]
    if not used:
        return "nothing passes between them"
    shared = shared_dims(stmts)
    ranks = {t: around.value(t).rank for t in made_here}
    if all(len(shared) >= ranks[load.tensor] for _, load in used):
        return ""
    if not shared or any(not _whole_rows(s, load.index, shared) for s, load in used):
        return "they do not go over the same rows"
    if any(_has_windows(s) for s in source.stmts):
        return f"{source.targets[-1]} is made of windows: it goes over its points as it likes best, not row by row"
    return _dearer(joined, shared, [around.value(load.tensor) for _, load in used], around)


def _dearer(joined: Task, shared: tuple[int, ...], passed: Sequence[Value], around: Around) -> str:
    """"" where rows stay in the nearest memory and are enough for all units, or where one kernel costs less."""
    inner = max(
        around.size(product(d for at, d in enumerate(value.shape) if at not in shared)) * value.dtype.size
        for value in passed
    )
    outer = around.size(product(passed[0].shape[d] for d in shared))
    if inner <= around.spec.levels[0].bytes and outer >= _SHARES * around.spec.units:
        return ""
    saved = around.saved(joined)
    if saved >= -around.spec.launch:  # no more than a step more or less
        return ""
    return f"row by row ({outer} rows, {inner} bytes of one between them) they take {-saved * 1e6:.2g} us more"


def _whole_rows(stmt: Stmt, index: tuple[Dim, ...], shared: tuple[int, ...]) -> bool:
    """Whether the dims of a load that are not shared are at bare iterators or at 0: no windows, no shifts."""
    names = {i.name for i in stmt.iters}
    if facts(stmt.value).reduces:
        names |= {i.name for node in walk(stmt.value) if isinstance(node, Reduction) for i in node.iters}
    return all(e == 0 or any(e == sym(n) for n in names) for d, e in enumerate(index) if d not in shared)


def _has_windows(stmt: Stmt) -> bool:
    """Whether a reduction reads at sums of its own iterators and the statement's (pooling, depthwise convolution)."""
    own = {i.name for i in stmt.iters}
    if not facts(stmt.value).reduces:
        return False
    for node in walk(stmt.value):
        if not isinstance(node, Reduction):
            continue
        inner = {i.name for i in node.iters}
        loads = (n for body in bodies(node) for n in walk(body) if isinstance(n, Load))
        if any(symbols(e) & inner and symbols(e) & own for load in loads for e in load.index):
            return True
    return False


def shared_dims(stmts: Sequence[Stmt]) -> tuple[int, ...]:
    """The dims of the targets that all statements iterate alike, and at which each reads what the others made.

    Where all targets have one rank these may be any dims (a softmax over channels shares all but those); else they
    are leading ones.
    """
    rank = min(len(s.iters) for s in stmts)
    shared = [d for d in range(rank) if all(s.iters[d].extent == stmts[0].iters[d].extent for s in stmts)]
    targets = _met_again(stmts)
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


def _met_again(stmts: Sequence[Stmt]) -> set[str]:
    """Targets that other statements read, or write too: where the others are written makes no difference to any."""
    written = [s.target for s in stmts]
    return {t for t in written if written.count(t) > 1 or any(t in reads(s) for s in stmts)}


def _own_indices(stmt: Stmt, targets: set[str]) -> list[tuple[Dim, ...]]:
    """Indices at which a statement touches what is met again."""
    found = [load.index for load in loads_of(stmt) if load.tensor in targets]
    return found if stmt.index is None or stmt.target not in targets else [*found, stmt.index]


def _is_iter(e: Dim, it: Iter) -> bool:
    return e == sym(it.name) or (it.extent == 1 and e == 0)


def row_order(stmts: Sequence[Stmt]) -> tuple[int, ...] | None:
    """The order of dims that puts the shared ones first; None where they are first already."""
    shared = shared_dims(stmts)
    if shared == tuple(range(len(shared))):
        return None
    return (*shared, *(d for d in range(len(stmts[0].iters)) if d not in shared))


ROWS = Rule("rows", "rows", "rows", _allowed, _join, _pays)
