"""Chains as one function: for each block of rows a product, statements, and a product of what they make, the functions
of the three stages inlined one after the other (`loop.inlining`). What passes between them lies in scratch, of which
each share of the blocks has its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mapsto.devices.contraction.core import Core
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import MadeKernel, TaskCode, Unwritten, Ways, grain_of
from mapsto.devices.making.contractions import WholeOperand, phase_calls, template_reach
from mapsto.devices.making.template_names import BLOCKS
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, add, ceildiv, floordiv, minimum, mod, mul, product, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Value
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.inlining import PartOf, inlined
from mapsto.loop.text import format_function
from mapsto.plan.chain import ChainForm, RowBlock, block_of, form_of
from mapsto.plan.home import Home
from mapsto.plan.layout import plain
from mapsto.plan.task import Task

_MOST_ROWS, _STEP = 192, 24  # rows of a block: of a number of tiles of 4, 6, 8 and 12 rows
_TYPICAL = 1024  # columns, where only a run knows them
_SHARES = 16  # of all blocks: few threads finish together, and scratch stays small
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
        return BlockPlan(most, _SHARES)
    even = next((n for n in range(min(most, rows), most // 2, -1) if rows % n == 0), None)
    chosen = min(most, rows) if even is None else even
    outer = product(extent for _, extent in form.outer)
    items = -(-rows // chosen) * outer if isinstance(outer, int) else _SHARES
    return BlockPlan(chosen, min(items, _SHARES) if isinstance(items, int) else _SHARES)


class _Kept:
    """A `making.code.MadeFor` that keeps functions as they are, to be parts of others."""

    def __init__(self, processor: Processor, core: Core, fused: bool) -> None:
        self.processor, self.core, self.fused = processor, core, fused
        self.functions: dict[str, Function | Unwritten] = {}

    def add(self, function: Function, optimizer: str) -> str:
        """See `MadeFor`."""
        return self._name(_digest(format_function(function)), function)

    def add_later(self, source: Unwritten, optimizer: str) -> str:
        """See `MadeFor`."""
        return self._name(source.key, source)

    def _name(self, key: str, function: Function | Unwritten) -> str:
        self.functions.setdefault(key, function)
        return key


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ChainStage:
    """One stage in canonical names. key: of its source. operands: which parameter of the chain each of its own is, and
    whether that is scratch. dims: of its function, by its order; extent: all of its range.
    """

    key: str
    operands: tuple[int, ...]
    dims: tuple[Dim, ...]
    extent: Dim


@dataclass(frozen=True)
class ChainCode:
    """A chain in canonical names. scratch: parameters of which each share has so many elements of its own. outer:
    symbols of starts with how many there are; row: of the row dim's; rows: of a block's rows, `count` but in the last.
    """

    stages: tuple[ChainStage, ...]
    params: tuple[Param, ...]
    scratch: tuple[tuple[int, Dim], ...]
    outer: tuple[tuple[str, Dim], ...]
    row: str
    rows: str
    extent: Dim
    count: int
    shares: int
    dims: tuple[str, ...]


@dataclass(frozen=True)
class UnwrittenChain:
    """A `making.code.Unwritten`."""

    code: ChainCode
    sources: tuple[Function | Unwritten, ...]

    @property
    def key(self) -> str:
        return f"{BLOCKS} {_digest(repr(self.code))}"

    def write(self) -> Function:
        return _Writing(self.code).function(self.sources)


class _Writing:
    def __init__(self, code: ChainCode) -> None:
        self.code, self.counter = code, 0

    def fresh(self, hint: str) -> str:
        self.counter += 1
        return f"{hint}_c{self.counter}"

    def function(self, sources: Sequence[Function | Unwritten]) -> Function:
        code, share = self.code, sym("share")
        blocks = ceildiv(code.extent, code.count)
        items = product([*(extent for _, extent in code.outer), blocks])
        arrays: list[loop.Alloc] = []
        body: list[loop.Statement] = [*self._starts(blocks)]
        for stage, source in zip(code.stages, sources, strict=True):
            own, made = self._stage(stage, source if isinstance(source, Function) else source.write(), share)
            arrays += own
            body += made
        first = floordiv(mul(share, items), code.shares)
        stop = floordiv(mul(add(share, 1), items), code.shares)
        whole = loop.For("share", sym("begin"), sym("end"), (loop.For("item", first, stop, tuple(body)),))
        return Function("kernel", code.params, code.dims, (*arrays, whole))

    def _starts(self, blocks: Dim) -> Iterator[loop.Statement]:
        """Where an item starts: the blocks of one point of the outer dims one after the other."""
        code, item = self.code, sym("item")
        yield loop.LetIndex(code.row, mul(mod(item, blocks), code.count))
        yield loop.LetIndex(code.rows, minimum(code.count, code.extent - sym(code.row)))
        rest = floordiv(item, blocks)
        found: list[loop.Statement] = []
        for name, extent in reversed(code.outer):
            found.insert(0, loop.LetIndex(name, mod(rest, extent)))
            rest = floordiv(rest, extent)
        yield from found

    def _stage(self, stage: ChainStage, source: Function, share: Dim) -> tuple[list[loop.Alloc], list[loop.Statement]]:
        region = dict(self.code.scratch)
        operands = {
            param.name: PartOf(self.code.params[at].name, mul(share, region[at]) if at in region else 0)
            for param, at in zip(source.params, stage.operands, strict=True)
        }
        sizes = dict(zip(source.dims, stage.dims, strict=True))
        return inlined(source, (0, stage.extent), operands, sizes, self.fresh)


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
        self.inner = code.shared.parts(lambda: _Kept(code.target.processor, core, code.target.fused))

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
        names = _Numbered({str(s): f"start{n}" for n, s in enumerate(self.starts.values())})
        names.own.update({str(self.row): "row", str(self.rows): "rows"})
        operands = list(dict.fromkeys(self.scratch.get(name, name) for call in made for name in call.operands))
        written = {self.scratch.get(call.operands[at], call.operands[at]) for call in made for at in call.writes}
        stages = tuple(
            ChainStage(
                call.function,
                tuple(operands.index(self.scratch.get(name, name)) for name in call.operands),
                tuple(map(names.dim, call.dims)),
                names.dim(call.extent),
            )
            for call in made
        )
        homes = self.code.homes
        params = tuple(Param(f"p{n}", homes[name].dtype, name in written) for n, name in enumerate(operands))
        own = {operands.index(name): names.dim(homes[name].layout.shape[1]) for name in self.scratch.values()}
        outer = tuple(
            (f"start{n}", names.dim(extent)) for n, (_, extent) in enumerate(self.form.outer)
        )
        extent = names.dim(self.form.rows)
        code = ChainCode(
            stages, params, tuple(own.items()), outer, "row", "rows", extent, self.plan.rows, self.plan.shares,
            tuple(names.sizes.values()),
        )  # fmt: skip
        kept = self.inner.target
        assert isinstance(kept, _Kept)
        source = UnwrittenChain(code, tuple(kept.functions[call.function] for call in made))
        kernel = self.code.shared.kernel(
            (BLOCKS, code), lambda: MadeKernel(self.code.add_unwritten(source, "none"), code.shares, (), code.dims)
        )
        work = sum(estimate(c.multiplications()) for stage in self.task.stages for c in stage.phases)
        core = self.core
        grain = grain_of(work / (core.accumulator_lanes * core.fma_per_cycle), code.shares, self.code.target.processor)
        writes = tuple(n for n, name in enumerate(operands) if name in written)
        dims = tuple(names.actual(name) for name in kernel.dims)
        return KernelCall(
            kernel.function, tuple(operands), writes, dims, kernel.extent, self.task, grain, work
        )


@dataclass
class _Numbered:
    """Names for sizes in order of appearance. own: symbols that the chain's function itself defines."""

    own: dict[str, str]
    sizes: dict[str, str] = field(default_factory=dict)

    def dim(self, e: Dim) -> Dim:
        at: dict[str, Dim] = {}
        for name in sorted(symbols(e)):
            at[name] = sym(self.own.get(name) or self.sizes.setdefault(name, f"s{len(self.sizes)}"))
        return substitute(e, at)

    def actual(self, canonical: str) -> Dim:
        return next(sym(name) for name, own in self.sizes.items() if own == canonical)
