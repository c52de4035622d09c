"""Value numbering: equal scalar expressions get one number, with what they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mapsto.devices.generic.flat import FlatLoad
from mapsto.ir.expr import Dim, loads, symbols
from mapsto.kernel.ast import (
    Cast,
    Const,
    Fold,
    Index,
    Op,
    Reduce,
    Reduction,
    Scalar,
    State,
    Where,
    children,
)


@dataclass(frozen=True)
class Info:
    """What an expression depends on; states of folds count as tensors.

    `unsafe`: holds a load that is inside its tensor only under the guards around it.
    """

    number: int
    symbols: frozenset[str]
    tensors: frozenset[str]
    unsafe: bool


@dataclass
class Numbering:
    _by_id: dict[int, tuple[Scalar, Info]] = field(default_factory=dict)
    _by_key: dict[tuple[object, ...], Info] = field(default_factory=dict)

    def __call__(self, e: Scalar) -> Info:
        known = self._by_id.get(id(e))
        if known is not None:
            return known[1]
        info = self._of(e)
        self._by_id[id(e)] = (e, info)  # holding e keeps its id from being used again
        return info

    def all(self) -> Iterable[Info]:
        return self._by_key.values()

    def _of(self, e: Scalar) -> Info:
        below = [self(child) for child in children(e)]
        key = (type(e).__name__, *_own(e), *(b.number for b in below))
        if key in self._by_key:
            return self._by_key[key]
        own = _dims(e)
        names = frozenset(s for d in own for s in symbols(d)).union(*(b.symbols for b in below))
        tensors = frozenset(t for d in own for t in loads(d)).union(*(b.tensors for b in below))
        unsafe = any(b.unsafe for b in below) or any(loads(d) for d in own)
        if isinstance(e, FlatLoad):
            tensors |= {e.tensor}
            unsafe = unsafe or not e.inside
        elif isinstance(e, State):
            tensors |= {state_name(e)}
        elif isinstance(e, Reduction):
            names -= {i.name for i in e.iters}
        if isinstance(e, Fold):
            tensors -= {state_name(State(r.name, r.dtype, other)) for r in e.running for other in (False, True)}
        info = Info(len(self._by_key), names, tensors, unsafe)
        self._by_key[key] = info
        return info


def state_name(e: State) -> str:
    """What a state goes by among tensors, none of which is called so."""
    return f"state {e.name}'" if e.other else f"state {e.name}"


def _own(e: Scalar) -> tuple[object, ...]:
    """What tells a node from others with the same children."""
    if isinstance(e, Const):
        return (repr(e.value), e.dtype)
    if isinstance(e, Index):
        return (e.expr, e.dtype)
    if isinstance(e, FlatLoad):
        return (e.tensor, e.index, e.dtype)
    if isinstance(e, Op):
        return (e.fn, e.dtype)
    if isinstance(e, Cast):
        return (e.dtype,)
    if isinstance(e, Where):
        return e.conds
    if isinstance(e, State):
        return (e.name, e.other, e.dtype)
    if isinstance(e, Reduce):
        return (e.kind, e.iters)
    assert isinstance(e, Fold), "loads are flat here"
    return (e.iters, *((r.name, repr(r.start.value), r.dtype) for r in e.running))


def _dims(e: Scalar) -> tuple[Dim, ...]:
    if isinstance(e, Index):
        return (e.expr,)
    if isinstance(e, FlatLoad):
        return (e.place,)
    if isinstance(e, Where):
        return e.conds
    return tuple(i.extent for i in e.iters) if isinstance(e, Reduction) else ()
