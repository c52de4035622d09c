"""Keras on torch for tests: a file that imports this is skipped where Keras is not installed, or fails if
MAPSTO_REQUIRE_TORCH is set.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.pytorch import torch

if importlib.util.find_spec("keras") is None and not os.environ.get("MAPSTO_REQUIRE_TORCH"):
    pytest.skip("Keras is not installed: pip install 'mapsto[keras]'", allow_module_level=True)

os.environ["KERAS_BACKEND"] = "torch"
import keras

__all__ = ["keras", "torch"]
