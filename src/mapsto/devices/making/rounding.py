"""Where results of half precision are rounded: when they are stored, not on the way from one operation to the next.

That gives results that are nearer to the exact ones, and no others where they are exact: a value that is rounded though
nothing before it was (the sum of two elements, say) keeps the bits that IEEE 754 defines, as it may be compared or
rounded to an integer next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mapsto.devices.generic.exactness import is_rounded, rounded_tensors
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Load, Scalar, Stmt, transform, walk, with_value
from mapsto.kernel.compose import loads_of
from mapsto.plan.contraction import ACCUMULATOR


def unrounded(stmts: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The statements on a contraction's sums with each result twice, where it is rounded: as it is in f32, which the
    statements after it take, and rounded, which is stored. A conversion that the model asks for, of what was f32
    before, stays.
    """
    if not any(stmt.dtype.is_half for stmt in stmts):
        return stmts
    wide: dict[str, str] = {}
    done: list[Stmt] = []
    for stmt in stmts:
        value = _read_wide(stmt.value, wide)
        if isinstance(value, Cast) and _rounds(value):
            name = wide[stmt.target] = f"{stmt.target}.wide"
            done.append(replace(stmt, target=name, dtype=DType.F32, value=value.arg))
            value = Cast(Load(name, tuple(sym(i.name) for i in stmt.iters), DType.F32), value.dtype)
        done.append(with_value(stmt, value))
    return tuple(done)


def unrounded_between(stmts: Sequence[Stmt], stored: Collection[str]) -> tuple[list[Stmt], dict[str, str]]:
    """Statements of rows whose half results are rounded where they are stored alone, and the names of those targets
    that are f32 now, by what they are instead of. stored: targets that have a place in memory.
    """
    if not any(isinstance(node, Cast) and node.dtype.is_half for stmt in stmts for node in walk(stmt.value)):
        return list(stmts), {}
    rounded = rounded_tensors(stmts)
    stmts = [with_value(stmt, _unrounded(stmt.value, rounded)) for stmt in stmts]
    wide = {name: f"{name}.wide" for name in _inexact_halves(stmts, rounded) - set(stored)}
    done: list[Stmt] = []
    for stmt in stmts:
        value = _read_wide(stmt.value, wide)
        if stmt.target in wide:
            assert isinstance(value, Cast)
            stmt, value = replace(stmt, target=wide[stmt.target], dtype=DType.F32), value.arg
        done.append(with_value(stmt, value))
    return done, wide


def _read_wide(e: Scalar, wide: Mapping[str, str]) -> Scalar:
    """An expression that reads halves which it widens from where they are f32 already: by the halves' names."""

    def leaf(node: Scalar) -> Scalar | None:
        read = node.arg if isinstance(node, Cast) and node.dtype is DType.F32 else None
        if not isinstance(read, Load) or read.tensor not in wide:
            return None
        return Load(wide[read.tensor], read.index, DType.F32)

    return transform(e, leaf) if wide else e


def _unrounded(e: Scalar, rounded: Collection[str]) -> Scalar:
    """An expression in which no inexact value is rounded and made wide again."""

    def leaf(node: Scalar) -> Scalar | None:
        inner = node.arg if isinstance(node, Cast) and node.dtype is DType.F32 else None
        if not isinstance(inner, Cast) or not _rounds(inner) or not is_rounded(inner.arg, rounded):
            return None
        return transform(inner.arg, leaf)

    return transform(e, leaf)


def _inexact_halves(stmts: Sequence[Stmt], rounded: Collection[str]) -> set[str]:
    """Half targets of one statement, of inexact values, which are made f32 wherever they are read."""
    written = Counter(stmt.target for stmt in stmts)
    reads = [node for stmt in stmts for node in walk(stmt.value)]
    widened = Counter(
        node.arg.tensor
        for node in reads
        if isinstance(node, Cast) and node.dtype is DType.F32 and isinstance(node.arg, Load)
    )
    all_reads = Counter(load.tensor for stmt in stmts for load in loads_of(stmt))
    return {
        stmt.target
        for stmt in stmts
        if stmt.scan is None
        and written[stmt.target] == 1
        and isinstance(stmt.value, Cast)
        and _rounds(stmt.value)
        and is_rounded(stmt.value.arg, rounded)
        and 0 < widened[stmt.target] == all_reads[stmt.target]
    }


def _rounds(value: Cast) -> bool:
    """Whether a conversion rounds what an op has computed."""
    computed = not isinstance(value.arg, Load) or value.arg.tensor == ACCUMULATOR
    return computed and value.dtype.is_half and value.arg.dtype is DType.F32
