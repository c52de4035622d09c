"""Getting an executable for a command: compiling an ONNX file or loading a saved one, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.cli.inputs import UsageError, existing
from mapsto.cli.progress import progress_bar

ARTIFACT_SUFFIX = ".mapsto"


@dataclass(frozen=True)
class Opened:
    """An executable, how it was come by, and the seconds that took."""

    executable: Any
    how: str  # "compiled", "loaded", "found in the cache"
    seconds: float


def open_model(
    model: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    threads: int | None = None,
    plan: str | None = None,
    check_indices: bool = True,
    data_root: Path | None = None,
    device: str = "cpu",
    cache: bool = True,
    updates: Mapping[str, str] | None = None,
    adapt: bool = False,
) -> Opened:
    """Compiles an ONNX file; loads a .mapsto file (its shapes were said when it was made). Raises MapstoErrors."""
    import mapsto
    from mapsto.session.cache.executables import FOUND

    existing(model)
    began = time.perf_counter()
    if model.suffix == ARTIFACT_SUFFIX:
        if shapes:
            raise UsageError(f"{model} is compiled already: --shape belongs to `mapsto compile`")
        if not check_indices:
            raise UsageError(f"{model} is compiled already: --no-check-indices belongs to `mapsto compile`")
        if device != "cpu":
            raise UsageError(f"{model} is compiled already, for the CPU: --device needs an ONNX file")
        if adapt:
            raise UsageError(f"{model} is compiled already: --adapt needs an ONNX file")
        executable = mapsto.load(model, threads=threads)
        return Opened(executable, "loaded", time.perf_counter() - began)
    with progress_bar(f"compiling {model.name}") as progress:
        executable = mapsto.compile(
            model,
            shapes=shapes,
            threads=threads,
            plan=plan,
            progress=progress,
            check_indices=check_indices,
            data_root=data_root,
            device=device,
            cache=cache,
            updates=updates,
            adapt=adapt,
        )
    how = FOUND if executable.cache_note == FOUND else "compiled"
    return Opened(executable, how, time.perf_counter() - began)
