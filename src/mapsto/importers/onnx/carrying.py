"""Data that is moved between a DequantizeLinear and a QuantizeLinear: the integers are moved as the floats are, so that
what is quantised again is found to be bytes already, and what follows knows them.

An op of `MOVES` gives elements of its data and nothing else, whatever they mean; those of `MONOTONE` compare them as
well, and integers whose scale is above zero compare as their floats do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mapsto.importers.onnx.sequences import TensorOrSequence
from mapsto.importers.onnx.table import NodeCall, Row
from mapsto.importers.quantised import Quantised
from mapsto.ir.graph import Value

# Ops of the standard whose input 0 is the data, the others say where it goes.
MOVES = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
# All inputs are data.
JOINS = frozenset({"Concat"})
# Elements are compared too, or padded by what is less than any.
MONOTONE = frozenset({"MaxPool", "GlobalMaxPool"})


def carry(row: Row, call: NodeCall, results: Sequence[TensorOrSequence | None]) -> None:
    """Notes of what an op moves which integers it stands for, where all its data is dequantised alike."""
    known = call.translator.quantised
    if call.op == "Transpose":
        _turn_blocks(call, results)
    data = len(call.inputs) if call.op in JOINS else 1
    found: list[Quantised] = []
    for value in call.inputs[:data]:
        quantised = known.of(value) if isinstance(value, Value) else None
        if quantised is None or not quantised.is_bytes or quantised.axis is not None:
            return
        found.append(quantised)
    first = found[0]
    if not all(each.is_like(call.builder, first) for each in found):
        return
    if call.op in MONOTONE and not (len(call.outputs) == 1 and _is_positive(call, first)):
        return
    moved = row(replace(call, inputs=(*(each.q for each in found), *call.inputs[data:])))
    for value, q in zip(results, moved if isinstance(moved, Sequence) else [moved], strict=True):
        # sizes that a run finds have a name for each time that they are asked for
        if isinstance(value, Value) and isinstance(q, Value) and value.shape == q.shape:
            known.note(value, first.holding(q))


def _turn_blocks(call: NodeCall, results: Sequence[TensorOrSequence | None]) -> None:
    """Notes of a matrix in blocks that is transposed what its transpose is."""
    found, (made, *_) = call.inputs[0], results
    weights = call.translator.quantised.blocks_of(found) if isinstance(found, Value) else None
    if weights is not None and isinstance(made, Value) and (call.integers("perm") or [1, 0]) == [1, 0]:
        call.translator.quantised.note_blocks(made, weights.turned)


def _is_positive(call: NodeCall, quantised: Quantised) -> bool:
    scale = call.builder.array(quantised.scale)
    return scale is not None and bool((scale > 0).all())
