"""The rows, one family a file; importing this package fills the table."""

from mapsto.importers.onnx.rows import (
    contraction,
    control,
    detection,
    einsum,
    elementwise,
    indexing,
    movement,
    normalisation,
    pooling,
    quantisation,
    recurrent,
    reduction,
    resize,
    sizes,
)

__all__ = [
    "contraction",
    "control",
    "detection",
    "einsum",
    "elementwise",
    "indexing",
    "movement",
    "normalisation",
    "pooling",
    "quantisation",
    "recurrent",
    "reduction",
    "resize",
    "sizes",
]
