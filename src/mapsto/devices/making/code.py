"""The code of one task in the making, and what all tasks of a program share: functions by their canonical form.

Equal kernels (in canonical form, with equal layouts) give one function, whatever their tensors are named.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from mapsto import debug
from mapsto.budget import current
from mapsto.devices.contraction.core import Core
from mapsto.devices.generic import choose_schedule, lower, scratch_temps
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.relaid import relaid
from mapsto.devices.generic.schedule import RowSchedule, near_schedules, read_schedule, schedule_text
from mapsto.devices.maker import KernelCall, NearKernel
from mapsto.devices.making.rounding import unrounded_between
from mapsto.devices.making.template_names import LOOPS
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, product
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Op, Reduction, Scalar, Stmt, bodies, children
from mapsto.kernel.compose import reads
from mapsto.kernel.text import kernel_text
from mapsto.loop.ast import Function
from mapsto.machine.tuning import NO_TUNING, Tuning, key_of_form
from mapsto.plan.home import Home
from mapsto.plan.kernels import Canonical, canonical
from mapsto.plan.layout import Layout, plain
from mapsto.plan.task import Task
from mapsto.runtime.arrays import ConstantArray, Deferred


class Scheduled(Protocol):
    """A schedule that was chosen. `rivals`: others, the best first, as plans have them, and their cost over its."""

    @property
    def rivals(self) -> Sequence[tuple[str, float]]: ...


T = TypeVar("T", bound=Scheduled)


def grain_of(cycles: float, extent: Dim, processor: Processor) -> int:
    """The least share of an extent that is worth a thread of the processor, where the whole takes `cycles` (sizes not
    known before a run: typical).
    """
    return max(1, math.ceil(processor.worth_a_thread * max(estimate(extent), 1) / max(cycles, 1.0)))


def rows_work(stmts: Sequence[Stmt]) -> float:
    """A rough count of operations: every operation and load at every point, those of reductions at theirs."""
    return sum(estimate(product(i.extent for i in s.iters)) * _operations(s.value) for s in stmts)


def _operations(e: Scalar) -> float:
    own = 4.0 if isinstance(e, Op) and e.fn in ("exp", "log", "tanh", "erf", "sigmoid", "pow", "div", "sqrt") else 1.0
    if not isinstance(e, Reduction):
        return own + sum(map(_operations, children(e)))
    return own + sum(map(_operations, bodies(e))) * estimate(product(i.extent for i in e.iters))


@dataclass(frozen=True)
class MadeKernel:
    """A function that was made for a form: its name, what its threads share, its parameters and sizes in order, about
    how many operations it takes.
    """

    function: str
    extent: Dim
    params: tuple[str, ...]
    dims: tuple[str, ...]
    work: float = 0.0  # of statements; contractions count theirs for each call


class Unwritten(Protocol):
    """What a function is written from, whole: it can be pickled, and written wherever that suits."""

    @property
    def key(self) -> str:
        """A digest of all that the function depends on, but for what it is made for."""

    def write(self) -> Function: ...


class MadeFor(Protocol):
    """What functions are made for, as loops and as the contraction template's tiles see it. `fused`: whether it has a
    fused multiply-add.
    """

    @property
    def processor(self) -> Processor: ...

    @property
    def core(self) -> Core: ...

    @property
    def fused(self) -> bool: ...

    def add(self, function: Function, optimizer: str) -> str:
        """The name under which a function is part of the program; equal functions share one."""

    def add_later(self, source: Unwritten, optimizer: str) -> str:
        """The same for a function that is yet to be written, by another process perhaps."""


@dataclass
class Shared:
    """What the tasks of one program have in common: equal forms are lowered once. It only remembers; what it holds
    follows from the forms alone.
    """

    target: MadeFor
    tuning: Tuning = NO_TUNING
    forms: dict[Canonical, Canonical] = field(default_factory=dict)
    kernels: dict[object, MadeKernel] = field(default_factory=dict)
    schedules: dict[Canonical, RowSchedule] = field(default_factory=dict)
    packed: dict[str, Deferred] = field(default_factory=dict)
    inner: Shared | None = None

    def parts(self, target: Callable[[], MadeFor]) -> Shared:
        """What kernels have in common that are parts of others: the same, but for what their functions are made for."""
        if self.inner is None:
            self.inner = replace(self, target=target(), kernels={})
        return self.inner

    def kernel(self, key: object, make: Callable[[], MadeKernel]) -> MadeKernel:
        """The kernel of a form and a schedule, made where there is none yet."""
        found = self.kernels.get(key)
        if found is None:
            found = self.kernels[key] = make()
        return found

    def schedule(self, form: Canonical) -> RowSchedule:
        """The schedule that costs choose for a form."""
        found = self.schedules.get(form)
        if found is None:
            found = self.schedules[form] = choose_schedule(form.kernel, dict(form.layouts), self.target.processor)
        return found

    def packing(self, name: str, packed: Deferred) -> tuple[Deferred, bool]:
        """The packed constant of this name, and whether it is packed for this."""
        found = self.packed.setdefault(name, packed)
        return found, found is packed


@dataclass(frozen=True)
class Ways(Generic[T]):
    """The schedules that one kernel may have by a template. form: what it is, in canonical names. choose: by costs;
    near: others, as plans have them, and about how often the cost of what costs choose.
    """

    template: str
    form: object
    choose: Callable[[], T]
    show: Callable[[T], str]
    read: Callable[[str], T]
    near: Callable[[], Sequence[tuple[str, float]]]


@dataclass
class Schedules:
    """Schedules of a task's kernels in order: tuned ones where there are, else chosen as they are asked for; or given
    by a plan. near: of each kernel, where they are wanted.
    """

    given: Sequence[str] | None
    tuning: Tuning = NO_TUNING
    near: list[NearKernel] | None = None
    taken: list[str] = field(default_factory=list)
    because: list[str] = field(default_factory=list)
    rivals: list[tuple[int, str, float]] = field(default_factory=list)  # which part, its text, how often the cost

    def take(self, ways: Ways[T]) -> T:
        """The next schedule. Raises ValueError where the plan has none or one that cannot be read."""
        if self.given is None:
            tuned = self._tuned(ways)
            made = ways.choose() if tuned is None else tuned
            self.taken.append(ways.show(made))
            if self.near is not None:
                key = key_of_form(ways.form)
                self.near.append(NearKernel(key, ways.template, self.taken[-1], tuple(ways.near())))
            if tuned is not None:
                return made
            self.rivals += [(len(self.taken) - 1, text, ratio) for text, ratio in made.rivals]
            return made
        if len(self.taken) == len(self.given):
            raise ValueError(f"the schedule has {len(self.given)} parts, more are needed")
        self.taken.append(self.given[len(self.taken)])
        return ways.read(self.taken[-1])

    def _tuned(self, ways: Ways[T]) -> T | None:
        """What was measured to be faster for an equal kernel on this machine, if that is known."""
        found = self.tuning.kernels.get(key_of_form(ways.form)) if self.tuning else None
        if found is None or found.template != ways.template:
            return None
        try:
            made = ways.read(found.schedule)
        except ValueError as error:
            self.explain(f"what was tuned cannot be taken: {error}")
            return None
        self.explain(f"tuned: {found.share:.2f} of the time of what costs choose, as it was measured here")
        return made

    def explain(self, reason: str) -> None:
        self.because.append(reason)

    def beaten(self) -> Iterator[tuple[int, list[str], float]]:
        """Which part is another one, all parts then, and that part's cost over what was taken."""
        for at, text, ratio in self.rivals:
            yield at, [*self.taken[:at], text, *self.taken[at + 1 :]], ratio


