"""Where a kernel's temporaries live: in a register, in a local array, or in a buffer that the planner provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.rows import Group, Segment
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, bare_symbol, product


class LocalArray(NamedTuple):
    """A temporary in a local array of so many elements (of vectors, where rows are lanes)."""

    name: str
    dtype: DType
    elements: int


@dataclass(frozen=True)
class Temps:
    """`registers`: one value a row; `handed`: targets (outputs too) whose value goes straight to their group's other
    steps; `arrays`: local ones; `buffers`: the rest.
    """

    registers: frozenset[str]
    handed: frozenset[str]
    arrays: tuple[LocalArray, ...]
    buffers: tuple[str, ...]


def place_temps(
    segment: Segment, shapes: Mapping[str, tuple[DType, tuple[Dim, ...]]], lanes: int, processor: Processor
) -> Temps:
    """`shapes`: the kernel's temporaries. `lanes`: of a row vector, 1 where rows are single. `processor`: how much a
    thread's stack holds.
    """
    row_dims = dict(segment.row_dims)
    registers: set[str] = set()
    handed: set[str] = set()
    arrays: list[LocalArray] = []
    buffers: list[str] = []
    used = 0
    for name in dict.fromkeys(s.target for s in segment.steps):
        plain = _passes_values(segment, name)
        if plain and _at_one_point(segment, name):
            handed.add(name)
        if name not in shapes:
            continue
        dtype, shape = shapes[name]
        inner = product(e for d, e in enumerate(shape) if d not in row_dims.get(name, frozenset()))
        if (name in handed and _own_group_alone(segment, name)) or (
            plain and inner == 1 and _single(segment, name, row_dims.get(name, frozenset()))
        ):
            registers.add(name)
            continue
        size = inner * dtype.size * lanes
        fits = isinstance(size, int) and size <= processor.array_bytes and used + size <= processor.stack_bytes
        if isinstance(size, int) and isinstance(inner, int) and fits:
            used += size
            arrays.append(LocalArray(name, dtype, inner))
        else:
            buffers.append(name)
    return Temps(frozenset(registers), frozenset(handed), tuple(arrays), tuple(buffers))


def _passes_values(segment: Segment, name: str) -> bool:
    """Whether a target is written point by point and never used as an index."""
    for step in segment.steps:
        if step.target == name and (step.scan is not None or step.ordered):
            return False
        if name in step.indexed_by:
            return False
    return True


def _own_group_alone(segment: Segment, name: str) -> bool:
    """Whether every access is in one group."""
    return sum(bool(_indices(g, name)) for g in segment.groups) == 1


def _at_one_point(segment: Segment, name: str) -> bool:
    """Whether the group that writes the tensor touches it at one index alone."""
    return all(len(_indices(g, name)) == 1 for g in segment.groups if name in g.targets)


def _indices(group: Group, name: str) -> set[tuple[Dim, ...]]:
    found: set[tuple[Dim, ...]] = set()
    for step in group.steps:
        if step.target == name:
            found.add(step.index)
        found |= {index for t, index in step.reads if t == name}
    return found


def _single(segment: Segment, name: str, row_dims: frozenset[int]) -> bool:
    """Whether past its row dims the tensor is always touched at 0, by steps without inner loops where it is written."""
    rows = {r.name for r in segment.rows}
    for group in segment.groups:
        if any(s.target == name for s in group.steps) and group.inner:
            return False
        for index in _indices(group, name):
            for d, e in enumerate(index):
                if e != 0 and not (d in row_dims and bare_symbol(e) in rows):
                    return False
    return True
