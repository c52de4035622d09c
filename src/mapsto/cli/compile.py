"""`mapsto compile`: a model into one file that runs without compiling again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.inputs import InputPort, existing, parse_updates, read_text, writable
from mapsto.cli.open import Opening, open_model, several
from mapsto.cli.output import beside, bytes_text, print_json, seconds_text, shape_text
from mapsto.cli.usage import UsageError


def compile_model(
    model: Path,
    output: Path,
    opening: Opening,
    update: Sequence[str],
    plan: Path | None,
    as_json: bool,
) -> None:
    existing(model)
    writable(output, besides=[model, plan])
    text = None if plan is None else read_text(plan, "plan")
    device = opening.target.device
    if device != "cpu" and not several(device):
        said = f"beside the host's it can (--device cpu,{device})"
        raise UsageError(f"--device {device}: code for it alone cannot be saved yet; {said}")
    opened = open_model(model, opening, text, parse_updates(update))
    executable = opened.executable
    executable.save(output)
    size = output.stat().st_size if output.is_file() else None  # a pipe has none
    ports = {
        kind: [_port_data(port) for port in found]
        for kind, found in (("inputs", opened.inputs), ("outputs", opened.outputs))
    }
    with beside(output):
        _print(model, output, opened.seconds, size, ports, as_json)


def _print(
    model: Path, output: Path, seconds: float, size: int | None, ports: dict[str, list[dict[str, Any]]], as_json: bool
) -> None:
    if as_json:
        done = {"model": str(model), "output": str(output), "bytes": size, "compile_seconds": seconds}
        print_json(done | ports)
        return
    for kind, found in ports.items():
        for port in found:
            print(f"{kind[:-1]} {port['name']}: {port['dtype']}{shape_text(port['shape'])}")
    print(f"compiled in {seconds_text(seconds)}; {output}" + (f" ({bytes_text(size)})" if size is not None else ""))


def _port_data(port: InputPort) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else str(dim) for dim in port.shape]
    return {"name": port.name, "dtype": port.dtype.value, "shape": shape}
