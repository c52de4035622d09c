"""siblings: contractions that read one A by one index form and differ in constants alone are one contraction, with B's
columns side by side. What each of them made is a slice of the one result, along its columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mapsto.budget import current
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call as ExprCall
from mapsto.ir.expr import Dim, add, atoms, product, round_up, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Const, Index, Iter, Load, Scalar, Stmt, Where, transform, walk
from mapsto.kernel.compose import index_loads, loads_of
from mapsto.plan.access import access
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.home import Border, Home, layout_for
from mapsto.plan.layout import Layout
from mapsto.plan.recipe import made, of
from mapsto.plan.rules.base import Beside, Constants, Refusal, SiblingRule
from mapsto.plan.task import Task, joined_nodes
from mapsto.plan.views import view_layout, view_source

# Contractions that become one. Each saves a step and a pass over A; after a few there is little left to save.
MOST_SIBLINGS = 16
# Bytes of B side by side: a share of the last-level cache, from where B comes for each block of A's rows, as those of
# the single ones would. It also bounds what a compile holds twice: constants as they came, and side by side.
MOST_BYTES = 16 << 20
# Elements of a row: where they are fewer, statements that go over a whole value at once lose by going row by row.
LEAST_RUN = 64
# The share of their time that siblings must save as one. Below, it is within what prices are good for, and less than
# what prices do not know: that readers find rows farther apart, and that another unit may have made a part of a row.
LEAST_GAIN = 0.1


# -- alike but for constants -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """A constant of a task: as it is read, in the names of a sibling; its elements (None: it is a literal); and the
    iterator of the columns there.
    """

    read: Const | Load
    array: np.ndarray | None
    column: str


@dataclass(frozen=True)
class _Apart:
    """A task taken apart, in the names of a sibling: its sums without B; its statements with holes for constants; and
    these constants, B first, then its scales where it has some.
    """

    sums: object
    stmts: tuple[Stmt, ...]
    held: tuple[_Held, ...]


def _apart(task: Task, like: Task, constants: Constants) -> _Apart:
    """The two have as many statements and results."""
    c, other = task.phases[0], like.phases[0]
    held = [_Held(replace(load, tensor="", index=_in_names(load.index, _renaming(c, other))),
                  _array(load.tensor, task, constants), other.cols[0].name) for load in c.operands[1:]]  # fmt: skip
    names = dict(zip(task.targets, like.targets, strict=True))
    stmts = []
    for stmt, model in zip(task.stmts, like.stmts, strict=True):
        open_stmt, found = _with_holes(stmt, model, names, task, constants)
        stmts.append(open_stmt)
        held.extend(found)
    return _Apart(_sums(c, other), tuple(stmts), tuple(held))


def _array(name: str, task: Task, constants: Constants) -> np.ndarray | None:
    return task.constants[name] if name in task.constants else constants.get(name)


def _with_holes(
    stmt: Stmt, model: Stmt, names: Mapping[str, str], task: Task, constants: Constants
) -> tuple[Stmt, list[_Held]]:
    dim = task.phases[0].column_dim
    assert dim is not None
    column = model.iters[dim].name
    renamed: dict[str, Dim] = {a.name: sym(b.name) for a, b in zip(stmt.iters, model.iters, strict=True)}
    held: list[_Held] = []

    def leaf(node: Scalar) -> Scalar | None:
        if isinstance(node, Const):
            held.append(_Held(node, None, column))
        elif isinstance(node, Load):
            node = Load(names.get(node.tensor, node.tensor), _in_names(node.index, renamed), node.dtype)
            if node.tensor not in constants:
                return node
            held.append(_Held(node, constants[node.tensor], column))
        else:
            return None
        return Load(ACCUMULATOR, (), node.dtype)

    value = transform(stmt.value, leaf, lambda e: substitute(e, renamed))
    iters = tuple(
        Iter(b.name, 0 if d == dim else a.extent) for d, (a, b) in enumerate(zip(stmt.iters, model.iters, strict=True))
    )
    return replace(stmt, target=names[stmt.target], iters=iters, value=value), held


def _renaming(c: Contraction, like: Contraction) -> dict[str, Dim]:
    pairs = zip((*c.iters, *c.reds), (*like.iters, *like.reds), strict=False)
    return {a.name: sym(b.name) for a, b in pairs}


def _in_names(exprs: Sequence[Dim], renamed: Mapping[str, Dim]) -> tuple[Dim, ...]:
    return tuple(substitute(e, renamed) for e in exprs)


def _sums(c: Contraction, like: Contraction) -> object:
    """All of a contraction but its B, its target and the number of its columns, in the names of another."""
    renamed, (column,) = _renaming(c, like), c.cols

    def groups(iters: Sequence[Iter]) -> tuple[tuple[Dim, Dim], ...]:
        return tuple((substitute(sym(i.name), renamed), 0 if i.name == column.name else i.extent) for i in iters)

    return (
        (c.dtype, c.a.tensor, c.a.dtype, c.b.dtype, c.column_dim, c.block),
        tuple(_in_names(exprs, renamed) for exprs in (c.a.index, c.b.index, c.guards, c.index)),
        tuple(groups(iters) for iters in (c.iters, c.batch, c.rows, c.reds)),
        tuple(extent for d, extent in enumerate(c.shape) if d != c.column_dim),
    )


def _fits(first: Task, second: Task, constants: Constants) -> str:
    found = _taken_apart((first, second), constants)
    if isinstance(found, Refusal):
        return found.why
    united = _united(found, (first, second))
    return united.why if isinstance(united, Refusal) else ""


def _taken_apart(tasks: Sequence[Task], constants: Constants) -> list[_Apart] | Refusal:
    """Each task in the names of the first, where they are alike."""
    for task in tasks:
        if why := _several(task, constants):
            return Refusal(why)
    first = tasks[0]
    names = first.phases[0].a.tensor, first.targets[-1]
    one = _apart(first, first, constants)
    if any(_counts_columns(stmt, first) for stmt in one.stmts):
        return Refusal(f"{names[1]} is made of what depends on the column and is no constant")
    found = [one]
    for task in tasks[1:]:
        final = task.targets[-1]
        if _sums(task.phases[0], first.phases[0]) != one.sums:
            return Refusal(f"{final} is summed over {names[0]} in another way than {names[1]}")
        alike = len(task.stmts) == len(first.stmts) and len(task.targets) == len(first.targets)
        other = _apart(task, first, constants) if alike else None
        if other is None or other.stmts != one.stmts:
            return Refusal(f"{final} is made of its sums in another way than {names[1]}")
        found.append(other)
    return found


def _several(task: Task, constants: Constants) -> str:
    """Why a task is not one sum of products whose columns are a dim of a constant and of the result."""
    name = task.targets[-1]
    if task.kind != "contraction" or len(task.phases) != 1:
        return f"{name} is not one sum of products"
    c = task.phases[0]
    if _array(c.b.tensor, task, constants) is None:
        return f"{c.b.tensor} is no constant"
    column, dim = c.cols[0], c.column_dim
    if not isinstance(column.extent, int) or dim is None or c.index[dim] != sym(column.name):
        return f"the columns of {name} are not one dim of a known extent"
    whole = all(s.index is None and s.scan is None and len(s.iters) == len(c.shape) for s in task.stmts)
    return "" if whole else f"{name} is not computed point by point from its sums"


def _counts_columns(stmt: Stmt, task: Task) -> bool:
    """Whether a statement with holes still depends on the number of a column, but for where it reads its own sums."""
    dim = task.phases[0].column_dim
    assert dim is not None
    column = stmt.iters[dim].name
    for node in walk(stmt.value):
        exprs: Sequence[Dim] = ()
        if isinstance(node, Index):
            exprs = (node.expr,)
        elif isinstance(node, Where):
            exprs = node.conds
        elif isinstance(node, Load) and node.tensor != ACCUMULATOR and node.tensor not in task.targets:
            exprs = node.index
        if any(column in symbols(e) for e in exprs):
            return True
    return False


# -- constants side by side --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Beside:
    """One constant made of several: how it is read, and its parts along an axis."""

    index: tuple[Dim, ...]
    dtype: DType
    axis: int
    parts: tuple[np.ndarray, ...]


def _united(found: Sequence[_Apart], tasks: Sequence[Task]) -> list[Const | Load | _Beside] | Refusal:
    """What stands for each constant, B first: one that all have in common, or one that has theirs by column."""
    extents = [_columns(task) for task in tasks]
    done: list[Const | Load | _Beside] = []
    for held in zip(*(apart.held for apart in found), strict=True):
        one = _one(held, extents)
        if one is None:
            names = ", ".join(task.targets[-1] for task in tasks)
            return Refusal(f"constants of {names} do not lie alike")
        done.append(one)
    return done


def _columns(task: Task) -> int:
    extent = task.phases[0].cols[0].extent
    assert isinstance(extent, int)
    return extent


def _one(held: Sequence[_Held], extents: Sequence[int]) -> Const | Load | _Beside | None:
    column = held[0].column
    models = [h for h in held if isinstance(h.read, Load) and any(column in symbols(e) for e in h.read.index)]
    if models:
        (read, array) = models[0].read, models[0].array
        assert isinstance(read, Load) and array is not None
        index, shape = read.index, array.shape
    elif len({repr(h.read) for h in held}) == 1:  # 0.0 == -0.0, but they are not written alike
        return held[0].read
    else:
        index, shape = (sym(column),), (1,)
    axes = [axis for axis, e in enumerate(index) if column in symbols(e)]
    if len(axes) != 1 or index[axes[0]] != sym(column):
        return None
    shapes = [(*shape[: axes[0]], extent, *shape[axes[0] + 1 :]) for extent in extents]
    parts = [_part_of(h, index, shape) for h, shape in zip(held, shapes, strict=True)]
    known = tuple(part for part in parts if part is not None)
    return _Beside(index, held[0].read.dtype, axes[0], known) if len(known) == len(parts) else None


def _part_of(held: _Held, index: tuple[Dim, ...], shape: tuple[int, ...]) -> np.ndarray | None:
    """The columns of one task in a constant of this shape; a literal is the same for all of them."""
    if isinstance(held.read, Const):
        return np.broadcast_to(np.array(held.read.value).astype(held.read.dtype.numpy), shape)
    return held.array if held.array is not None and held.read.index == index and held.array.shape == shape else None


# -- one of several ----------------------------------------------------------------------------------------------------


def _join(tasks: Sequence[Task], constants: Constants, prefix: str) -> Task | Refusal:
    if not 2 <= len(tasks) <= MOST_SIBLINGS:
        return Refusal(f"from 2 to {MOST_SIBLINGS} tasks are siblings, not {len(tasks)}")
    found = _taken_apart(tasks, constants)
    if isinstance(found, Refusal):
        return found
    united = _united(found, tasks)
    if isinstance(united, Refusal):
        return united
    first, total = tasks[0], sum(map(_columns, tasks))
    names = {target: f"{prefix}{target}.siblings" for target in first.targets}
    final = names[first.targets[-1]]
    laid = {f"{final}.{at}": one for at, one in enumerate(united) if isinstance(one, _Beside)}
    if not current().afford("folded_bytes", sum(part.nbytes for one in laid.values() for part in one.parts)):
        return Refusal("the budget of folded_bytes has no room for constants side by side")
    arrays = {name: np.concatenate(one.parts, one.axis) for name, one in laid.items()}
    read = [
        Load(f"{final}.{at}", one.index, one.dtype) if isinstance(one, _Beside) else one
        for at, one in enumerate(united)
    ]
    values = [_wide(replace(first.values[target], name=name), first, total) for target, name in names.items()]
    values += [Value(name, one.dtype, arrays[name].shape) for name, one in laid.items()]
    together = ", ".join(task.targets[-1] for task in tasks)
    why = f"{together} read {first.phases[0].a.tensor} alike: one contraction, with their columns side by side"
    return replace(
        first,
        recipe=made("siblings", *(task.recipe for task in tasks)),
        nodes=joined_nodes(*(task.nodes for task in tasks)),
        stmts=_filled(found[0].stmts, read[len(first.phases[0].operands) - 1 :], names, first, total),
        phases=(_phase(first, read, names, total),),
        because=tuple(dict.fromkeys((*(reason for task in tasks for reason in task.because), why))),
        made={value.name: value for value in values},
        constants=arrays,
        refused=(),
        parts=None,
    )


def _wide(value: Value, first: Task, total: int) -> Value:
    dim = first.phases[0].column_dim
    return replace(value, shape=tuple(total if d == dim else extent for d, extent in enumerate(value.shape)))


def _phase(first: Task, read: Sequence[Scalar], names: Mapping[str, str], total: int) -> Contraction:
    """read: what stands for B, then for its scales where it has some."""
    c = first.phases[0]
    b, scale = read[0], None if c.scale is None else read[1]
    assert isinstance(b, Load) and isinstance(scale, Load | None)
    (column,) = c.cols
    wide = replace(column, extent=total)
    return replace(
        c,
        target=names[c.target],
        iters=tuple(wide if i == column else i for i in c.iters),
        cols=(wide,),
        shape=tuple(total if d == c.column_dim else extent for d, extent in enumerate(c.shape)),
        b=b,
        scale=scale,
    )


def _filled(
    stmts: Sequence[Stmt], read: Sequence[Scalar], names: Mapping[str, str], first: Task, total: int
) -> tuple[Stmt, ...]:
    """Statements with holes as those of the joined task: constants in the holes, results by their names there."""
    waiting = iter(read)

    def leaf(node: Scalar) -> Scalar | None:
        if not isinstance(node, Load):
            return None
        is_hole = node.tensor == ACCUMULATOR and not node.index
        return next(waiting) if is_hole else replace(node, tensor=names.get(node.tensor, node.tensor))

    dim = first.phases[0].column_dim
    done = []
    for stmt in stmts:
        iters = tuple(replace(i, extent=total) if d == dim else i for d, i in enumerate(stmt.iters))
        done.append(replace(stmt, target=names[stmt.target], iters=iters, value=transform(stmt.value, leaf)))
    return tuple(done)


def _part(tasks: Sequence[Task], joined: Task, name: str, prefix: str) -> Task | Refusal:
    start = 0
    for task in tasks:
        if task.targets[-1] == name:
            break
        start += _columns(task)
    else:
        return Refusal(f"{name!r} is no result of {joined.recipe}")
    value, c = task.values[name], joined.phases[0]
    iters = tuple(Iter(f"{prefix}{d}", extent) for d, extent in enumerate(value.shape))
    at = tuple(sym(i.name) + start if d == c.column_dim else sym(i.name) for d, i in enumerate(iters))
    stmt = Stmt(name, value.dtype, iters, Load(joined.targets[-1], at, value.dtype))
    recipe = made("columns", joined.recipe, of(name))
    return Task("rows", recipe, task.nodes[-1:], (stmt,), because=(f"its columns of {joined.targets[-1]}",))


def is_part(task: Task) -> bool:
    """Whether a task is one sibling's columns of what all of them make."""
    return task.recipe.rule == "columns"


