"""The least sum as an integer program, for HiGHS (Huangfu & Hall 2018, https://highs.dev) by its package highspy.

A binary variable says that a value is chosen; a variable between 0 and 1 that a cell of a table is the one that counts.
One value of each variable is chosen, and the cells of a table at a value add up to that value's variable: over real
numbers this is the local polytope (Wainwright & Jordan, "Graphical models, exponential families, and variational
inference", 2008, section 4.1), and where the values are whole the cells are. Forbidden cells are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mapsto.solve.parts import Factor, Part
from mapsto.solve.problem import Costs

MOST_ENTRIES = 200_000  # of the matrix: beyond, HiGHS goes far past its time before it looks at the clock
TOLERANCE = 1e-9  # by which HiGHS may break a constraint, where the dearest table costs 1 more than at least
_MARGIN = 10 * TOLERANCE  # for each table, what a bound is lowered by for it


@dataclass(frozen=True, eq=False)
class Programmed:
    """choice: of the whole problem by variable, as the one that was given outside the part; None where none was found.
    bound: no choice of the part costs less, as far as HiGHS's tolerance goes; inf where none is allowed.
    """

    choice: list[int] | None
    bound: float


@dataclass(frozen=True, eq=False)
class _Program:
    """Columns: values first, variable by variable (`first` says where each begins), then the cells of `tables`.
    entries: (row, column, coefficient) of the matrix. Costs are `scale` times what they exceed the least of their table
    by; all these least add up to `offset`.
    """

    first: dict[int, int]
    costs: Costs
    allowed: npt.NDArray[np.bool_]
    rows: int
    entries: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Costs]
    tables: tuple[tuple[Factor, npt.NDArray[np.int64]], ...]
    scale: float
    offset: float


def integer_program(part: Part, start: Sequence[int], seconds: float) -> Programmed | None:
    """What HiGHS finds from a first choice of the whole problem; one thread and one seed, so the same again unless the
    time ends it. None where highspy is not installed, no time is left, or the matrix is too large.
    """
    entries = sum(factor.costs.size * len(factor.scope) for factor in part.factors if len(factor.scope) > 1)
    if seconds <= 0 or entries > MOST_ENTRIES:
        return None
    try:
        import highspy
    except ImportError:
        return None
    program = _program(part)
    solver = _solver(highspy, program, len(part.variables), seconds)
    if solver is None:
        return None
    _begin_with(highspy, solver, program, start)
    if solver.run() == highspy.HighsStatus.kError:
        return None
    status = highspy.HighsModelStatus
    if solver.getModelStatus() in (status.kInfeasible, status.kUnboundedOrInfeasible):  # no cost is negative
        return Programmed(None, math.inf)
    info = solver.getInfo()
    bound = info.mip_dual_bound if math.isfinite(info.mip_dual_bound) else 0.0
    bound = program.offset + (max(bound, 0.0) - _MARGIN * max(1, len(part.factors))) / program.scale
    if info.primal_solution_status != highspy.kSolutionStatusFeasible:
        return Programmed(None, bound)
    return Programmed(_chosen(part, program, solver.getSolution().col_value, start), bound)


def _program(part: Part) -> _Program:
    first, count = {}, 0
    for v in part.variables:
        first[v] = count
        count += part.domains[v]
    costs, allowed = np.zeros(count), np.ones(count, dtype=np.bool_)
    columns = [costs]
    offsets = []
    rows, cols, signs = _one_value_each(part, first)
    row = len(part.variables)
    tables = []
    for factor in part.factors:
        least = float(factor.costs.min())
        offsets.append(least)
        if len(factor.scope) == 1:
            here = slice(first[factor.scope[0]], first[factor.scope[0]] + factor.costs.size)
            allowed[here] &= np.isfinite(factor.costs)
            costs[here] += np.where(np.isfinite(factor.costs), factor.costs - least, 0.0)
            continue
        cells = np.flatnonzero(np.isfinite(factor.costs.ravel()))
        columns.append(factor.costs.ravel()[cells] - least)
        tables.append((factor, cells))
        for v, index in zip(factor.scope, np.unravel_index(cells, factor.costs.shape), strict=True):
            values = np.arange(part.domains[v])
            rows += [row + index, row + values]
            cols += [count + np.arange(cells.size), first[v] + values]
            signs += [np.ones(cells.size), -np.ones(values.size)]
            row += values.size
        count += cells.size
    flat = np.concatenate(columns)
    scale = 1.0 / dearest if (dearest := float(flat.max(initial=0.0))) > 0 else 1.0
    entries = (np.concatenate(rows).astype(np.int32), np.concatenate(cols).astype(np.int32), np.concatenate(signs))
    return _Program(first, flat * scale, allowed, row, entries, tuple(tables), scale, math.fsum(offsets))


def _one_value_each(part: Part, first: dict[int, int]) -> tuple[list[Any], list[Any], list[Any]]:
    rows, cols, signs = [], [], []
    for row, v in enumerate(part.variables):
        rows.append(np.full(part.domains[v], row))
        cols.append(first[v] + np.arange(part.domains[v]))
        signs.append(np.ones(part.domains[v]))
    return rows, cols, signs


def _solver(highspy: Any, program: _Program, variables: int, seconds: float) -> Any:
    """HiGHS with the program in it; None where it does not take it."""
    lp = highspy.HighsLp()
    count, values = program.costs.size, program.allowed.size
    lp.num_col_, lp.num_row_ = count, program.rows
    lp.col_cost_, lp.col_lower_ = program.costs, np.zeros(count)
    lp.col_upper_ = np.concatenate([program.allowed.astype(np.float64), np.ones(count - values)])
    bounds = np.concatenate([np.ones(variables), np.zeros(program.rows - variables)])
    lp.row_lower_, lp.row_upper_ = bounds, bounds
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger] * values + [kinds.kContinuous] * (count - values)
    rows, cols, signs = program.entries
    by_column = np.lexsort((rows, cols))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.searchsorted(cols[by_column], np.arange(count + 1)).astype(np.int32)
    lp.a_matrix_.index_, lp.a_matrix_.value_ = rows[by_column], signs[by_column]
    solver = _silent(highspy)
    for option, value in {
        "output_flag": False, "threads": 1, "parallel": "off", "random_seed": 0, "time_limit": float(seconds),
        "mip_rel_gap": 1e-10, "mip_abs_gap": TOLERANCE, "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE,
    }.items():  # fmt: skip
        solver.setOptionValue(option, value)
    return None if solver.passModel(lp) == highspy.HighsStatus.kError else solver


def _silent(highspy: Any) -> Any:
    """A solver that prints nothing: the first of a process names itself while it is made, when its callbacks are."""

    class Silent(highspy.Highs):  # type: ignore[misc]
        def enableCallbacks(self) -> None:
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    return Silent()


def _begin_with(highspy: Any, solver: Any, program: _Program, start: Sequence[int]) -> None:
    """Gives HiGHS a first choice, if it is allowed."""
    values = np.zeros(program.costs.size)
    for v, column in program.first.items():
        values[column + start[v]] = 1.0
    column = program.allowed.size
    for factor, cells in program.tables:
        at = np.ravel_multi_index([start[v] for v in factor.scope], factor.costs.shape)
        place = int(np.searchsorted(cells, at))
        if place == cells.size or cells[place] != at:
            return
        values[column + place] = 1.0
        column += cells.size
    if bool((values[: program.allowed.size] <= program.allowed).all()):
        solution = highspy.HighsSolution()
        solution.col_value = values.tolist()
        solver.setSolution(solution)


def _chosen(part: Part, program: _Program, values: Sequence[float], start: Sequence[int]) -> list[int]:
    chosen = list(start)
    for v, column in program.first.items():
        chosen[v] = int(np.argmax(values[column : column + part.domains[v]]))
    return chosen
