"""Which values of a model are dequantised integers, those of constants in blocks among them."""

from __future__ import annotations

from mapsto.importers.onnx.block_weights import BlockWeights
from mapsto.importers.quantised import QuantisedValues
from mapsto.ir.graph import Value


class DequantisedValues(QuantisedValues):
    """What an import of an ONNX file knows of its values."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, tuple[Value, BlockWeights]] = {}

    def note_blocks(self, value: Value, weights: BlockWeights) -> None:
        self._blocks[id(value)] = value, weights

    def blocks_of(self, value: Value) -> BlockWeights | None:
        found = self._blocks.get(id(value))
        return None if found is None else found[1]
