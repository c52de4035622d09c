"""Calls of several kernels as one function: for each of some parts of the work all of them, one after the other, the
functions inlined (`loop.inlining`). What passes between them lies in scratch, of which each share of the parts has its
own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mapsto.devices.contraction.core import Core
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.code import MadeKernel, TaskCode, Unwritten, grain_of
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, minimum, mod, mul, product, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.inlining import PartOf, inlined
from mapsto.loop.text import format_function
from mapsto.plan.task import Task

MOST_SHARES = 16  # of all parts: few threads finish together, and scratch stays small


class KeptFunctions:
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
class InlinedStage:
    """One stage in canonical names. key: of its source. operands: which parameter of the whole each of its own is;
    starts: from which element on, by the symbols of the part. dims: of its function, by its order; extent: all of its
    range.
    """

    key: str
    operands: tuple[int, ...]
    starts: tuple[Dim, ...]
    dims: tuple[Dim, ...]
    extent: Dim


@dataclass(frozen=True)
class InlinedCode:
    """All stages in canonical names. template: whose they are. scratch: parameters of which each share has so many
    elements of its own. outer: symbols of starts with how many there are; row: of the row dim's; rows: of a block's
    rows, `count` but in the last.
    """

    template: str
    stages: tuple[InlinedStage, ...]
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
class UnwrittenStages:
    """A `making.code.Unwritten`."""

    code: InlinedCode
    sources: tuple[Function | Unwritten, ...]

    @property
    def key(self) -> str:
        return f"{self.code.template} {_digest(repr(self.code))}"

    def write(self) -> Function:
        return _Writing(self.code).function(self.sources)


class _Writing:
    def __init__(self, code: InlinedCode) -> None:
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

    def _stage(
        self, stage: InlinedStage, source: Function, share: Dim
    ) -> tuple[list[loop.Alloc], list[loop.Statement]]:
        region = dict(self.code.scratch)
        operands = {
            param.name: PartOf(self.code.params[at].name, add(start, mul(share, region.get(at, 0))))
            for param, at, start in zip(source.params, stage.operands, stage.starts, strict=True)
        }
        sizes = dict(zip(source.dims, stage.dims, strict=True))
        return inlined(source, (0, stage.extent), operands, sizes, self.fresh)


@dataclass(frozen=True)
class Divided:
    """How the work of a function of several kernels is divided. outer: symbols that its calls name, with how many there
    are of each. row: the symbol of where a block starts along `extent`, `count` of which it has, or fewer in the last:
    `rows`; None: there are no blocks. shares: of all parts.
    """

    template: str
    outer: tuple[tuple[str, Dim], ...]
    shares: int
    row: str | None = None
    rows: str | None = None
    extent: Dim = 1
    count: int = 1


@dataclass(frozen=True)
class PartCall:
    """A call of one part. starts: from which element on it has its operands, by their names, where that is not the
    first."""

    call: KernelCall
    starts: Mapping[str, Dim] = field(default_factory=dict)


def inlined_call(
    task: Task, code: TaskCode, core: Core, calls: Sequence[PartCall], scratch: Mapping[str, str], divided: Divided
) -> KernelCall:
    """One call of all calls of a part, for all parts. scratch: where what passes between them lies, by its name, an
    array of shares.
    """
    names = Numbered({name: f"start{n}" for n, (name, _) in enumerate(divided.outer)})
    names.own.update({own: canonical for own, canonical in ((divided.row, "row"), (divided.rows, "rows")) if own})
    made = [each.call for each in calls]
    operands = list(dict.fromkeys(scratch.get(name, name) for call in made for name in call.operands))
    written = {scratch.get(call.operands[at], call.operands[at]) for call in made for at in call.writes}
    stages = tuple(
        InlinedStage(
            call.function,
            tuple(operands.index(scratch.get(name, name)) for name in call.operands),
            tuple(names.dim(each.starts.get(name, 0)) for name in call.operands),
            tuple(map(names.dim, call.dims)),
            names.dim(call.extent),
        )
        for call, each in zip(made, calls, strict=True)
    )
    homes = code.homes
    params = tuple(Param(f"p{n}", homes[name].dtype, name in written) for n, name in enumerate(operands))
    own = {operands.index(name): names.dim(homes[name].layout.shape[1]) for name in scratch.values()}
    outer = tuple((f"start{n}", names.dim(extent)) for n, (_, extent) in enumerate(divided.outer))
    made_of = InlinedCode(
        divided.template, stages, params, tuple(own.items()), outer, "row", "rows", names.dim(divided.extent),
        divided.count, divided.shares, tuple(names.sizes.values()),
    )  # fmt: skip
    kept = code.shared.parts(lambda: KeptFunctions(code.target.processor, core, code.target.fused)).target
    assert isinstance(kept, KeptFunctions)
    source = UnwrittenStages(made_of, tuple(kept.functions[call.function] for call in made))
    kernel = code.shared.kernel(
        (divided.template, made_of),
        lambda: MadeKernel(code.add_unwritten(source, "none"), made_of.shares, (), made_of.dims),
    )
    work = sum(estimate(c.multiplications()) for stage in task.stages for c in stage.phases)
    grain = grain_of(work / (core.accumulator_lanes * core.fma_per_cycle), divided.shares, code.target.processor)
    writes = tuple(n for n, name in enumerate(operands) if name in written)
    dims = tuple(names.actual(name) for name in kernel.dims)
    return KernelCall(kernel.function, tuple(operands), writes, dims, kernel.extent, task, grain, work)


@dataclass
class Numbered:
    """Names for sizes in order of appearance. own: symbols that the function itself defines."""

    own: dict[str, str]
    sizes: dict[str, str] = field(default_factory=dict)

    def dim(self, e: Dim) -> Dim:
        at: dict[str, Dim] = {}
        for name in sorted(symbols(e)):
            at[name] = sym(self.own.get(name) or self.sizes.setdefault(name, f"s{len(self.sizes)}"))
        return substitute(e, at)

    def actual(self, canonical: str) -> Dim:
        return next(sym(name) for name, own in self.sizes.items() if own == canonical)
