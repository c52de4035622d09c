"""mapsto: finds the mapping from a neural network onto a machine, and makes native code for it.

    import mapsto
    exe = mapsto.compile("model.onnx")
    outputs = exe.run({"x": x})

Importing the package costs nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mapsto.version import VERSION

if TYPE_CHECKING:
    from mapsto.budget import Budget as Budget
    from mapsto.exporters.qdq import to_qdq as to_qdq
    from mapsto.runtime.divided import DividedExecutable as DividedExecutable
    from mapsto.runtime.executable import Executable
    from mapsto.session.accuracy import Accuracy as Accuracy
    from mapsto.session.calibration import Calibration as Calibration
    from mapsto.session.divide import divide as divide
    from mapsto.session.entry import compile_model as compile
    from mapsto.session.load import load as load
    from mapsto.session.tune import tune as tune
    from mapsto.train import Trainer as Trainer

__version__ = VERSION
__all__ = [
    "Accuracy", "Budget", "Calibration", "DividedExecutable", "Executable", "Trainer", "compile", "divide", "load",
    "to_qdq", "tune",
]  # fmt: skip

_WHERE = {
    "Accuracy": ("mapsto.session.accuracy", "Accuracy"),
    "Budget": ("mapsto.budget", "Budget"),
    "Calibration": ("mapsto.session.calibration", "Calibration"),
    "compile": ("mapsto.session.entry", "compile_model"),
    "divide": ("mapsto.session.divide", "divide"),
    "DividedExecutable": ("mapsto.runtime.divided", "DividedExecutable"),
    "load": ("mapsto.session.load", "load"),
    "to_qdq": ("mapsto.exporters.qdq", "to_qdq"),
    "tune": ("mapsto.session.tune", "tune"),
    "Executable": ("mapsto.runtime.executable", "Executable"),
    "Trainer": ("mapsto.train", "Trainer"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mapsto' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
