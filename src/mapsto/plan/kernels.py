"""Tasks as kernels, in a canonical form: equal work has equal form, and is compiled once.

Tensors are named t0, t1.., iterators i0, i1.., sizes s0, s1.. in order of appearance; each tensor's offset in its
buffer is taken out of its layout (the step passes a pointer that is already moved).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from mapsto.ir.expr import Atom, Call, Dim, Sym, add, loads, mul, of_atom, sym, terms_of
from mapsto.ir.expr_rewrite import rebuild, rename_loads
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, Kernel, Load, Reduction, Scalar, Stmt, Tensor, reduced, transform, walk
from mapsto.kernel.compose import reads
from mapsto.kernel.facts import facts
from mapsto.plan.layout import Axis, Layout
from mapsto.plan.rules.rows import row_order


@dataclass
class Renamer:
    """Gives canonical names in order of appearance. `sizes`: what each canonical size stands for is its key."""

    tensors: dict[str, str] = field(default_factory=dict)
    sizes: dict[Dim, str] = field(default_factory=dict)
    iters: dict[str, str] = field(default_factory=dict)
    _parts: dict[Atom, Dim] = field(default_factory=dict)
    _indices: dict[tuple[Dim, ...], tuple[Dim, ...]] = field(default_factory=dict)  # of one statement, in new names
    _layouts: dict[int, Layout] = field(default_factory=dict)  # by the id of a layout that outlives this
    _iterators: int = 0

    def learn(self, extents: Iterable[Dim]) -> None:
        """Take extents like (h - 1)//2 + 1 as sizes of their own: kernels see one symbol, whatever it was computed
        from.
        """
        for extent in extents:
            if isinstance(extent, int):
                continue
            calls = [(m, c) for m, c in terms_of(extent) if m]
            if len(calls) != 1 or len(calls[0][0]) != 1 or calls[0][1] != 1 or not isinstance(calls[0][0][0], Call):
                continue
            atom = calls[0][0][0]
            if atom not in self._parts and not loads(extent):
                offset = add(extent, mul(of_atom(atom), -1))
                self._parts[atom] = add(sym(self._size(extent)), mul(offset, -1))

    def rename(self, iters: Mapping[str, str]) -> None:
        """From now on iterators have these names."""
        self.iters = dict(iters)

    def _size(self, e: Dim) -> str:
        return self.sizes.setdefault(e, f"s{len(self.sizes)}")

    def tensor(self, name: str) -> str:
        return self.tensors.setdefault(name, f"t{len(self.tensors)}")

    def iter(self, it: Iter) -> Iter:
        if it.name not in self.iters:
            self.iters[it.name] = f"i{self._iterators}"
            self._iterators += 1
        return Iter(self.iters[it.name], self.dim(it.extent))

    def dim(self, e: Dim) -> Dim:
        if isinstance(e, int):
            return e
        return rename_loads(rebuild(e, self._atom), self.tensors)

    def _atom(self, atom: Atom) -> Dim | None:
        if isinstance(atom, Sym):
            return sym(self.iters[atom.name]) if atom.name in self.iters else sym(self._size(sym(atom.name)))
        return self._parts.get(atom)

    def dims(self, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(self.dim(d) for d in dims)

    def scalar(self, e: Scalar) -> Scalar:
        def leaf(node: Scalar) -> Scalar | None:
            if isinstance(node, Load):
                index = self._indices.get(node.index)  # most loads of a statement are at one place
                if index is None:
                    index = self._indices[node.index] = self.dims(node.index)
                return Load(self.tensor(node.tensor), index, node.dtype)
            if isinstance(node, Reduction):
                return reduced(node, tuple(self.iter(i) for i in node.iters), self.scalar)
            return None

        return transform(e, leaf, self.dim)

    def stmt(self, stmt: Stmt) -> Stmt:
        for name in sorted(reads(stmt)):
            self.tensor(name)
        self.tensor(stmt.target)
        self.iters, self._indices = {}, {}  # the names of iterators are each statement's own
        iters = tuple(self.iter(i) for i in stmt.iters)
        for node in walk(stmt.value) if facts(stmt.value).reduces else ():
            if isinstance(node, Reduction):
                for i in node.iters:
                    self.iter(i)
        scan = None if stmt.scan is None else replace(stmt.scan, iter=self.iters[stmt.scan.iter])
        index = None if stmt.index is None else self.dims(stmt.index)
        return Stmt(self.tensors[stmt.target], stmt.dtype, iters, self.scalar(stmt.value), index, scan)

    def layout(self, layout: Layout) -> Layout:
        known = self._layouts.get(id(layout))  # many tensors have a few layouts
        if known is None:
            known = self._layouts[id(layout)] = self._layout(layout)
        return known

    def _layout(self, layout: Layout) -> Layout:
        axes = tuple(Axis(a.dim, a.div, a.size, self.dim(a.stride)) for a in layout.axes)
        # the size of the whole buffer does not matter to the code that works inside it
        return Layout(self.dims(layout.shape), axes, 0, 0, layout.border)

    def actual_sizes(self) -> dict[str, Dim]:
        """canonical size -> what it stands for."""
        return {canonical: e for e, canonical in self.sizes.items()}


@dataclass(frozen=True)
class Canonical:
    """A kernel in canonical form with its operands' layouts: the key under which code is made once."""

    kernel: Kernel
    layouts: tuple[tuple[str, Layout], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.kernel, self.layouts))


