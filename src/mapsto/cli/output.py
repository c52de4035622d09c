"""What commands print: aligned tables, numbers with units, summaries of arrays; or one JSON object."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 40  # elements up to which values are shown


@contextlib.contextmanager
def beside(output: Path | None) -> Iterator[None]:
    """Prints to standard error instead, where the command's file goes to standard output: `-o /dev/stdout`."""
    try:
        mixed = output is not None and os.path.samestat(os.stat(output), os.fstat(1))
    except OSError:
        mixed = False
    with contextlib.redirect_stdout(sys.stderr) if mixed else contextlib.nullcontext():
        yield


def print_json(data: Any) -> None:
    """One JSON object on standard output; NaN and infinities, which JSON lacks, as strings."""
    print(json.dumps(_plain(data), indent=2, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, np.generic):
        return _plain(data.item())
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Columns aligned by spaces: numbers at the right, the first column at the left."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]]
        text.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(text)


def shown(renderable: Any) -> str:
    """A table of rich's as text: as wide as the terminal, or as it needs where there is none; no colours."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").splitlines())


def seconds_text(seconds: float) -> str:
    """A time in the unit that suits it, three digits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def shape_text(shape: Sequence[Any]) -> str:
    return f"[{', '.join(str(dim) for dim in shape)}]"


def summary(name: str, array: np.ndarray) -> dict[str, Any]:
    """What an array holds, as plain data: range and mean of numbers, the values where they are few."""
    found: dict[str, Any] = {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size == 0:
        return found
    wide = array.astype(np.float64) if array.dtype.kind not in "iub" else array
    finite = wide[np.isfinite(wide)] if wide.dtype.kind == "f" else wide
    if wide.dtype.kind == "f" and finite.size < wide.size:
        found["nonfinite"] = {
            "nan": int(np.isnan(wide).sum()),
            "+inf": int(np.isposinf(wide).sum()),
            "-inf": int(np.isneginf(wide).sum()),
        }
    if finite.size:
        found |= {"min": finite.min().item(), "max": finite.max().item(), "mean": float(finite.mean())}
    if array.size <= SMALL:
        found["values"] = wide.tolist()
    return found


def summary_text(found: dict[str, Any], array: np.ndarray) -> str:
    """The summary of an array as one paragraph."""
    head = f"{found['name']}: {found['dtype']}{shape_text(found['shape'])}"
    if "min" in found:
        head += f"  min {found['min']:.6g}  max {found['max']:.6g}  mean {found['mean']:.6g}"
    if "nonfinite" in found:
        head += "  " + "  ".join(f"{count} {kind}" for kind, count in found["nonfinite"].items() if count)
    if "values" not in found:
        return head
    values = np.asarray(found["values"])
    shown = np.array2string(values, precision=6, suppress_small=True, max_line_width=110)
    return head + "\n    " + shown.replace("\n", "\n    ")
