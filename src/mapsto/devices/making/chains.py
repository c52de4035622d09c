"""Chains as one function: for each block of rows a product, statements, and a product of what they make, the functions
of the three stages inlined one after the other (`loop.inlining`). What passes between them lies in scratch, of which
each share of the blocks has its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mapsto.devices.contraction.core import Core
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import TaskCode, Ways
from mapsto.devices.making.contractions import WholeOperand, phase_calls, template_reach
from mapsto.devices.making.inlined import MOST_SHARES, Divided, KeptFunctions, PartCall, inlined_call
from mapsto.devices.making.template_names import BLOCKS
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, product, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Value
from mapsto.plan.chain import ChainForm, RowBlock, block_of, form_of
from mapsto.plan.home import Home
from mapsto.plan.layout import plain
from mapsto.plan.task import Task

_MOST_ROWS, _STEP = 192, 24  # rows of a block: of a number of tiles of 4, 6, 8 and 12 rows
_TYPICAL = 1024  # columns, where only a run knows them
_BLOCKS = re.compile(r"(?P<rows>\d{1,9}) rows a block, (?P<shares>\d{1,9}) shares")


@dataclass(frozen=True)
class BlockPlan:
    """Rows of a block; how many shares threads divide the blocks into."""

    rows: int
    shares: int
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)


def blocks_text(plan: BlockPlan) -> str:
    """As plans have it."""
    return f"{plan.rows} rows a block, {plan.shares} shares"


def _read_blocks(text: str, form: ChainForm) -> BlockPlan:
    """Raises ValueError for what is no such text, or fits no such chain."""
    found = _BLOCKS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no schedule of blocks")
    rows, shares = int(found["rows"]), int(found["shares"])
    if not rows or not shares or (isinstance(form.rows, int) and rows > form.rows):
        raise ValueError(f"{text[:80]!r} does not divide {form.rows} rows")
    return BlockPlan(rows, shares)


def _chosen(form: ChainForm, near: int) -> BlockPlan:
    """As many rows as stay near, so that what all rows read comes seldom; an even part of all where one is."""
    columns = form.columns if isinstance(form.columns, int) else _TYPICAL
    most = min(max(near // max(columns * form.x_type.size, 1) // _STEP, 1) * _STEP, _MOST_ROWS)
    rows = form.rows
    if not isinstance(rows, int):
        return BlockPlan(most, MOST_SHARES)
    even = next((n for n in range(min(most, rows), most // 2, -1) if rows % n == 0), None)
    chosen = min(most, rows) if even is None else even
    outer = product(extent for _, extent in form.outer)
    items = -(-rows // chosen) * outer if isinstance(outer, int) else MOST_SHARES
    return BlockPlan(chosen, min(items, MOST_SHARES) if isinstance(items, int) else MOST_SHARES)


def chain_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall]:
    """The calls that compute a chain: what packs operands, then the chain. Raises ValueError where an operand of a
    stage cannot be reached by strides.
    """
    return _Making(task, code, core).calls()


class _Making:
    def __init__(self, task: Task, code: TaskCode, core: Core) -> None:
        self.task, self.code, self.core = task, code, core
        self.form = form = form_of(task)
        near = task.stages[0].phases[0].traits.block_bytes
        ways = Ways(
            BLOCKS, (BLOCKS, form.rows, form.columns, form.x_type), lambda: _chosen(form, near), blocks_text,
            lambda text: _read_blocks(text, form), lambda: (),
        )  # fmt: skip
        self.plan = code.schedules.take(ways)
        self.starts = {d: sym(code.fresh("start")) for d, _ in form.outer}
        self.row, self.rows = sym(code.fresh("row")), sym(code.fresh("rows"))
        self.even = isinstance(form.rows, int) and form.rows % self.plan.rows == 0
        self.block = RowBlock({**self.starts, form.row: self.row}, self.plan.rows if self.even else self.rows)
        self.scratch: dict[str, str] = {}  # what passes -> the scratch that it lies in
        self.inner = code.shared.parts(lambda: KeptFunctions(code.target.processor, core, code.target.fused))

    def calls(self) -> list[KernelCall]:
        task, code, form = self.task, self.code, self.form
        stages = block_of(task, form, self.block)
        homes, values = self._between(stages)
        inner = replace(code.over(homes, values), shared=self.inner)
        before: list[KernelCall] = border_calls(task, code)
        made: list[KernelCall] = []
        for stage, whole in zip(stages, task.stages, strict=True):
            stage = replace(stage, name=task.name)
            own = replace(inner, task=stage)
            own.counter = code.counter
            if stage.kind == "rows":
                made.append(own.rows_call(stage.stmts))
            else:
                *packing, call = self._product(stage, whole, own)
                before += packing
                made.append(call)
            code.counter = max(code.counter, own.counter)
            self._adopt(own)
        return [*before, self._call(made)]

    def _between(self, stages: Sequence[Task]) -> tuple[dict[str, Home], dict[str, Value]]:
        """Where what passes lies: rows of a block, row-major."""
        form = self.form
        shape = tuple(
            self.plan.rows if d == form.row else form.columns if d == form.rank - 1 else 1 for d in range(form.rank)
        )
        types = {form.x: form.x_type, form.w: form.w_type}
        self._add_scratch(form.x, form.x_type, shape)
        if form.in_place:
            self.scratch[form.w] = self.scratch[form.x]
        else:
            self._add_scratch(form.w, form.w_type, shape)
        values = {name: Value(name, dtype, shape) for name, dtype in types.items()}
        for s in (s for stage in stages for s in stage.stmts if s.index is None):
            values.setdefault(s.target, Value(s.target, s.dtype, tuple(i.extent for i in s.iters)))
        values.pop(self.task.targets[-1], None)
        homes = {name: Home(name, dtype, plain(shape), "of a block") for name, dtype in types.items()}
        return homes, values

    def _add_scratch(self, name: str, dtype: DType, shape: tuple[Dim, ...]) -> None:
        buffer = self.code.fresh(f"{name}.blocks")
        self.code.add_scratch(buffer, dtype, (self.plan.shares, product(shape)))
        self.scratch[name] = buffer

    def _product(self, stage: Task, whole: Task, own: TaskCode) -> list[KernelCall]:
        reached = template_reach(stage, own)
        if reached is None:
            raise ValueError(f"an operand of {whole.targets[-1]} cannot be reached by strides")
        (c,), (entire,) = stage.phases, whole.phases
        walked = entire.index if whole is self.task.stages[0] else entire.a.index
        dims = {name: d for d, e in enumerate(walked) if isinstance(e, Expr) for name in e.names}
        starts = {name: self.block.starts[d] for name, d in dims.items() if d in self.block.starts}
        return phase_calls(stage, c, reached[0], own, self.core, WholeOperand(entire, starts, self.code))

    def _adopt(self, own: TaskCode) -> None:
        """Scratch that a stage asked for is of a block as well; constants that it made are the chain's."""
        for name, home in own.homes.maps[0].items():
            if name in own.made_constants:
                self.code.add_home(name, home)
            elif name not in self.scratch and name in own.temps:
                most = tuple(substitute(d, {str(self.rows): self.plan.rows}) for d in home.layout.shape)
                self._add_scratch(name, home.dtype, most)

    def _call(self, made: Sequence[KernelCall]) -> KernelCall:
        """One call of all stages."""
        outer = tuple((str(self.starts[d]), extent) for d, extent in self.form.outer)
        divided = Divided(
            BLOCKS, outer, self.plan.shares, str(self.row), str(self.rows), self.form.rows, self.plan.rows
        )
        return inlined_call(self.task, self.code, self.core, [PartCall(call) for call in made], self.scratch, divided)
