"""What torch takes apart before a graph is read: whatever it knows how to, of calls that there is no row for. A call
that has a row stays whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

import mapsto.importers.torch.rows  # noqa: F401  (registers the rows)
from mapsto.importers.torch.fused_layers import fused_layers
from mapsto.importers.torch.table import find_row

Decompositions = dict[Any, Callable[..., Any]]


def _without_rows(table: Any) -> Decompositions:
    return {op: rule for op, rule in table.items() if hasattr(op, "_schema") and find_row(op) is None}


@functools.cache
def _known() -> Decompositions:
    from torch._decomp import decomposition_table

    return {**_without_rows(decomposition_table), **fused_layers()}


@functools.cache
def of_export() -> Decompositions:
    """For an exported program: those that autograd would see as well, which are called whole there."""
    return {**_known(), **_without_rows(torch.export.default_decompositions())}


def of_autograd() -> Decompositions:
    """For the graphs of torch's compiler."""
    return _known()
