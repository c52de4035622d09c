"""Looking inside a compilation: MAPSTO_DEBUG says how deep, and each stage shows its work on standard error.

1  tracebacks of errors; the graph is verified after every pass
2  and the graph, as imported and after every pass
3  and the plan
4  and every kernel as mathematics, every function in the loop language
5  and its LLVM IR, or OpenCL C
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CHECKS, GRAPHS, PLAN, KERNELS, LLVM = 1, 2, 3, 4, 5


def level() -> int:
    """The number in MAPSTO_DEBUG: 0 where it is unset or empty, 1 where it is set to something that is no number."""
    text = os.environ.get("MAPSTO_DEBUG", "")
    return int(text) if text.isdecimal() else int(bool(text))


def show(least: int, title: str, text: Callable[[], str]) -> None:
    """Prints `text()` under a title from that level on; below it, costs a look at the environment."""
    if level() >= least:
        print(f"==== {title}\n{text().rstrip()}", file=sys.stderr, flush=True)
