"""mapsto as a compiler of torch: `torch.compile(module, backend="mapsto")`, registered where the package is installed;
`backend=mapsto.torch.backend` does the same.

    report()        what has been compiled, and what was left to torch, with the reasons
    reset()         forgets that
"""

from mapsto.torch.account import report, reset
from mapsto.torch.compiler import backend

__all__ = ["backend", "report", "reset"]
