"""What several rows share: reading integers through casts, floats of vectors, matrices less their zero points."""

from __future__ import annotations

from mapsto.importers.integer_factors import centred
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape
from mapsto.ops.builder import Builder


def float_as_dims(b: Builder, value: Value) -> Dim | None:
    """The integer that a scalar holds, also where it was cast to a float or reshaped on its way; None where it is not
    known.
    """
    array = b.array(value)
    if array is not None and array.size == 1:
        number = array.reshape(-1)[0].item()
        return int(number) if float(number).is_integer() else None
    content = b.content(value)
    if content is not None and content.size == 1:
        return content.reshape(-1)[0]  # type: ignore[no-any-return]
    node = b.producer(value)
    if node is None or node.op not in ("cast", "reshape") or any(d != 1 for d in value.shape):
        return None
    source = b.lookup(node.inputs[0])
    if node.op == "cast" and source.dtype.is_integer and b.content(source) is None:
        return b.bind(source, "n")  # an integer that only the run knows
    if node.op == "cast" and source.dtype.is_float and value.dtype.is_integer:
        return None
    return float_as_dims(b, source)


def float_element(b: Builder, value: Value, i: int) -> float | None:
    """Element i of a vector where it is a constant, also one that was joined with others; None where it is not."""
    array = b.array(value)
    if array is not None:
        return float(array[i])
    node = b.producer(value)
    for name in node.inputs if node is not None and node.op == "concat" else ():
        part = b.lookup(name)
        extent = part.shape[0]
        if not isinstance(extent, int):
            return None
        if i < extent:
            return float_element(b, part, i)
        i -= extent
    return None


def beside(b: Builder, v: Value, by_column: bool) -> Value:
    """A scale or zero point, of one element or one a row or column of a matrix, as it broadcasts over that."""
    if v.rank == 0 or (v.rank == 1 and v.shape[0] == 1):
        return reshape(b, v, ())
    return v if v.rank > 1 or by_column else reshape(b, v, (v.shape[0], 1))


def centred_matrix(b: Builder, x: Value, zero: Value | None, by_column: bool) -> Value:
    """x - zero point as 32-bit integers; the zero point of one element, one a row or a column, or none."""
    return centred(b, x, None if zero is None else beside(b, zero, by_column))
