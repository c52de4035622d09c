"""Where results of half precision are rounded: when they are stored, not on the way from one operation to the next."""

from __future__ import annotations

from dataclasses import replace

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Load, Scalar, Stmt, transform, with_value
from mapsto.plan.contraction import ACCUMULATOR


def unrounded(stmts: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The statements on a contraction's sums with each result twice, where it is rounded: as it is in f32, which the
    statements after it take, and rounded, which is stored. A conversion that the model asks for, of what was f32
    before, stays.
    """
    if not any(stmt.dtype.is_half for stmt in stmts):
        return stmts
    wide: dict[str, str] = {}

    def leaf(node: Scalar) -> Scalar | None:
        read = node.arg if isinstance(node, Cast) and node.dtype is DType.F32 else None
        if not isinstance(read, Load) or read.tensor not in wide:
            return None
        return Load(wide[read.tensor], read.index, DType.F32)

    done: list[Stmt] = []
    for stmt in stmts:
        value = transform(stmt.value, leaf)
        if isinstance(value, Cast) and _rounds(value):
            name = wide[stmt.target] = f"{stmt.target}.wide"
            done.append(replace(stmt, target=name, dtype=DType.F32, value=value.arg))
            value = Cast(Load(name, tuple(sym(i.name) for i in stmt.iters), DType.F32), value.dtype)
        done.append(with_value(stmt, value))
    return tuple(done)


def _rounds(value: Cast) -> bool:
    """Whether a conversion rounds what an op has computed."""
    computed = not isinstance(value.arg, Load) or value.arg.tensor == ACCUMULATOR
    return computed and value.dtype.is_half and value.arg.dtype is DType.F32
