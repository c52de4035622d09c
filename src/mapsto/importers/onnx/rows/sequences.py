"""Rows of sequences and optional values: they exist while a model is read, and leave selections and joins of tensors.

A position that only a run knows chooses among rows, where all elements are of one shape, else between branches.
"""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.importers.onnx.rows.control import chosen_value
from mapsto.importers.onnx.rows.indexing import as_index
from mapsto.importers.onnx.rows.movement import parts_along
from mapsto.importers.onnx.sequences import TensorSequence
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose
from mapsto.ops.bounds import check_inside

# So many parts are made of a tensor at most, and among so many elements of different shapes a run chooses.
_MANY = 256


# -- making ------------------------------------------------------------------------------------------------------------


@row("SequenceEmpty")
def _empty(call: NodeCall) -> Result:
    return TensorSequence(call.dtype("dtype", DType.F32))


@row("SequenceConstruct")
def _construct(call: NodeCall) -> Result:
    elements = tuple(call.all_inputs())
    return TensorSequence(elements[0].dtype, elements)


@row("SplitToSequence")
def _split(call: NodeCall) -> Result:
    """Parts of the given extents; of one extent where that is a scalar, the last part smaller; single ones, whose axis
    `keepdims` keeps, where nothing is given.
    """
    b, x = call.builder, call.input()
    axis = call.axis(x.rank, 0)
    if not x.rank:
        raise call.wrong(f"{x} has no axis to split")
    if not call.has(1):
        perm = (axis, *(k for k in range(x.rank) if k != axis))
        single = transpose(b, x, perm)
        if call.integer("keepdims", 1):
            kept = [1 if k == axis else d for k, d in enumerate(x.shape)]
            single = reshape(b, single, (x.shape[axis], *kept))
        return TensorSequence(x.dtype, rows=single)
    extents = call.dims(1, "part")
    if not call.input(1).rank:
        extents = _equal_parts(call, x.shape[axis], extents[0])
    return TensorSequence(x.dtype, tuple(parts_along(call, x, axis, extents)))


def _equal_parts(call: NodeCall, extent: Dim, part: Dim) -> list[Dim]:
    if isinstance(part, int) and part < 1:
        raise call.wrong(f"parts of {part} elements")
    count = ceildiv(extent, part) if isinstance(part, int) else None
    if not isinstance(count, int) or count > _MANY:
        raise call.unsupported(
            f"parts of {part} of an axis of {extent} are not supported: their number must be known, {_MANY} at most; "
            "fix the extent by `shapes`",
            [extent] if isinstance(part, int) else (),
        )
    assert isinstance(part, int)
    last: Dim = extent - part * (count - 1)
    return [*[part] * (count - 1), last] if count else []


# -- as rows -----------------------------------------------------------------------------------------------------------


def as_rows(call: NodeCall, sequence: TensorSequence) -> Value | None:
    """The elements as rows of one tensor; None where their shapes differ, or where there are none."""
    _need_known(call, sequence)
    if sequence.rows is not None:
        return sequence.rows
    if not sequence.elements or any(v.shape != sequence.elements[0].shape for v in sequence.elements):
        return None
    return _joined(call, [reshape(call.builder, v, (1, *v.shape)) for v in sequence.elements], 0)


def _need_known(call: NodeCall, sequence: TensorSequence) -> None:
    if sequence.is_growing:
        raise call.unsupported(
            "a loop whose number of rounds is not known may only add elements to the end of a sequence, not read it"
        )


