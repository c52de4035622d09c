"""What building a graph is charged: nodes as they are made, folding; and what a model's own constants add to that."""

from __future__ import annotations

from mapsto.budget import Meter

# What each byte (for operations: each element) of a model's own constants adds to what may be folded altogether.
FOLD_PER_BYTE = 8
# What each input and output of a model's node adds to the nodes that it may become.
NODES_A_PORT = 64


class Charges:
    """One meter for a graph and those nested in it.

    anew: the graph was built before and what could be folded has been: its nodes are free, and its constants allow no
    further folding.
    """

    def __init__(self, meter: Meter, anew: bool) -> None:
        self.meter = meter
        self._anew = anew
        self.made = 0  # nodes for the source node that is being built
        self.allowed = 0  # 0: no limit

    def ports(self, count: int) -> int:
        """How many nodes a model's node with so many inputs and outputs may become."""
        return int(self.meter.allowed("each")) + NODES_A_PORT * count

    def node(self, op: str) -> None:
        """A node is made."""
        if self._anew:
            return
        self.meter.charge("steps", 1, op)
        self.made += 1
        if self.made > self.allowed > 0:
            self.meter.check("each", self.made, op)

    def sources(self, count: int) -> None:
        """A node stands for so many source nodes."""
        self.meter.charge("sources", count, "the source nodes that nodes stand for")

    def constant(self, size: int, nbytes: int) -> None:
        """A constant of the model's own: so many elements and bytes."""
        if self._anew:
            return
        self.meter.earn("folded_bytes", FOLD_PER_BYTE * nbytes)
        self.meter.earn("folded_operations", FOLD_PER_BYTE * size)
        self.meter.earn("native_operations", 2 * FOLD_PER_BYTE * size)
