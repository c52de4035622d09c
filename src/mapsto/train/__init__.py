"""Training: a model and its loss as one compiled step that updates the parameters in place."""

from __future__ import annotations

from mapsto.train.losses import LOSSES, Loss
from mapsto.train.trainer import Trainer

__all__ = ["LOSSES", "Loss", "Trainer"]