def _joined(call: NodeCall, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else call.builder.one("concat", list(parts), axis=axis)


def _length(call: NodeCall, sequence: TensorSequence) -> Dim:
    _need_known(call, sequence)
    return len(sequence.elements) if sequence.rows is None else sequence.rows.shape[0]


def _elements(call: NodeCall, sequence: TensorSequence) -> tuple[Value, ...]:
    """The elements by themselves; their number must be known."""
    rows = sequence.rows
    if rows is None:
        return sequence.elements
    count = rows.shape[0]
    if not isinstance(count, int) or count > _MANY:
        raise call.unsupported(
            f"this is not supported of a sequence of {count} elements: their number must be known, and {_MANY} at most"
        )
    return tuple(reshape(call.builder, slice_axis(call.builder, rows, 0, k, 1), rows.shape[1:]) for k in range(count))


def _position(call: NodeCall, i: int, count: Dim, is_end: bool = False) -> int | Value:
    """Input i, a place among `count` elements, or after the last (`is_end`), counted back from there where it is
    negative: a number from 0 on where it is known, else a scalar that is checked in the run.
    """
    b, place = call.builder, call.input(i)
    known = call.known_ints(i)
    if known is not None and isinstance(count, int):
        at = int(call.only(known, i))
        if not -count <= at < count + is_end:
            raise call.wrong(f"{call.port(i)} is {at}, where the sequence has {count} elements")
        return at + count if at < 0 else at
    index = reshape(b, b.one("cast", [place], to=DType.I64) if place.dtype is not DType.I64 else place, ())
    back = b.one("add", [index, b.known(count, DType.I64, "count")])
    if is_end:
        check_inside(b, back, Allowed((0,), (2 * count + 1,), "place", "position less -length"), call.place(i))
    else:
        check_inside(b, index, Allowed((0,), (count,), what="position"), call.place(i))
    return b.one("select", [b.one("lt", [index, call.scalar(0, index)]), back, index])


# -- reading -----------------------------------------------------------------------------------------------------------


@row("SequenceLength")
def _sequence_length(call: NodeCall) -> Result:
    return call.builder.known(_length(call, call.sequence()), DType.I64, "length")


@row("SequenceAt")
def _at(call: NodeCall) -> Result:
    b, sequence = call.builder, call.sequence()
    at = _position(call, 1, _length(call, sequence))
    if isinstance(at, int) and sequence.rows is None:
        return sequence.elements[at]
    rows = as_rows(call, sequence)
    if rows is not None:
        index = b.constant(at, "position", DType.I64) if isinstance(at, int) else at
        return b.one("gather", [rows, as_index(b, index)], axis=0)
    assert isinstance(at, Value)
    return _one_of(call, at, _elements(call, sequence))


def _one_of(call: NodeCall, at: Value, values: Sequence[Value]) -> Value:
    """The value at a place; the run takes the branch that has it."""
    if len(values) > _MANY:
        raise call.unsupported(f"a choice among {len(values)} tensors of different shapes is not supported")
    found = values[-1]
    for k in range(len(values) - 2, -1, -1):
        is_here = call.builder.one("eq", [at, call.scalar(k, at)])
        found = chosen_value(call, is_here, values[k], found)
    return found


@row("ConcatFromSequence")
def _concat(call: NodeCall) -> Result:
    b, sequence = call.builder, call.sequence()
    is_new = bool(call.integer("new_axis", 0))
    _need_known(call, sequence)
    if sequence.rows is None:
        if not sequence.elements:
            raise call.wrong("the sequence is empty: there is nothing to concatenate")
        parts = sequence.elements
        axis = call.axis(parts[0].rank + is_new)
        if is_new:
            parts = tuple(reshape(b, v, (*v.shape[:axis], 1, *v.shape[axis:])) for v in parts)
        return _joined(call, parts, axis)
    rows = sequence.rows
    axis = call.axis(rows.rank if is_new else rows.rank - 1)
    perm = [*range(1, axis + 1), 0, *range(axis + 1, rows.rank)]
    along = transpose(b, rows, perm)
    if is_new:
        return along
    shape = along.shape
    return reshape(b, along, (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]))


# -- changing ----------------------------------------------------------------------------------------------------------


@row("SequenceInsert")
def _insert(call: NodeCall) -> Result:
    b, sequence, value = call.builder, call.sequence(), call.input(1)
    if value.dtype is not sequence.dtype:
        raise call.wrong(f"{value} is no element of {sequence}")
    if not call.has(2):
        return _appended(call, sequence, value)
    count = _length(call, sequence)
    at = _position(call, 2, count, is_end=True)
    if isinstance(at, int) and sequence.rows is None:
        return TensorSequence(value.dtype, (*sequence.elements[:at], value, *sequence.elements[at:]))
    rows = as_rows(call, _appended(call, sequence, value))
    index = b.constant(at, "position", DType.I64) if isinstance(at, int) else at
    if rows is not None:  # the new row is the last one; those from its place on move up
        old, last = positions(b, count + 1), b.known(count, DType.I64, "last")
        moved = b.one("sub", [old, b.one("cast", [b.one("gt", [old, index])], to=DType.I64)])
        order = b.one("select", [b.one("eq", [old, index]), last, moved])
        return TensorSequence(value.dtype, rows=b.one("gather", [rows, order], axis=0))
    return TensorSequence(value.dtype, _inserted(call, _elements(call, sequence), index, value))


