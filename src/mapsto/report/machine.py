"""What a measurement was made on: processor, cores, versions. A number without these says nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from mapsto.runtime.cpus import processor_name

__all__ = ["allowed_cpus", "describe", "processor_name", "version_of"]


def version_of(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def allowed_cpus() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def describe() -> dict[str, Any]:
    """The machine and the versions, as plain data."""
    packages = ("mapsto", "llvmlite", "numpy", "onnxruntime", "openvino")
    return {
        "processor": processor_name(),
        "cores": len(allowed_cpus()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := version_of(name)) is not None},
    }
