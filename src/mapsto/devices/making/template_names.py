"""Templates: what a task's code is made from, as plans name them."""

from __future__ import annotations

NOTHING, ROUTINE, TILES, WINOGRAD, LOOPS = "nothing", "routine", "tiles", "winograd", "loops"
BLOCKS, SLICES = "blocks", "slices"  # of chains, of what is done slice by slice