# -- whether it may be, and pays ---------------------------------------------------------------------------------------


def _suits(task: Task, beside: Beside) -> str:
    name = task.targets[-1]
    if beside.goes_out(name):
        return f"{name} leaves the graph, and lies as the caller wants it"
    if beside.pinned(name):
        return f"{name} is pinned to a layout of its own"
    kept = next((t for t in task.targets[:-1] if beside.goes_out(t) or beside.readers(t)), None)
    if kept is not None:
        return f"{kept} is stored as well"
    c = task.phases[0]
    dim, extent, block = c.column_dim, _columns(task), c.traits.block
    assert dim is not None
    start = round_up(extent, block) if block else extent
    wide = tuple(add(start, extent) if d == dim else e for d, e in enumerate(c.shape))
    part = layout_for(wide, dim, c.traits).slice(dim, start, extent)
    for reader, value, whole, narrow in _readers(name, layout_for(c.shape, dim, c.traits), part, block, beside):
        if reader is None or reader.kind == "routine":
            return f"{value} is read by what needs it row-major and whole"
        if why := _reads_worse(reader, value, whole, narrow, block):
            return why
        is_copied = _seen(reader, whole, block) is None or beside.goes_out(reader.targets[-1])
        in_short_rows = dim == len(c.shape) - 1 and (extent < LEAST_RUN or extent % (block or 1))
        if reader.kind == "rows" and is_copied and in_short_rows:
            return f"{reader.targets[-1]} would go over {name} in rows of {extent}"
    return ""