@dataclass
class TaskCode:
    """The code of one task in the making. `homes`: of the plan, below those that are made here."""

    shared: Shared
    task: Task
    homes: ChainMap[str, Home]
    values: ChainMap[str, Value]
    constants: ChainMap[str, np.ndarray]
    schedules: Schedules
    packed: dict[str, Deferred] = field(default_factory=dict)
    temps: set[str] = field(default_factory=set)  # tensors between statements that were given memory
    counter: int = 0

    @property
    def target(self) -> MadeFor:
        return self.shared.target

    @staticmethod
    def of(
        shared: Shared,
        task: Task,
        homes: Mapping[str, Home],
        constants: Mapping[str, np.ndarray],
        given: Sequence[str] | None = None,
        near: list[NearKernel] | None = None,
    ) -> TaskCode:
        """For a task of a plan with these homes. constants: of the graph. given: schedules that a plan has. near: takes
        those that were near.
        """
        return TaskCode(
            shared,
            task,
            ChainMap({}, homes),  # type: ignore[arg-type]  # only first maps are written to
            ChainMap({}, task.values),
            ChainMap({}, dict(task.constants), constants),  # type: ignore[arg-type]
            Schedules(given, shared.tuning, near),
        )

    def layout(self, name: str) -> Layout:
        return self.homes[name].layout

    def home(self, name: str) -> Home | None:
        """Where a value lies; None for what passes between the task's statements."""
        return next((found for homes in self.homes.maps if (found := homes.get(name)) is not None), None)

    def value(self, name: str) -> Value:
        """A value's type: where it lies, or as the task's statements have it."""
        home = self.home(name)
        return self.values[name] if home is None else home.value(name)

    def fresh(self, hint: str) -> str:
        """A name that no other task uses."""
        self.counter += 1
        return f"{hint}.{self.task.name}.{self.counter}"

    def add_function(self, function: Function, optimizer: str) -> str:
        return self.target.add(function, optimizer)

    def add_unwritten(self, source: Unwritten, optimizer: str) -> str:
        return self.target.add_later(source, optimizer)

    def add_home(self, name: str, home: Home) -> None:
        """Where a value lies that is made here."""
        self.homes[name] = home

    def add_value(self, value: Value) -> None:
        """A value that passes between the task's statements."""
        self.values[value.name] = value

    def add_scratch(self, name: str, dtype: DType, shape: tuple[Dim, ...]) -> None:
        self.add_home(name, Home(name, dtype, plain(shape), "scratch"))

    def add_constant(self, name: str, array: np.ndarray, new: bool = True) -> None:
        """A constant that is made here; `new`: no other task has charged it."""
        self._charge(name, array, new)
        self.constants[name] = array

    def add_packed(self, name: str, packed: Deferred) -> None:
        """A constant that calls read, and no statement does."""
        packed, new = self.shared.packing(name, packed)
        self._charge(name, packed, new)
        self.packed[name] = packed

    def _charge(self, name: str, array: ConstantArray, new: bool) -> None:
        if new:
            current().charge("folded_bytes", array.nbytes, name)
        self.add_scratch(name, from_numpy(array.dtype), array.shape)

    @property
    def made_constants(self) -> dict[str, ConstantArray]:
        """Constants that are made here."""
        return {**self.constants.maps[0], **self.packed}

    def add_temp(self, value: Value) -> None:
        """Memory for what passes between statements."""
        self.add_scratch(value.name, value.dtype, value.shape)
        self.temps.add(value.name)

    def over(self, homes: Mapping[str, Home], values: Mapping[str, Value]) -> TaskCode:
        """The same, with other homes and values in front; what it makes, `adopt` takes over."""
        return replace(
            self,
            homes=ChainMap({}, dict(homes), *self.homes.maps),
            values=ChainMap({}, dict(values), *self.values.maps),
        )

    def adopt(self, other: TaskCode) -> None:
        """What was made while `other`, which has all else in common, stood in for this one."""
        self.counter = other.counter
        made: MutableMapping[str, Home] = other.homes.maps[0]
        self.homes.update(made)
        self.values.update(other.values.maps[0])

    def rows_call(self, stmts: Sequence[Stmt]) -> KernelCall:
        """A call of the generic lowering of these statements."""
        if not any(node.op == "cast" and node.outputs[0].dtype.is_half for node in self.task.nodes):
            # a conversion of the model's own is what it asks for, and looks like any rounding by now
            stored = [s.target for s in stmts if self.home(s.target) is not None]
            stmts, wide = unrounded_between(stmts, stored)
            for name, other in wide.items():
                self.add_value(replace(self.value(name), name=other, dtype=DType.F32))
        return _rows_call(relaid(stmts, self), self)


