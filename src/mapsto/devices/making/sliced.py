"""Works done slice by slice as one function: for each element of the leading dims the kernels of all stages, one after
the other (`making.inlined`). What passes between them lies in scratch, a slice for each share of the slices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mapsto.devices.contraction.core import Core
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import TaskCode, Ways
from mapsto.devices.making.contractions import WholeOperand, phase_calls, template_reach
from mapsto.devices.making.inlined import MOST_SHARES, Divided, KeptFunctions, PartCall, inlined_call
from mapsto.devices.making.sums import contraction_stmts
from mapsto.devices.making.template_names import SLICES
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product, symbols
from mapsto.plan.home import Home
from mapsto.plan.sliced import layout_of_slice, lead_of_slices, slice_of_stage, start_name, starts_of
from mapsto.plan.task import Task

_TEXT = re.compile(r"(?P<shares>\d{1,9}) shares")


@dataclass(frozen=True)
class SlicePlan:
    """How many shares threads divide the slices into."""

    shares: int
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)


def slices_text(plan: SlicePlan) -> str:
    """As plans have it."""
    return f"{plan.shares} shares"


def _read_slices(text: str) -> SlicePlan:
    """Raises ValueError for what is no such text."""
    found = _TEXT.fullmatch(text)
    if found is None or not int(found["shares"]):
        raise ValueError(f"{text[:80]!r} is no schedule of slices")
    return SlicePlan(int(found["shares"]))


def _chosen(lead: tuple[Dim, ...]) -> SlicePlan:
    count = product(lead)
    return SlicePlan(min(count, MOST_SHARES) if isinstance(count, int) else MOST_SHARES)


def slice_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall]:
    """The calls that compute a sliced task: what packs what all slices have in common, then all slices. Raises
    ValueError where what a stage touches does not lie so that slices of it begin somewhere.
    """
    return _SlicesInMaking(task, code, core).calls()


class _SlicesInMaking:
    def __init__(self, task: Task, code: TaskCode, core: Core) -> None:
        self.task, self.code, self.core = task, code, core
        self.lead = lead = lead_of_slices(task)
        self.plan = code.schedules.take(
            Ways(SLICES, (SLICES, lead), lambda: _chosen(lead), slices_text, _read_slices, lambda: ())
        )
        self.scratch: dict[str, str] = {}  # what passes -> the scratch that it lies in
        self.inside = {name for stage in task.stages for name in stage.targets}
        self.inner = code.shared.parts(lambda: KeptFunctions(code.target.processor, core, code.target.fused))

    def calls(self) -> list[KernelCall]:
        count = len(self.lead)
        homes = self._homes(count)
        before: list[KernelCall] = []
        made: list[PartCall] = []
        for whole in self.task.stages:
            outside = {n: home for n in self._touched(whole) if (home := self.code.home(n)) is not None}
            starts = starts_of(whole, self.lead, outside)
            if starts is None:
                raise ValueError(f"slices of what {whole.targets[-1]} is made of begin in more than one place")
            stage = replace(slice_of_stage(whole, count), name=self.task.name)
            own = replace(self.code.over(homes, {}), shared=self.inner, task=stage)
            shared, calls = self._stage(stage, whole, own)
            before += shared
            made += [PartCall(call, starts) for call in calls]
            self.code.counter = max(self.code.counter, own.counter)
            self._adopt(own, homes)
        outer = tuple((start_name(d), extent) for d, extent in enumerate(self.lead))
        divided = Divided(SLICES, outer, self.plan.shares)
        return [*before, inlined_call(self.task, self.code, self.core, made, self.scratch, divided)]

    def _touched(self, stage: Task) -> frozenset[str]:
        """What a stage reads and writes, but for what passes."""
        return (stage.reads | set(stage.targets)) - self.task.passing

    def _homes(self, count: int) -> dict[str, Home]:
        """Where stages have a slice of what they make: its part of the whole, or scratch, for what passes."""
        homes: dict[str, Home] = {}
        for name in sorted(self.inside & self.code.homes.keys()):
            home = self.code.homes[name]
            if name not in self.task.passing:
                shape = (*(1 for _ in range(count)), *home.layout.shape[count:])
                homes[name] = replace(home, layout=replace(home.layout, shape=shape))
                continue
            layout = layout_of_slice(home.layout, count)
            if layout is None or symbols(layout.elements):
                raise ValueError(f"a slice of {name} is not in one piece of a known size")
            homes[name] = Home(name, home.dtype, layout, "of a slice")
            self._add_scratch(name, home.dtype, layout.elements)
        return homes

    def _add_scratch(self, name: str, dtype: DType, elements: Dim) -> None:
        buffer = self.code.fresh(f"{name}.slices")
        self.code.add_scratch(buffer, dtype, (self.plan.shares, elements))
        self.scratch[name] = buffer

    def _stage(self, stage: Task, whole: Task, own: TaskCode) -> tuple[list[KernelCall], list[KernelCall]]:
        """Calls that all slices have in common, and those of a slice."""
        if stage.kind == "rows":
            return [], [own.rows_call(stage.stmts)]
        reached = template_reach(stage, own)
        if reached is None:
            return [], [own.rows_call(contraction_stmts(stage, own))]
        (c,), (entire,) = stage.phases, whole.phases
        borders, has_slices = border_calls(stage, own), len(entire.batch) > len(c.batch)  # whether B has slices as well
        if has_slices and c.b.tensor in own.constants:
            raise ValueError(f"{c.b.tensor} is packed ahead: there is no slice of it")
        operand = WholeOperand(c, {}, own) if has_slices else WholeOperand(entire, {}, self.code)
        *packing, call = phase_calls(stage, c, reached[0], own, self.core, operand)
        return ([], [*borders, *packing, call]) if has_slices else (packing, [*borders, call])

    def _adopt(self, own: TaskCode, homes: Mapping[str, Home]) -> None:
        """Scratch that a stage asked for is of a slice as well; constants that it made are the task's."""
        for name, home in own.homes.maps[0].items():
            if name in own.made_constants:
                self.code.add_home(name, home)
            elif name not in self.scratch and name not in homes:
                self._add_scratch(name, home.dtype, home.layout.elements)
