"""A contraction in canonical names, and what is computed on its sums before they are stored, for the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import NamedTuple, cast

from mapsto.devices.contraction.form import ContractionForm, TilePlace
from mapsto.devices.generic import EpilogueContext, emit_scalar
from mapsto.devices.generic.exactness import rounded_tensors
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.saturation import conversions_whole
from mapsto.devices.making.tables import ByTables, by_tables, table_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Stmt
from mapsto.loop import ast as loop
from mapsto.plan.layout import Layout


class LoopNames(NamedTuple):
    """Canonical names of a contraction's iterators, but for those that are summed over."""

    batch: tuple[str, ...]
    rows: tuple[str, ...]
    column: str


@dataclass(frozen=True)
class Shaped:
    """One phase with its operands' strides: all that the form needs, in canonical names."""

    form: ContractionForm
    packed: bool
    order: LoopNames
    stmts: tuple[Stmt, ...]
    layouts: tuple[tuple[str, Layout], ...]
    index: tuple[Dim, ...]
    accumulators: tuple[str, ...]
    also: tuple[str, ...]  # further results, by the statements that make them


Emitted = tuple[list[loop.Statement], loop.Value]


@dataclass(frozen=True)
class ShapedEpilogue:
    """The `contraction.form.Epilogue` of a phase: its statements, on the lanes of one vector of sums."""

    shaped: Shaped
    processor: Processor

    @cached_property
    def whole(self) -> tuple[Stmt, ...]:
        return conversions_whole(self.shaped.stmts, self.shaped.also)

    @cached_property
    def tabled(self) -> ByTables:
        """The same where what follows a byte is looked up."""
        return by_tables(self.whole, self.shaped.also)

    @cached_property
    def tables(self) -> Mapping[str, tuple[int, ...]]:
        """What is looked up, by the statement's target; none where a processor looks up no whole vector."""
        if not self.processor.table_lanes:
            return {}
        targets = {stmt.target for stmt in self.tabled.stmts}
        looked_up = {target: each for target, each in self.tabled.looked_up.items() if target in targets}
        return {target: table_of(self._on_bytes(chain, root)) for target, (root, chain) in looked_up.items()}

    @cached_property
    def _rounded(self) -> frozenset[str]:
        is_float = self.shaped.form.accumulator.is_float  # sums of integers are exact
        return rounded_tensors(self.whole, self.shaped.accumulators if is_float else ())

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        return dict(self.shaped.layouts)

    def __call__(
        self, accumulators: loop.Value, place: TilePlace
    ) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
        statements: list[loop.Statement] = []
        known: dict[str, loop.Value] = dict.fromkeys(self.shaped.accumulators, accumulators)
        result = accumulators
        by_table = bool(self.tables) and place.lanes == self.processor.table_lanes
        for stmt in self.tabled.stmts if by_table else self.whole:
            if by_table and stmt.target in self.tables:
                more, result = self._found(stmt.target, known, place)
            else:
                more, result = self._emitted(stmt, known, place)
            statements.extend(more)
            known[stmt.target] = result
        return statements, (result, *(known.get(target, accumulators) for target in self.shaped.also))

    def _found(self, target: str, known: Mapping[str, loop.Value], place: TilePlace) -> Emitted:
        """A table's entry in the place of the byte that a statement begins with."""
        byte = known[self.tabled.looked_up[target][0]]
        word = loop.Cast(byte, loop.Type(DType.I32, place.lanes))
        name = place.fresh("found")
        found = loop.Cast(loop.Lookup(word, self.tables[target]), byte.type)
        return [loop.Let(name, found)], loop.Var(name, byte.type)

    def _emitted(self, stmt: Stmt, known: dict[str, loop.Value], place: TilePlace) -> Emitted:
        batch, rows, column = self.shaped.order
        at: dict[str, Dim] = dict(zip(batch, place.batch, strict=True))
        at.update(dict(zip(rows, place.rows, strict=False)))
        at[column] = place.column
        index = list(zip(stmt.iters, self.shaped.index, strict=True))
        bindings = {i.name: substitute(e, at) for i, e in index}
        wide = next(i.name for i, e in index if column in symbols(e))
        point = bindings, wide, place.lanes, self._layouts, known, place.mask, place.fresh
        return emit_scalar(stmt.value, EpilogueContext(*point, self.processor, rounded=self._rounded))

    def _on_bytes(self, chain: Sequence[Stmt], root: str) -> Callable[[loop.Value], Emitted]:
        """What the statements of a chain make of its bytes, which lie in lanes."""
        batch, rows, _ = self.shaped.order
        nowhere = tuple(cast(Dim, 0) for _ in batch), tuple(cast(Dim, 0) for _ in rows)

        def emit(byte: loop.Value) -> Emitted:
            numbers = count()
            place = TilePlace(*nowhere, 0, byte.type.lanes, None, None, lambda hint: f"{hint}_{next(numbers)}")
            known, statements, result = {root: byte}, list[loop.Statement](), byte
            for stmt in chain:
                more, result = self._emitted(stmt, known, place)
                statements.extend(more)
                known[stmt.target] = result
            return statements, result

        return emit
