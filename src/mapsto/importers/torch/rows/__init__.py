"""Rows of ATen's operators, a file a family; importing this registers all of them."""

from mapsto.importers.torch.rows import (
    arithmetic,
    attention,
    backward,
    comparison,
    contraction,
    creation,
    drawing,
    embedding,
    indexing,
    losses,
    movement,
    norms,
    pointwise,
    pooling,
    quantised,
    recurrent,
    reduction,
    resampling,
    scans,
    sizes,
    sorting,
    writing,
)

__all__ = [
    "arithmetic", "attention", "backward", "comparison", "contraction", "creation", "drawing", "embedding", "indexing",
    "losses", "movement", "norms", "pointwise", "pooling", "quantised", "recurrent", "reduction", "resampling",
    "scans", "sizes", "sorting", "writing",
]  # fmt: skip
