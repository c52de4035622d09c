"""LLVM's options in compile workers.

They are global to a process, one more reason for worker processes; object caches depend on them.
"""

from __future__ import annotations

# The machine scheduler moves loads of a register tile up until registers run out: 38-83 % of peak with spills,
# against 96-102 % without it. Loop-strength reduction gives every row of a tile a pointer of its own, spilled inside
# the loop; addresses come out of the printer in the processor's own form (base + index*scale + constant) and need
# none of it.
OPTIONS = ("--enable-misched=0", "--disable-lsr")
