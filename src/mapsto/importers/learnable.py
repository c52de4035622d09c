"""A model that is to be trained, as an importer gives it: once as it infers, once as it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapsto.ir.graph import Graph


@dataclass(frozen=True)
class Learnable:
    """Two graphs with the same inputs and results, whose weights are inputs too, after the model's own.

    inference: with running statistics, without dropout. training: by the statistics of a batch, with dropout; further
    outputs take over the memory of running statistics (`Graph.updates`). arrays: what weights and statistics hold, by
    the names of their inputs: the model's own memory. weights: those that a gradient can move, in the order of the
    model. run: the input of `training`, u64[], that makes draws differ from run to run; "" where nothing is drawn.
    """

    inference: Graph
    training: Graph
    arrays: Mapping[str, np.ndarray]
    weights: tuple[str, ...]
    run: str = ""

    @property
    def statistics(self) -> tuple[str, ...]:
        """The inputs that a run in training moves by itself."""
        return tuple(source for source, _ in self.training.updates)