def _readers(
    name: str, whole: Layout, part: Layout, block: int, beside: Beside
) -> Iterator[tuple[Task | None, str, Layout, Layout]]:
    """Who reads a value or a view of it; that value, and where it lies if the first is alone, or a part of a wider
    one.
    """
    waiting = [(name, whole, part)]
    while waiting:
        value, alone, narrow = waiting.pop()
        for reader in beside.readers(value):
            yield reader, value, alone, narrow
            seen = (None, None) if reader is None else (_seen(reader, alone, block), _seen(reader, narrow, block))
            if reader is not None and seen[0] is not None and seen[1] is not None:
                waiting.append((reader.targets[-1], seen[0], seen[1]))


def _seen(reader: Task, layout: Layout, block: int) -> Layout | None:
    """Where what a task makes lies, if it is a view of a value that lies so."""
    load = view_source(reader)
    return None if load is None else view_layout(reader.stmts[0], load, layout, block)


def _reads_worse(reader: Task, value: str, whole: Layout, part: Layout, block: int) -> str:
    """Why a reader would be slower if a value lay in something wider; "" where it would not."""
    name = reader.targets[-1]
    if _seen(reader, whole, block) is not None:
        is_view = _seen(reader, part, block) is not None
        return "" if is_view else f"{name} is a view of {value} alone, but not of its part of something wider"
    for c in reader.phases:
        for load, fast in ((c.a, c.channels[0].name), (c.b, c.cols[0].name)):
            if load.tensor == value and access(c, load.index, whole, fast, None) is not None:
                if access(c, load.index, part, fast, None) is None:
                    return f"{name} reads {value} as if it were in one piece"
    for stmt in reader.stmts:
        if value in index_loads(stmt):
            return f"elements of {value} are indices"
        if stmt.index is not None and isinstance(stmt.value, Load) and stmt.value.tensor == value:
            return f"{value} is written straight into its part of {name}"
        if any(_divides(load) for load in loads_of(stmt) if load.tensor == value):
            return f"{name} reads {value} at places that are divided"
    return ""


