"""Keras files (`.keras`) to graphs, by way of torch: `load`.

Keras fixes its backend when it is imported, so a file is read in a process of its own, by Keras on torch, which traces
the model with torch.export; what comes back is read as any exported program is. TensorFlow is not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto.arguments import Shapes, shapes_of
from mapsto.boundary import public
from mapsto.budget import Budget
from mapsto.errors import ModelError, ShapeError, UnsupportedError
from mapsto.files import name_of, plain_file
from mapsto.ir.graph import Graph

_SECONDS = 600.0  # for Keras to read and trace a model
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_KINDS = {"read": ModelError, "shapes": ShapeError, "trace": UnsupportedError}
_MISSING = "to read it takes Keras and torch: pip install 'mapsto[keras]'"


@public
def load(
    path: str | os.PathLike[str],
    shapes: Shapes | None = None,
    budget: Budget | Mapping[str, float] | None = None,
) -> Graph:
    """A `.keras` file as a graph, in inference. Inputs have the names and types that Keras says; the axis of examples,
    and others that it leaves open, stay open, but for those that `shapes` gives a number for.

    Raises ShapeError for shapes that do not fit, or where a layer fixes an axis that was to stay open; ModelError for a
    file that Keras cannot read, UnsupportedError for what there is no row for (all places at once) and where Keras or
    torch is not installed.
    """
    name = name_of(path, "Keras file")
    with plain_file(name, "Keras"):
        pass
    with tempfile.TemporaryDirectory() as folder:
        made, told = Path(folder) / "program.pt2", Path(folder) / "told.json"
        said = _traced(Path(name), made, told, shapes_of(shapes))
        if said.get("error"):
            raise _KINDS[said["kind"]](f"{name}: {said['error']}")
        return _graph(made, said["inputs"], Path(name).stem, budget)


def _traced(path: Path, made: Path, told: Path, shapes: Shapes) -> dict[str, Any]:
    """Has a process of its own trace a file; what it says: the inputs' names, or an error."""
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-P", "-m", "mapsto.importers.keras.convert", str(path), str(made), str(told)]
    command.append(json.dumps({name: list(dims) for name, dims in shapes.items()}))
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path}: Keras has not read and traced it in {_SECONDS:.0f} s") from None
    if not told.exists():
        lines = done.stderr.strip().splitlines()
        if any("No module named" in line for line in lines[-3:]):
            raise UnsupportedError(f"{path}: {_MISSING} ({lines[-1]})")
        raise ModelError(f"{path}: Keras ended with status {done.returncode}: {' | '.join(lines[-3:])}")
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def _graph(made: Path, inputs: list[str], name: str, budget: Budget | Mapping[str, float] | None) -> Graph:
    import torch

    from mapsto.importers.torch import functional, translated_program
    from mapsto.importers.torch.whole import operators_known

    operators_known()
    program = functional(torch.export.load(made))
    feeds = list(program.feeds)
    for at, said in zip(program.users, inputs, strict=True):
        feeds[at] = replace(feeds[at], name=said)
    return translated_program(replace(program, feeds=tuple(feeds)), name, budget=budget).graph
