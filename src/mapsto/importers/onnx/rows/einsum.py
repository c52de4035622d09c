"""The row of Einsum: sums of products by transpose, reduce and matrix products, two operands at a time."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, transpose
from mapsto.ops.builder import Builder

Term = tuple[str, Value]
# Each operand is a product of its own; numpy takes 64 at most.
MOST_OPERANDS = 256


@row("Einsum")
def _einsum(call: NodeCall) -> Result:
    equation = call.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    labels = left.split(",")
    values = call.all_inputs()
    if len(values) > MOST_OPERANDS:
        raise call.unsupported(f"{len(values)} operands; {MOST_OPERANDS} are supported: make several nodes of it")
    if len(labels) != len(values):
        raise call.wrong(f"equation {equation!r} has {len(labels)} operands, {len(values)} are given")
    hidden = _ellipsis(call, labels, values)
    terms = [(_spelled(call, text, value, hidden), value) for text, value in zip(labels, values, strict=True)]
    if arrow:
        output = right.replace("...", hidden)
    else:
        letters = "".join(text for text, _ in terms)
        output = hidden + "".join(sorted(c for c in set(letters) - set(hidden) if letters.count(c) == 1))
    if len(set(output)) != len(output) or not set(output) <= set("".join(text for text, _ in terms)):
        raise call.wrong(f"equation {equation!r}: the result {output!r} repeats or invents an index")
    b = call.builder
    terms = [_diagonal(b, text, value) for text, value in terms]
    total, *others = terms
    kept = [set(output)]  # what the result and the operands after each still need, from the last operand on
    for other, _ in reversed(others[1:]):
        kept.append(kept[-1] | set(other))
    for term, needed in zip(others, reversed(kept), strict=False):
        total = _product(b, total, term, needed)
    text, value = _summed(b, *total, set(output))
    return transpose(b, value, [text.index(c) for c in output])


def _ellipsis(call: NodeCall, labels: Sequence[str], values: Sequence[Value]) -> str:
    """Letters that stand for the axes under `...`, as many as the operand with most has."""
    free = [c for c in ascii_letters if not any(c in text for text in labels)]
    widths = [v.rank - len(text.replace("...", "")) for text, v in zip(labels, values, strict=True) if "..." in text]
    width = max(widths, default=0)
    if width > len(free) or any(w < 0 for w in widths):
        raise call.wrong("the equation does not fit its operands' axes")
    return "".join(free[:width])


def _spelled(call: NodeCall, text: str, value: Value, hidden: str) -> str:
    if "..." in text:
        width = value.rank - len(text.replace("...", ""))
        text = text.replace("...", hidden[len(hidden) - width :])
    if len(text) != value.rank or not all(c in ascii_letters for c in text):
        raise call.wrong(f"operand {text!r} does not fit {value}")
    return text


def _diagonal(b: Builder, text: str, value: Value) -> Term:
    """An index written twice reads the diagonal: all but i == j are zeroed and one of the axes is summed away."""
    for c in text:
        if text.count(c) < 2:
            continue
        first, second = text.index(c), text.rindex(c)
        extent = value.shape[first]
        at = b.one("iota", [], shape=(extent,), start=0, step=1, dtype=DType.I64)
        ones: list[Dim] = [1] * value.rank
        rows = reshape(b, at, [extent if k == first else d for k, d in enumerate(ones)])
        columns = reshape(b, at, [extent if k == second else d for k, d in enumerate(ones)])
        zero = b.constant(0, "zero", value.dtype)
        masked = b.one("select", [b.one("eq", [rows, columns]), value, zero])
        reduced = b.one("reduce", [masked], kind="sum", axes=(second,), keepdims=False)
        return _diagonal(b, text[:second] + text[second + 1 :], reduced)
    return text, value


def _summed(b: Builder, text: str, value: Value, kept: set[str]) -> Term:
    axes = tuple(k for k, c in enumerate(text) if c not in kept)
    if not axes:
        return text, value
    return "".join(c for c in text if c in kept), b.one("reduce", [value], kind="sum", axes=axes, keepdims=False)


def _product(b: Builder, first: Term, second: Term, kept: set[str]) -> Term:
    """One matrix product: indices of both that are kept are batches, those that are not are summed over."""
    (s, x), (t, y) = (_summed(b, *term, kept | set(other)) for term, other in ((first, second[0]), (second, first[0])))
    extents: dict[str, Dim] = {}
    for text, value in ((s, x), (t, y)):
        for c, d in zip(text, value.shape, strict=True):
            extents[c] = b.broadcast(extents.get(c, 1), d, "Einsum")
    x, y = (_broadcast(b, text, value, extents) for text, value in ((s, x), (t, y)))
    batch = [c for c in s if c in t and c in kept]
    inner = [c for c in s if c in t and c not in kept]
    rows = [c for c in s if c not in t]
    columns = [c for c in t if c not in s]
    sizes = {
        name: product(extents[c] for c in group)
        for name, group in (("rows", rows), ("inner", inner), ("columns", columns))
    }
    lead = [extents[c] for c in batch]
    left = reshape(
        b, transpose(b, x, [s.index(c) for c in (*batch, *rows, *inner)]), [*lead, sizes["rows"], sizes["inner"]]
    )
    right = reshape(
        b, transpose(b, y, [t.index(c) for c in (*batch, *inner, *columns)]), [*lead, sizes["inner"], sizes["columns"]]
    )
    whole = b.one("matmul", [left, right])
    return "".join((*batch, *rows, *columns)), reshape(b, whole, [extents[c] for c in (*batch, *rows, *columns)])


def _broadcast(b: Builder, text: str, value: Value, extents: dict[str, Dim]) -> Value:
    wanted = tuple(extents[c] for c in text)
    return value if wanted == value.shape else b.one("expand", [value], shape=wanted)
