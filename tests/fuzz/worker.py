"""One compile worker for all cases of a child; the code that it made is kept for the next child."""

from __future__ import annotations

import contextlib
import queue
from pathlib import Path
from typing import Any

from mapsto.devices.cache import ObjectCache
from mapsto.devices.cpu.compiler import CompilePool
from mapsto.devices.cpu.workers import Workers
from mapsto.session import compile as session
from mapsto.session import division


class Lasting(Workers):
    """Compile workers that are not ended with a compile."""

    def __init__(self, isa: str | None, pool: CompilePool) -> None:
        super().__init__(False, isa)
        self._lasting = pool

    def __enter__(self) -> Lasting:
        self._pool = self._lasting
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is not None:  # nobody waits for the rest
            with contextlib.suppress(queue.Empty):
                while True:
                    self._lasting._queue.get_nowait()


def install(folder: Path) -> None:
    """From now on this process compiles by one worker. `folder`: for the code that it made."""
    pools: dict[str, CompilePool] = {}

    def backend_named(device: Any, cache: bool, isa: str | None) -> Any:
        made = Workers(False, isa)
        if made.name not in pools:
            pools[made.name] = CompilePool(made.isa, 1, ObjectCache(folder))
        return Lasting(isa, pools[made.name])

    session.backend_named = backend_named  # type: ignore[assignment]
    division.backend_named = backend_named  # type: ignore[assignment]