def _appended(call: NodeCall, sequence: TensorSequence, value: Value) -> TensorSequence:
    rows = sequence.rows
    if rows is None:
        return TensorSequence(value.dtype, (*sequence.elements, value), is_growing=sequence.is_growing)
    if rows.shape[1:] == value.shape:
        more = reshape(call.builder, value, (1, *value.shape))
        return TensorSequence(value.dtype, rows=_joined(call, [rows, more], 0))
    return TensorSequence(value.dtype, (*_elements(call, sequence), value))


def extended(call: NodeCall, sequence: TensorSequence, added: Sequence[Value]) -> TensorSequence:
    """A sequence with what the rounds of a loop add to it. added: the elements of a round, a row for each one."""
    if not added:
        return sequence
    b, rows = call.builder, added[0]
    if any(v.shape != rows.shape for v in added):
        raise call.unsupported("the elements that a loop adds to a sequence must be of one shape")
    if len(added) > 1:
        between = [reshape(b, v, (v.shape[0], 1, *v.shape[1:])) for v in added]
        rows = reshape(b, _joined(call, between, 1), (rows.shape[0] * len(added), *rows.shape[1:]))
    first = as_rows(call, sequence)
    if first is None and not sequence.elements:
        return TensorSequence(sequence.dtype, rows=rows)
    if first is None or first.shape[1:] != rows.shape[1:]:
        raise call.unsupported("a loop adds elements of another shape to a sequence")
    return TensorSequence(sequence.dtype, rows=_joined(call, [first, rows], 0))


def _inserted(call: NodeCall, elements: Sequence[Value], at: Value, value: Value) -> tuple[Value, ...]:
    """Elements of different shapes with one more: each place holds its own, the new one, or the one before."""
    b = call.builder
    made = []
    for k in range(len(elements) + 1):
        here = call.scalar(k, at)
        found = value if k == 0 else chosen_value(call, b.one("eq", [at, here]), value, elements[k - 1])
        if k < len(elements):
            found = chosen_value(call, b.one("gt", [at, here]), elements[k], found)
        made.append(found)
    return tuple(made)


@row("SequenceErase")
def _erase(call: NodeCall) -> Result:
    b, sequence = call.builder, call.sequence()
    count = _length(call, sequence)
    if count == 0:
        raise call.wrong("the sequence is empty: there is nothing to erase")
    at = _position(call, 1, count) if call.has(1) else None
    if at is None and isinstance(count, int):
        at = count - 1
    if isinstance(at, int) and sequence.rows is None:
        return TensorSequence(sequence.dtype, (*sequence.elements[:at], *sequence.elements[at + 1 :]))
    rows = as_rows(call, sequence)
    if at is None:
        assert rows is not None
        call.require(count - 1, "the sequence is empty: there is nothing to erase")
        return TensorSequence(sequence.dtype, rows=slice_axis(b, rows, 0, 0, count - 1))
    index = b.constant(at, "position", DType.I64) if isinstance(at, int) else at
    if rows is not None:
        old = positions(b, count - 1)
        order = b.one("add", [old, b.one("cast", [b.one("ge", [old, index])], to=DType.I64)])
        return TensorSequence(sequence.dtype, rows=b.one("gather", [rows, order], axis=0))
    elements = _elements(call, sequence)
    pairs = enumerate(zip(elements, elements[1:], strict=False))
    left = [
        chosen_value(call, b.one("gt", [index, call.scalar(k, index)]), own, following) for k, (own, following) in pairs
    ]
    return TensorSequence(sequence.dtype, tuple(left))


# -- optional values ---------------------------------------------------------------------------------------------------


@row("Optional")
def _optional(call: NodeCall) -> Result:
    return [call.operand(0)]


@row("OptionalHasElement")
def _has_element(call: NodeCall) -> Result:
    return call.builder.constant(call.operand(0) is not None, "has_element", DType.BOOL)


@row("OptionalGetElement")
def _get_element(call: NodeCall) -> Result:
    found = call.operand(0)
    if found is None:
        raise call.wrong("the optional value is empty")
    return found
