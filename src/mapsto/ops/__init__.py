"""What each op means: shape rule, numpy reference, lowering, gradient; one family a file."""

from mapsto.ops import (
    binary,
    contraction,
    control,
    copying,
    elementwise,
    guards,
    indexing,
    movement,
    padding,
    recurrent,
    reductions,
    resize,
    routines,
    sources,
    suppression,
    window,
)

__all__ = [
    "binary",
    "contraction",
    "control",
    "copying",
    "elementwise",
    "guards",
    "indexing",
    "movement",
    "padding",
    "recurrent",
    "reductions",
    "resize",
    "routines",
    "sources",
    "suppression",
    "window",
]
