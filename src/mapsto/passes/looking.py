"""What passes may spend on the elements of constants.

A file names one constant in thousands of nodes. A rewrite that looks through it, or makes another of its size, at each
of them asks here first; where the budget is spent, the node stays as it is.
"""

from __future__ import annotations

import numpy as np

from mapsto.budget import current


def may_look(array: np.ndarray) -> bool:
    """Whether a pass may go through all elements of a constant once; if so, it is charged."""
    return current().afford("folded_operations", array.size)


def may_make(array: np.ndarray) -> bool:
    """Whether a pass may make another constant of this size; if so, it is charged."""
    return may_look(array) and current().afford("folded_bytes", array.nbytes)
