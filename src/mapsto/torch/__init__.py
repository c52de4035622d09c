"""mapsto as a compiler of torch: `torch.compile(module, backend="mapsto")`, registered where the package is installed;
`backend=mapsto.torch.backend` does the same.

    report()        what has been compiled, and what was left to torch, with the reasons
    reset()         forgets that

Whoever asks for `backend` has torch capture recurrent layers from then on (its setting `allow_rnn`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mapsto.torch.account import report, reset

if TYPE_CHECKING:
    from mapsto.torch.compiler import backend as backend

__all__ = ["backend", "report", "reset"]


def __getattr__(name: str) -> Any:
    if name != "backend":
        raise AttributeError(f"module 'mapsto.torch' has no attribute {name!r}")
    from mapsto.torch.compiler import backend, take_recurrent_layers_in

    take_recurrent_layers_in()
    return backend
