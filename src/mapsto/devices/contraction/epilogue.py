"""How long what is computed on the accumulators is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mapsto.devices.contraction.form import ContractionForm, Epilogue, TilePlace
from mapsto.ir.expr import Dim
from mapsto.loop import ast as loop

_SHORT = 12  # operations; a longer epilogue is a loop over accumulators, not repeated for every one


def is_long(epilogue: Epilogue, form: ContractionForm, lanes: int, fresh: Callable[[str], str]) -> bool:
    """Whether it is too long to be written out for every accumulator: by what it makes of one vector."""
    zero: tuple[Dim, ...] = tuple(0 for _ in form.batch)
    place = TilePlace(zero, tuple(0 for _ in form.rows), 0, lanes, None, None, fresh)
    return _operations(epilogue(loop.Var("probe", loop.Type(form.accumulator, lanes)), place)) > _SHORT


def _operations(node: Any) -> int:
    """Arithmetic nodes in what an epilogue returned."""
    if isinstance(node, tuple | list):
        return sum(_operations(n) for n in node)
    if not hasattr(node, "__dataclass_fields__") or isinstance(node, loop.Type):
        return 0
    own = (
        0
        if isinstance(node, loop.Var | loop.Const | loop.Load | loop.Broadcast | loop.Let | loop.Store | loop.Bitcast)
        else 1
    )
    return own + sum(_operations(getattr(node, f)) for f in node.__dataclass_fields__)
