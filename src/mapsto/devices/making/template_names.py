"""Templates: what a task's code is made from, as plans name them."""

from __future__ import annotations

NOTHING, ROUTINE, TILES, WINOGRAD, LOOPS, BLOCKS = "nothing", "routine", "tiles", "winograd", "loops", "blocks"
