"""Chains: a contraction, statements over its rows, and a contraction that reads these rows (attention: products of
queries and keys, their softmax, products with values), done by blocks of rows, so that what passes between them is in
memory a block at a time.

The rule looks at form alone. x is what the first contraction makes, w what the second one reads by strides; both have
their last dim along which rows are made (columns of the first, channels of the second), and a row is a point of all
other dims. Rows of one of these dims are a block; the others are walked one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call, Dim, Expr, add, atoms, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Index, Iter, Load, Reduction, Scalar, Stmt, Where, bodies, transform, walk
from mapsto.kernel.compose import index_loads, loads_of
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task, joined_nodes

CHAIN = "chain"
_STAGES = 3
_LEAST_ROWS = 16  # fewer make no block


@dataclass(frozen=True)
class ChainForm:
    """What a chain goes over. outer: dims of x and w that are walked one by one, with their extents; row: the dim of
    which a block has some; rows, columns: extents of that one and the last. x, w: what passes, of these types.
    """

    outer: tuple[tuple[int, Dim], ...]
    row: int
    rows: Dim
    columns: Dim
    rank: int
    x: str
    w: str
    x_type: DType
    w_type: DType

    @property
    def in_place(self) -> bool:
        """Whether w's rows take the place of x's."""
        return self.x_type is self.w_type


@dataclass(frozen=True)
class RowBlock:
    """One block: where it starts, by dims of x and w, and how many rows it has."""

    starts: Mapping[int, Dim]
    rows: Dim


def chain_join(*stages: Task) -> Task | Refusal:
    """The chain of three tasks, each of which reads what the one before it makes."""
    if len(stages) != _STAGES:
        return Refusal(f"a chain has {_STAGES} stages, not {len(stages)}")
    first, middle, last = stages
    form = _form_of(first, middle, last)
    if isinstance(form, Refusal):
        return form
    return Task(
        CHAIN,
        made(CHAIN, first.recipe, middle.recipe, last.recipe),
        joined_nodes(first.nodes, middle.nodes, last.nodes),
        because=(f"by blocks of rows: {form.x} and {form.w} are in memory a block at a time",),
        made={**first.made, **middle.made, **last.made},
        constants={**first.constants, **middle.constants, **last.constants},
        stages=stages,
    )


def form_of(task: Task) -> ChainForm:
    """What a chain goes over."""
    form = _form_of(*task.stages)
    assert not isinstance(form, Refusal)
    return form


def _form_of(first: Task, middle: Task, last: Task) -> ChainForm | Refusal:
    x, w = first.targets[-1], middle.targets[-1] if middle.targets else ""
    kinds = first.kind, middle.kind, last.kind
    if kinds != ("contraction", "rows", "contraction") or len(first.phases) != 1 or len(last.phases) != 1:
        return Refusal("it is no contraction of rows that one contraction makes")
    c, then = first.phases[0], last.phases[0]
    if x not in middle.reads or then.a.tensor != w:
        return Refusal(f"{w} is not what {last.targets[-1]} multiplies by strides")
    others = {then.b.tensor, *(load.tensor for s in last.stmts for load in loads_of(s))}
    if w in others or x in others:
        return Refusal(f"{last.targets[-1]} reads more of {w} than its rows")
    if c.guards or then.guards or any(next(_tests(task), None) is not None for task in (first, middle, last)):
        return Refusal("what is read depends on sizes that only a run knows")
    return _placed(c, then, first, middle, x, w)


def _placed(c: Contraction, then: Contraction, first: Task, middle: Task, x: str, w: str) -> ChainForm | Refusal:
    """The form, where every stage goes over the same rows."""
    rank, column, channel = len(c.index), c.cols[0], then.channels[0]
    if rank < 2 or len(then.a.index) != rank or len(then.reds) != 1:
        return Refusal(f"{x} and {w} have other dims than rows and columns")
    if c.index[-1] != sym(column.name) or then.a.index[-1] != sym(channel.name) or column.extent != channel.extent:
        return Refusal(f"the last dim of {x} is not what is summed over")
    shape = tuple(c.shape)
    for d in range(rank - 1):
        for e, iters in ((c.index[d], c.iters), (then.a.index[d], then.iters)):
            if not (e == 0 and shape[d] == 1) and not any(e == sym(i.name) and i.extent == shape[d] for i in iters):
                return Refusal(f"dim {d} of {x} is not walked row by row")
    if any(len(s.iters) != rank or s.index is not None or s.scan is not None for s in first.stmts):
        return Refusal(f"{x} is not computed point by point from its sums")
    if why := _over_rows(middle, shape, x):
        return Refusal(why)
    free = [d for d in range(rank - 1) if _is_row(c.index[d], c) and _is_row(then.a.index[d], then)]
    if not free:
        return Refusal("no dim of both products is one of rows alone")
    row = max(free, key=lambda d: (not isinstance(shape[d], int), shape[d] if isinstance(shape[d], int) else 0))
    few = shape[row]
    if isinstance(few, int) and few < _LEAST_ROWS:
        return Refusal(f"{few} rows make no block")
    outer = tuple((d, shape[d]) for d in range(rank - 1) if d != row and shape[d] != 1)
    types = {s.target: s.dtype for s in (*first.stmts, *middle.stmts)}
    return ChainForm(outer, row, shape[row], column.extent, rank, x, w, types.get(x, c.dtype), types[w])


def _is_row(e: Dim, c: Contraction) -> bool:
    return any(e == sym(i.name) for i in c.rows)


def _over_rows(middle: Task, shape: Sequence[Dim], x: str) -> str:
    """"" where statements go over rows of this shape, each of its own, and the last one reads x where it writes alone,
    once all else is done with the row.
    """
    inner = {x, *middle.targets}
    for s in middle.stmts:
        if s.index is not None or s.scan is not None or len(s.iters) < len(shape) - 1 or index_loads(s) & inner:
            return f"{s.target} is not made row by row"
        names = [i.name for i in s.iters]
        if any(i.extent != extent for i, extent in zip(s.iters, shape[:-1], strict=False)):
            return f"{s.target} has other rows than {x}"
        for load in (each for each in loads_of(s) if each.tensor in inner):
            for d, e in enumerate(load.index[: len(shape) - 1]):
                if e != sym(names[d]) and not (e == 0 and shape[d] == 1):
                    return f"{s.target} reads other rows of {load.tensor}"
    final = middle.stmts[-1]
    if len(final.iters) != len(shape) or final.iters[-1].extent != shape[-1]:
        return f"{final.target} has other columns than {x}"
    if any(s.target == final.target for s in middle.stmts[:-1]):
        return f"{final.target} is made by more than one statement"
    at = tuple(sym(i.name) for i in final.iters)
    reduced = {
        id(n) for node in walk(final.value) if isinstance(node, Reduction) for b in bodies(node) for n in walk(b)
    }
    for load in (n for n in walk(final.value) if isinstance(n, Load) and n.tensor == x and id(n) not in reduced):
        if any(a != b and not (a == 0 and i.extent == 1) for a, b, i in zip(load.index, at, final.iters, strict=True)):
            return f"{final.target} reads {x} elsewhere than where it is written"
    if any(final.iters[-1].name in _names(n) for n in walk(final.value) if isinstance(n, Reduction)):
        return f"{final.target} sums something else for each of its columns"
    return ""


def _names(node: Reduction) -> frozenset[str]:
    """Of iterators that occur in a reduction."""
    loads = (n for body in bodies(node) for n in walk(body) if isinstance(n, Load))
    return frozenset(name for load in loads for e in load.index if isinstance(e, Expr) for name in e.names)


def _tests(task: Task) -> Iterator[Call]:
    """Tests of extents that only a run knows (`usual` makes two cases of a task with those)."""
    for s in task.stmts:
        for node in walk(s.value):
            exprs: Sequence[Dim] = ()
            if isinstance(node, Load):
                exprs = node.index
            elif isinstance(node, Where):
                exprs = node.conds
            elif isinstance(node, Index):
                exprs = (node.expr,)
            yield from (a for e in exprs for a in atoms(e) if isinstance(a, Call) and a.fn == "equal")
    for c in task.phases:
        yield from (a for e in (*c.a.index, *c.b.index) for a in atoms(e) if isinstance(a, Call) and a.fn == "equal")


# -- one block ---------------------------------------------------------------------------------------------------------


def block_of(task: Task, form: ChainForm, block: RowBlock) -> tuple[Task, Task, Task]:
    """The stages over one block. What passes between them has the block's rows alone, from 0 on; all else lies where it
    lies, from the block's starts on.
    """
    first, middle, last = task.stages
    cut = _Cut(form, block, frozenset((form.x, ACCUMULATOR, *first.targets, *middle.targets)))
    c, then = first.phases[0], last.phases[0]
    made_x = replace(
        cut.contraction(c, c.index), a=cut.load(c.a, c.index), b=cut.load(c.b, c.index), shape=cut.shape(c.shape)
    )
    again = cut.contraction(then, then.a.index)
    made_y = replace(
        again,
        b=cut.load(then.b, then.a.index),
        index=tuple(substitute(e, cut.starts(then.a.index)) for e in then.index),
    )
    return (
        replace(first, stmts=tuple(map(cut.stmt, first.stmts)), phases=(made_x,)),
        replace(middle, stmts=tuple(map(cut.stmt, middle.stmts))),
        replace(last, stmts=tuple(cut.outermost(s, then) for s in last.stmts), phases=(made_y,)),
    )


@dataclass(frozen=True)
class _Cut:
    """How iterators over all rows become iterators over a block's."""

    form: ChainForm
    block: RowBlock
    internal: frozenset[str]

    def shape(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(self.extent(d, extent) for d, extent in enumerate(shape))

    def extent(self, d: int, extent: Dim) -> Dim:
        if d == self.form.row:
            return self.block.rows
        return 1 if d < self.form.rank - 1 else extent

    def starts(self, index: Sequence[Dim]) -> dict[str, Dim]:
        """What iterators of all rows are, by those of a block: index is where they walk x or w."""
        found: dict[str, Dim] = {}
        for d, e in enumerate(index[: self.form.rank - 1]):
            if isinstance(e, Expr) and d in self.block.starts:
                (name,) = e.names
                start = self.block.starts[d]
                found[name] = add(start, sym(name)) if d == self.form.row else start
        return found

    def iters(self, iters: tuple[Iter, ...], index: Sequence[Dim]) -> tuple[Iter, ...]:
        dims = {name: d for d, e in enumerate(index[: self.form.rank - 1]) if isinstance(e, Expr) for name in e.names}
        return tuple(Iter(i.name, self.extent(dims[i.name], i.extent)) if i.name in dims else i for i in iters)

    def contraction(self, c: Contraction, index: Sequence[Dim]) -> Contraction:
        def cut(iters: tuple[Iter, ...]) -> tuple[Iter, ...]:
            return self.iters(iters, index)

        return replace(c, iters=cut(c.iters), batch=cut(c.batch), rows=cut(c.rows), cols=cut(c.cols))

    def load(self, load: Load, index: Sequence[Dim]) -> Load:
        at = self.starts(index)
        return replace(load, index=tuple(substitute(e, at) for e in load.index))

    def stmt(self, s: Stmt) -> Stmt:
        """A statement whose own dims are those of x and w."""
        own = tuple(sym(i.name) for i in s.iters)
        at = self.starts(own)

        def leaf(node: Scalar) -> Scalar | None:
            return node if isinstance(node, Load) and node.tensor in self.internal else None

        value = transform(s.value, leaf, lambda e: substitute(e, at))
        return replace(s, iters=self.iters(s.iters, own), value=value)

    def outermost(self, s: Stmt, c: Contraction) -> Stmt:
        """A statement on the sums of the last stage: its iterators are bound to where these lie."""
        moved = dict(zip((i.name for i in s.iters), c.index, strict=True))
        cut = {i.name: i.extent for i in self.iters(c.iters, c.a.index)}
        extents = {
            name: cut[next(iter(e.names))] for name, e in moved.items() if isinstance(e, Expr) and len(e.names) == 1
        }
        return replace(s, iters=tuple(Iter(i.name, extents.get(i.name, i.extent)) for i in s.iters))
