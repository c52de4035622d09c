"""Training: a model and its loss as one compiled step that updates the parameters in place."""

from __future__ import annotations

from mapsto.train.callbacks import EarlyStopping
from mapsto.train.curve import draw_curve
from mapsto.train.history import EpochReport, History
from mapsto.train.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    KLDivergence,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
)
from mapsto.train.metrics import METRICS
from mapsto.train.optimizers import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from mapsto.train.recipe import read_recipe
from mapsto.train.running import run_recipe
from mapsto.train.schedules import (
    SCHEDULES,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    Schedule,
    StepDecay,
    Warmup,
)
from mapsto.train.search import search_settings
from mapsto.train.trainer import Trainer

__all__ = [
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Cosine",
    "CrossEntropy",
    "EarlyStopping",
    "EpochReport",
    "Exponential",
    "History",
    "Huber",
    "KLDivergence",
    "Loss",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MultiStep",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "Trainer",
    "Warmup",
    "draw_curve",
    "read_recipe",
    "run_recipe",
    "search_settings",
]