def _rows_call(stmts: Sequence[Stmt], code: TaskCode) -> KernelCall:
    touched = {s.target for s in stmts}.union(*(reads(s) for s in stmts))
    layouts = {n: home.layout for n in touched - code.temps if (home := code.home(n)) is not None}
    form, names = canonical(list(stmts), {n: code.value(n) for n in touched}, layouts)
    form = code.shared.forms.setdefault(form, form)  # an equal one is compared once, not at each look-up
    processor = code.target.processor
    schedule = code.schedules.take(
        Ways(
            LOOPS,
            form,
            lambda: _chosen(form, code),
            schedule_text,
            lambda text: read_schedule(text, form.kernel, dict(form.layouts), processor),
            lambda: near_schedules(form.kernel, dict(form.layouts), processor),
        )
    )
    kernel = code.shared.kernel((form, schedule_text(schedule)), lambda: _lower_rows(form, schedule, code))
    actual = {canonical_name: name for name, canonical_name in names.tensors.items()}
    sizes = names.actual_sizes()
    operands = tuple(_operand(p, actual, code) for p in kernel.params)
    written = {t.name for t in (*form.kernel.outputs, *form.kernel.temps)}
    writes = tuple(i for i, p in enumerate(kernel.params) if p in written)
    # about half a vector of operations in a cycle, as loads and stores are counted among them
    grain = grain_of(kernel.work / max(processor.lanes // 2, 1), kernel.extent, processor)
    dims = tuple(sizes[d] for d in kernel.dims)
    extent = substitute(kernel.extent, sizes)
    return KernelCall(kernel.function, operands, writes, dims, extent, code.task, grain, kernel.work)


def _operand(param: str, actual: Mapping[str, str], code: TaskCode) -> str:
    """The value behind a parameter; a temp that needs memory becomes a scratch tensor of its own."""
    name = actual[param]
    if code.home(name) is None:
        value = code.value(name)
        code.add_temp(value)
    return name


def _chosen(form: Canonical, code: TaskCode) -> RowSchedule:
    chosen = code.shared.schedule(form)
    code.schedules.explain(chosen.reason)
    return chosen


def _lower_rows(form: Canonical, schedule: RowSchedule, code: TaskCode) -> MadeKernel:
    debug.show(debug.KERNELS, f"kernel of {code.task.name}", lambda: kernel_text(form.kernel))
    layouts = dict(form.layouts)
    processor = code.target.processor
    for name in scratch_temps(form.kernel, schedule, processor):
        layouts[name] = plain(next(t.shape for t in form.kernel.temps if t.name == name))
    function, extent = lower(form.kernel, layouts, schedule, "kernel", processor)
    name = code.add_function(function, "generic")
    work = rows_work(form.kernel.stmts)
    return MadeKernel(name, extent, tuple(p.name for p in function.params), function.dims, work)
