"""What each op means: shape rule, numpy reference, lowering, gradient; one family a file."""

from mapsto.ops import binary, elementwise, guards

__all__ = ["binary", "elementwise", "guards"]
