"""What shape rules share: broadcasting, equal dims, axes, dtype checks, and dims compared where that can be decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call, Dim, Expr, maximum, minimum, terms_of
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.graph import Value
from mapsto.ops.registry import Inference, Shape

FLOATS = frozenset(d for d in DType if d.is_float)
INTEGERS = frozenset(d for d in DType if d.is_integer)
NUMBERS = FLOATS | INTEGERS
BOOLS = frozenset({DType.BOOL})
STORAGE = frozenset(d for d in DType if d.is_storage)
ANY = frozenset(DType)


def at_least(e: Dim, least: Dim) -> bool:
    """Whether e >= least is proved for all sizes."""
    return known_at_least(e - least, 0)


def dim_min(a: Dim, b: Dim) -> Dim:
    """min(a, b), decided where sizes being >= 0 decides it."""
    return _extreme("min", minimum, lambda x, y: at_least(y, x), a, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    return _extreme("max", maximum, at_least, a, b)


def _extreme(fn: str, build: Callable[[Dim, Dim], Dim], wins: Callable[[Dim, Dim], bool], a: Dim, b: Dim) -> Dim:
    """The one that wins where that is proved. max(max(x, y) + r, b) is max(x + r, b) where y + r never wins over b."""
    if wins(a, b):
        return a
    if wins(b, a):
        return b
    for inner, other in ((a, b), (b, a)):
        for monomial, coefficient in terms_of(inner):
            call = monomial[0] if len(monomial) == 1 and coefficient == 1 else None
            if not isinstance(call, Call) or call.fn != fn:
                continue
            rest = inner - build(*call.args)
            for kept, lost in (call.args, call.args[::-1]):
                if wins(other, lost + rest):
                    return _extreme(fn, build, wins, kept + rest, other)
    return build(a, b)


def broadcast_shape(inference: Inference, shapes: Sequence[Shape]) -> Shape:
    """The shape that numpy's broadcasting gives."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dim: Dim = 1
        for shape in shapes:
            other = shape[axis] if -axis <= len(shape) else 1
            dim = inference.broadcast(dim, other)
        result.append(dim)
    return tuple(result)


def static(shape: Sequence[Dim]) -> tuple[int, ...]:
    """The extents of a shape that has no symbols."""
    extents = tuple(d for d in shape if isinstance(d, int))
    assert len(extents) == len(shape), f"{shape} has symbols"
    return extents


def describe(inference: Inference) -> str:
    """The node as a user can find it: op and operands."""
    return f"{inference.op}({', '.join(str(v) for v in inference.inputs)})"


def require_dtype(inference: Inference, i: int, allowed: frozenset[DType]) -> DType:
    dtype = inference.value(i).dtype
    if dtype not in allowed:
        wanted = ", ".join(sorted(d.value for d in allowed))
        raise ShapeError(f"{describe(inference)}: input {i} is {dtype.value}; allowed: {wanted}")
    return dtype


def require_same_dtype(inference: Inference, first: int = 0) -> DType:
    """The one dtype of all inputs from `first` on."""
    dtype = inference.value(first).dtype
    for value in inference.inputs[first:]:
        if value is not None and value.dtype is not dtype:
            raise ShapeError(f"{describe(inference)}: dtypes {dtype.value} and {value.dtype.value} differ; cast one")
    return dtype


def require_rank(inference: Inference, i: int, rank: int) -> Value:
    value = inference.value(i)
    if value.rank != rank:
        raise ShapeError(f"{describe(inference)}: input {i} has rank {value.rank}, not {rank}")
    return value


def axis_of(inference: Inference, axis: int, rank: int) -> int:
    """The axis, counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{describe(inference)}: there is no axis {axis} at rank {rank}")
    return axis % rank


ADDRESSES = 1 << 62  # bytes, or elements in a term of a size: strides of 64 bits hold them, with room to add


def is_beyond_addresses(dtype: DType, shape: Sequence[Dim]) -> bool:
    """Whether a tensor's known sizes alone (those of 0 left out, as strides go on beyond them) ask for more bytes than
    can be numbered, or a size is more than a number of a run can be.
    """
    known = dtype.size
    for dim in shape:
        if not isinstance(dim, Expr):
            known *= dim or 1
        elif any(abs(factor) >= ADDRESSES for _, factor in dim.terms):
            return True
    return known >= ADDRESSES
