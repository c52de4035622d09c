"""The version of this package, which plans and artifacts name."""

from __future__ import annotations

VERSION = "0.1.0"
