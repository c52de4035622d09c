"""Torch for tests: a file that imports this is skipped where torch is not installed, or fails if MAPSTO_REQUIRE_TORCH
is set.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

if importlib.util.find_spec("torch") is None and not os.environ.get("MAPSTO_REQUIRE_TORCH"):
    pytest.skip("torch is not installed: pip install 'mapsto[torch]'", allow_module_level=True)

import torch

__all__ = ["torch"]
