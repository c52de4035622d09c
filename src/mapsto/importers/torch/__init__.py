"""Modules of torch to graphs: `load`, or, of a graph of ATen calls, `translate`.

Importing this imports torch; nothing else of mapsto does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import mapsto.ops  # noqa: F401  (the rows build with the ops that this registers)
from mapsto.boundary import public
from mapsto.budget import Budget, metering
from mapsto.importers.torch.exported import TracedProgram, exported, functional
from mapsto.importers.torch.results import TracedResult
from mapsto.importers.torch.table import supported_targets
from mapsto.importers.torch.translate import Imported, Supplied, translate
from mapsto.ir.graph import Graph

__all__ = [
    "Imported",
    "Supplied",
    "TracedProgram",
    "TracedResult",
    "exported",
    "functional",
    "load",
    "supported_targets",
    "translate",
    "translated_program",
]  # fmt: skip


@public
def load(
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    budget: Budget | Mapping[str, float] | None = None,
) -> Graph:
    """A `torch.nn.Module`, or an exported program of torch, as a graph. Weights are constants, views of the module's
    own memory. What the module writes into buffers and inputs comes after its results.

    args, kwargs: examples of what the module is called with, whose shapes are taken; dynamic_shapes: the sizes that
    stay open, as torch.export takes them.
    Raises UnsupportedError (all places at once), ArgumentError, ShapeError, BudgetError.
    """
    import torch

    is_exported = isinstance(module, torch.export.ExportedProgram)
    program = functional(module) if is_exported else exported(module, args, kwargs, dynamic_shapes)
    return translated_program(program, type(module).__name__, budget=budget).graph


def translated_program(
    program: TracedProgram, name: str, held: bool = True, budget: Budget | Mapping[str, float] | None = None
) -> Imported:
    """The graph of an exported program. held: whether weights are constants; else they are inputs."""
    feeds = program.feeds if held else [Supplied(f.name, None, f.number, f.is_number) for f in program.feeds]
    with metering(budget), np.errstate(all="ignore"):
        return translate(program.exported.graph_module, feeds, name, program.names)
