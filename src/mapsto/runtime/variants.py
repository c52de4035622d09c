"""An executable that is several: each compiled for some sizes of its inputs, and chosen by those that a run brings.

It knows nothing of compiling: it is given what makes one.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mapsto.arguments import brief, integer
from mapsto.boundary import public, translated
from mapsto.errors import ArgumentError, MapstoError, ShapeError, UnsupportedError
from mapsto.ir.expr import bare_symbol
from mapsto.runtime.arena_layout import remember
from mapsto.runtime.executable import Executable, MemoryUse
from mapsto.runtime.program import Port, Program

if TYPE_CHECKING:
    from mapsto.plan.plan import Plan
    from mapsto.runtime.guard import Fences
    from mapsto.runtime.profile import StepTime

KEPT = 8  # variants
_REMEMBERED = 64  # sizes that were refused, and why

InputAxis = tuple[str, int]
"""(input, axis): whose extent is fixed in a variant."""
FixedSizes = tuple[tuple[InputAxis, int], ...]
"""Axes with their extents."""


@dataclass
class Variant:
    """An executable, the seconds that making it took, its runs, and when the last of them was, counted in runs."""

    executable: Executable
    seconds: float
    runs: int = 0
    last: int = 0


class VariedExecutable(Executable):
    """Runs a model that cannot be compiled for all sizes at once, since some extents decide a rank: the first run of
    other extents waits until there is an executable for them. The last `KEPT` are there at a time.

    It is an `Executable` to who has one, though it has no program of its own: what is of one program alone (to save it,
    its plan) it refuses.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[Port],
        axes: Sequence[InputAxis],
        make: Callable[[Mapping[InputAxis, int]], Executable],
        why: str,
        threads: int,
        defaults: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """axes: those whose extents decide, as far as that is known; more where `make` is refused for others. make:
        compiles for these extents. why: there is no executable for all sizes. defaults: shapes of inputs that a run
        need not give.
        """
        self.name, self.why, self.threads = name, why, threads
        self._ports, self._axes, self._make = tuple(inputs), tuple(axes), make
        self._by_name = {port.name: port for port in self._ports}
        self._default_shapes = dict(defaults or {})
        self._made: dict[FixedSizes, Variant] = {}
        self._more: dict[FixedSizes, tuple[InputAxis, ...]] = {}  # where further axes decide
        self._refused: dict[FixedSizes, tuple[type[MapstoError], str]] = {}
        self._clock = itertools.count(1)
        self._gone = 0
        self._poison = False
        self._fences: Fences | None = None
        self.overriding = self.adaptive = self.narrowing = None
        self.cache_note = ""

    # -- runs ----------------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any) -> Any:
        """As of an `Executable`; raises what compiling for these sizes raises as well."""
        given = {port.name: value for port, value in zip(self._ports, inputs, strict=False)}
        return self._chosen(given)(*inputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As of an `Executable`; raises what compiling for these sizes raises as well."""
        if not isinstance(inputs, Mapping):
            raise ArgumentError(f"inputs: expected a dict by name, got {brief(inputs)} ({self._wanted()})")
        return self._chosen(inputs).run(inputs)

    def _chosen(self, given: Mapping[str, Any]) -> Executable:
        try:
            return self._for(lambda axis: self._extent(given, axis))
        except Exception as error:
            if isinstance(error, MapstoError):
                raise
            raise translated(error, "run") from error

    def _for(self, extent: Callable[[InputAxis], int]) -> Executable:
        """The executable for these extents, made if it is not there."""
        axes = self._axes
        while True:
            fixed = tuple((axis, extent(axis)) for axis in axes)
            found = self._made.get(fixed) or self._more.get(fixed)
            if found is None:
                if refused := self._refused.get(fixed):
                    raise refused[0](refused[1])
                found = self._begun(fixed)
            if isinstance(found, Variant):
                found.runs += 1
                found.last = next(self._clock)
                return found.executable
            axes = (*axes, *found)

    def _begun(self, fixed: FixedSizes) -> Variant | tuple[InputAxis, ...]:
        """A new variant; or the axes that decide beside these, where there are any."""
        self._require_one_each(fixed)
        begun = time.perf_counter()
        try:
            made = self._make(dict(fixed))
        except MapstoError as error:
            own = {axis for axis, _ in fixed}
            more = tuple(axis for axis in error.axes if axis not in own)
            if more:
                remember(self._more, fixed, more, _REMEMBERED)
                return more
            remember(self._refused, fixed, (type(error), self._placed(fixed, error)), _REMEMBERED)
            raise type(error)(self._placed(fixed, error)) from error
        self._prepare(made)
        # two callers at once make two, of which one stays: no lock, which a signal handler could find taken
        found = self._made[fixed] = Variant(made, time.perf_counter() - begun, last=next(self._clock))
        for oldest in sorted(self._made.items(), key=lambda each: each[1].last)[:-KEPT]:
            self._gone += self._made.pop(oldest[0], None) is not None
        return found

    def _require_one_each(self, fixed: FixedSizes) -> None:
        """Raises ShapeError where two axes that the model calls by one name differ."""
        known: dict[str, int] = {}
        for axis, size in fixed:
            name = self._symbol(axis)
            if known.setdefault(name, size) != size:
                raise ShapeError(f"input {axis[0]!r}: axis {axis[1]} is {size}, and {name} is {known[name]} already")

    def _placed(self, fixed: FixedSizes, error: MapstoError) -> str:
        return f"for {self._shown(fixed)}: {error}"

    def _prepare(self, made: Executable) -> None:
        if self._poison:
            made.poison()
        if self._fences is not None:
            made.guard(self._fences)

    def _extent(self, given: Mapping[str, Any], axis: InputAxis) -> int:
        """Raises ShapeError where a run does not say it."""
        name, at = axis
        port = self._by_name[name]
        if name not in given and name not in self._default_shapes:
            raise ShapeError(f"inputs of {self.name}: missing: {name} ({self._wanted()})")
        shape = np.shape(given[name]) if name in given else self._default_shapes[name]
        if len(shape) != len(port.shape):
            raise ShapeError(f"input {name!r}: shape {tuple(shape)} has {len(shape)} axes ({port})")
        return int(shape[at])

    # -- what an executable can be asked -------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self._ports

    @property
    def open_sizes(self) -> Mapping[str, tuple[int, int]]:
        number = {port.name: at for at, port in enumerate(self._ports)}
        return {self._symbol(axis): (number[axis[0]], axis[1]) for axis in reversed(self._open_axes())}

    @property
    def addresses(self) -> Mapping[str, int]:
        """Raises UnsupportedError: each variant has functions of its own."""
        self._refuse("has no functions of its own")

    def outputs_of(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        given = {port.name: value for port, value in zip(self._ports, inputs, strict=False)}
        return self._chosen(given).outputs_of(inputs)

    def watch_like(self, other: Executable) -> None:
        super().watch_like(other)
        for each in list(self._made.values()):
            each.executable.watch_like(other)

    @property
    def program(self) -> Program:  # type: ignore[override]
        """Raises UnsupportedError: each variant has one of its own."""
        self._refuse("has no program of its own")

    @property
    def plan_text(self) -> str:  # type: ignore[override]
        """Raises UnsupportedError, as `plan` does."""
        self._refuse("has no plan of its own")

    @property
    def plan(self) -> Plan:
        """Raises UnsupportedError: each variant has one of its own."""
        self._refuse("has no plan of its own")

    @public
    def profile(self, *inputs: Any, runs: int = 1) -> list[StepTime]:
        """Of the variant that these inputs choose."""
        given = {port.name: value for port, value in zip(self._ports, inputs, strict=False)}
        return self._chosen(given).profile(*inputs, runs=runs)

    @public
    def sizes(self, *inputs: Any) -> dict[str, int]:
        """Every open size by its symbol, as a run with these inputs finds it; those that choose the variant as well."""
        given = {port.name: value for port, value in zip(self._ports, inputs, strict=False)}
        found = self._chosen(given).sizes(*inputs)
        own = {self._symbol(axis): self._extent(given, axis) for axis in self._open_axes() if axis[0] in given}
        return own | found

    @public
    def memory(self, sizes: Mapping[str, int] | None = None) -> MemoryUse:
        """As of an `Executable`. Raises ArgumentError where sizes that choose the variant are not among `sizes`."""
        if sizes is not None and not isinstance(sizes, Mapping):
            raise ArgumentError(f"sizes: expected a dict of sizes by the symbols' names, got {brief(sizes)}")
        given = dict(sizes or {})

        def extent(axis: InputAxis) -> int:
            name = self._symbol(axis)
            found = integer(given[name]) if name in given else None
            if found is None or found < 0:
                raise ArgumentError(f"sizes: {name} decides which variant runs: say how large it is")
            return found

        exe = self._for(extent)
        known = {name for port in exe.inputs for dim in port.shape if (name := bare_symbol(dim)) is not None}
        fixed = {self._symbol(axis) for axis in self._open_axes()} - known
        return exe.memory({name: size for name, size in given.items() if name not in fixed})

    def poison(self, on: bool = True) -> None:
        self._poison = on
        for each in list(self._made.values()):
            each.executable.poison(on)

    @public
    def guard(self, fences: Fences | None) -> None:
        self._fences = fences
        for each in list(self._made.values()):
            each.executable.guard(fences)

    def release_memory(self) -> None:
        """Lets go of the scratch memory of all variants; they themselves stay."""
        for each in list(self._made.values()):
            each.executable.release_memory()

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Raises UnsupportedError: save an executable for fixed sizes instead."""
        self._refuse("cannot be saved")

    @public
    def parts(self) -> list[Any]:
        """Raises UnsupportedError, as `save` does."""
        self._refuse("cannot be saved")

    @public
    def __reduce__(self) -> tuple[Any, ...]:
        """Raises UnsupportedError, as `save` does."""
        self._refuse("cannot be pickled")

    @public
    def report(self) -> str:
        """Why there are variants, for which sizes they are, and what they took to make."""
        lines = [f"chosen by {', '.join(dict.fromkeys(map(self._symbol, self._axes)))}: {self.why}"]
        for fixed, each in list(self._made.items()):
            took = f"made in {each.seconds:.2f} s, {each.runs} runs"
            lines.append(f"{self._shown(fixed)}: {took}")
            if each.executable.adaptive is not None or each.executable.narrowing is not None:
                lines += [f"    {line}" for line in each.executable.report().splitlines()]
        lines += [f"refused {said}" for _, said in list(self._refused.values())]
        return "\n".join([*lines, f"{self._gone} made way for others"] if self._gone else lines)

    # -- names ---------------------------------------------------------------------------------------------------------

    def _open_axes(self) -> list[InputAxis]:
        return [(p.name, at) for p in self._ports for at, dim in enumerate(p.shape) if bare_symbol(dim) is not None]

    def _symbol(self, axis: InputAxis) -> str:
        return str(self._by_name[axis[0]].shape[axis[1]])

    def _shown(self, fixed: FixedSizes) -> str:
        sizes = {self._symbol(axis): size for axis, size in fixed}
        return ", ".join(f"{name} = {size}" for name, size in sizes.items())

    def _wanted(self) -> str:
        return f"it takes {', '.join(map(str, self._ports))}"

    def _refuse(self, what: str) -> NoReturn:
        names = ", ".join(dict.fromkeys(map(self._symbol, self._axes)))
        raise UnsupportedError(
            f"{self.name} {what}: it is compiled for each {names} that a run brings; fix {names} by `shapes`"
        )