def canonical(
    stmts: list[Stmt], values: dict[str, Value], layouts: dict[str, Layout]
) -> tuple[Canonical, Renamer]:
    """Statements as a kernel. Targets that have a layout are its outputs; others are its own.

    Where the rows that the statements share are not the leading dims, their own tensors are taken with their
    dims in another order.
    """
    order = row_order(stmts)
    if order is not None:
        stmts, values, layouts = _reordered(stmts, order, values, layouts)
    names = Renamer()
    for s in stmts:
        names.learn(i.extent for i in s.iters)
        names.learn(d for t in sorted(reads(s)) for d in values[t].shape)
    made = [names.stmt(s) for s in stmts]
    targets = list(dict.fromkeys(s.target for s in stmts))
    inputs = [n for n in names.tensors if n not in targets]
    outputs = [t for t in targets if t in layouts]
    temps = [t for t in targets if t not in layouts]

    def tensors(members: list[str]) -> tuple[Tensor, ...]:
        return tuple(Tensor(names.tensors[n], values[n].dtype, names.dims(values[n].shape)) for n in members)

    kernel = Kernel("kernel", tensors(inputs), tensors(outputs), tensors(temps), tuple(made))
    placed = tuple((names.tensors[n], names.layout(layouts[n])) for n in [*inputs, *outputs])
    return Canonical(kernel, placed), names


def _reordered(
    stmts: list[Stmt], order: tuple[int, ...], values: dict[str, Value], layouts: dict[str, Layout]
) -> tuple[list[Stmt], dict[str, Value], dict[str, Layout]]:
    """The same statements over targets whose dim `d` is the old dim `order[d]`."""
    targets = {s.target for s in stmts}

    def turn(index: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(index[d] for d in order)

    def leaf(node: Scalar) -> Scalar | None:
        return (
            Load(node.tensor, turn(node.index), node.dtype)
            if isinstance(node, Load) and node.tensor in targets
            else None
        )

    turned = []
    for s in stmts:
        iters = tuple(s.iters[d] for d in order)
        index = None if s.index is None else turn(s.index)
        turned.append(replace(s, iters=iters, index=index, value=transform(s.value, leaf)))
    named = targets.union(*(reads(s) for s in stmts))
    values = {name: values[name] for name in named}
    layouts = {name: layouts[name] for name in named if name in layouts}
    for name in targets:
        values[name] = replace(values[name], shape=turn(values[name].shape))
        if name in layouts:
            layouts[name] = _turned_layout(layouts[name], order)
    return turned, values, layouts


def _turned_layout(layout: Layout, order: tuple[int, ...]) -> Layout:
    axes = tuple(replace(a, dim=order.index(a.dim)) for a in layout.axes)
    return replace(
        layout, shape=tuple(layout.shape[d] for d in order), axes=axes, border=tuple(layout.border[d] for d in order)
    )
