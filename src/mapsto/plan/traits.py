"""What the plan asks a maker before it lays values and forms contractions: numbers of a processor, of which the plan
itself holds none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What a maker says of how it wants values laid and contractions formed. An extent that only the run
    knows counts as large enough.
    """

    block: int  # elements of a blocked dim that lie side by side, a power of two; 0: this maker has no use for blocks
    least_blocked: int  # a dim shorter than this is laid innermost as it is, not in blocks
    least_columns: int  # a contraction of fewer columns is left to loops of its own: its template would idle
    least_channels: int  # a reduction along an operand's last dim is its channels' from this extent on
    least_of_a_group: int  # columns times channels of one of many groups: below, loops over all groups do better
    most_waiting: int  # results of an epilogue's statements that may wait in registers at a time for a later one
    crowded_bytes: int = 0  # rows so far apart push each other out of the nearest cache; 0: no such distance is known
    block_bytes: int = 0  # of rows between two contractions, done by blocks that stay near a unit; 0: they are not
    correlation_block: int = 0  # of channels and columns of images that slide along each other; 0: no template for it