def _divides(load: Load) -> bool:
    return any(isinstance(atom, ExprCall) for e in load.index for atom in atoms(e))


def _meets(tasks: Sequence[Task], beside: Beside) -> str:
    c, last = tasks[0].phases[0], tasks[-1].targets[-1]
    if len(tasks) > MOST_SIBLINGS:
        return f"{MOST_SIBLINGS} are together already"
    block = c.traits.block
    if block and c.column_dim != len(c.shape) - 1 and any(_columns(task) % block for task in tasks[:-1]):
        return f"a part would begin inside a block of {block} columns"
    elements = product(i.extent for i in (*c.batch, *c.reds))
    if not isinstance(elements, int) or elements * sum(map(_columns, tasks)) * c.b.dtype.size > MOST_BYTES:
        return f"side by side, {c.b.tensor} and the like have more than {MOST_BYTES} bytes"
    borders = {any(any(pair) for pair in _border(task, beside)) for task in tasks}
    return f"{last} and {tasks[0].targets[-1]} are not both read by windows" if len(borders) > 1 else ""


def _border(task: Task, beside: Beside) -> Border:
    """How far contractions that read a result, or a view of it, read past it, in any dim."""
    c = task.phases[0]
    layout = layout_for(c.shape, c.column_dim, c.traits)
    found: list[tuple[int, int]] = []
    for reader, value, _, _ in _readers(task.targets[-1], layout, layout, c.traits.block, beside):
        for phase in reader.phases if reader is not None else ():
            if phase.a.tensor == value:
                found.extend(phase.border(beside.value(value).shape) or ())
    return tuple(found)


def _pays(tasks: Sequence[Task], joined: Task, beside: Beside) -> str:
    apart = math.fsum(_seconds(task, beside) for task in tasks)
    saved = apart - _seconds(joined, beside)
    if saved > LEAST_GAIN * apart:
        return ""
    return f"one contraction would save {saved * 1e6:.3g} of {apart * 1e6:.3g} us"


def _seconds(task: Task, beside: Beside) -> float:
    """With the operand and the result as a contraction likes them best."""
    c = task.phases[0]
    a, out = beside.value(c.a.tensor), task.values[task.targets[-1]]
    border = c.border(a.shape) or ()
    homes = {
        a.name: Home(a.name, a.dtype, layout_for(a.shape, c.channel_dim, c.traits, border)),
        out.name: Home(out.name, out.dtype, layout_for(out.shape, c.column_dim, c.traits)),
    }
    return beside.seconds(task, homes)


SIBLINGS = SiblingRule("siblings", _fits, _suits, _meets, _join, _pays, _part)
