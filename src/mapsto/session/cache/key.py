"""All that decides what a compile makes, besides the bytes of the model: as data, for keys.

Whatever a new argument or variable of the environment decides belongs here: `tests/session/cache/test_key.py` fails for
one that is not listed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mapsto import budget as budgets
from mapsto import debug, version
from mapsto.devices.named import deciding
from mapsto.errors import MapstoError
from mapsto.files import name_of
from mapsto.session.request import Request

FORMAT = 1  # of keys and records
TICK = 2_000_000_000  # ns; no file system's times are coarser (FAT: 2 s)

ARGUMENTS: Mapping[str, Callable[[Request], Any]] = {
    "shapes": lambda asked: [[name, list(dims)] for name, dims in asked.shapes.items()],
    "plan": lambda asked: asked.plan if asked.plan is None or isinstance(asked.plan, str) else asked.plan.text(),
    "isa": lambda asked: asked.isa,
    "budget": lambda asked: asdict(_budget(asked)),
    "check_indices": lambda asked: bool(asked.check_indices),
    "data_root": lambda asked: None if asked.data_root is None else absolute(asked.data_root, "data_root"),
    "overridable": lambda asked: list(asked.overridable),
    "device": lambda asked: asked.device,
    "accuracy": lambda asked: None if asked.accuracy is None else asked.accuracy.digest,
    "formats": lambda asked: [[list(pair) for pair in asked.formats.pairs], repr(asked.formats.known)],
    "calibration": lambda asked: None if asked.calibration is None else asked.calibration.digest,
    "exact_integers": lambda asked: asked.exact_integers,
    "updates": lambda asked: [list(pair) for pair in asked.updates],
}
ARGUMENTS_THAT_DO_NOT_DECIDE = {
    "model": "its bytes are in the key of its content",
    "threads": "a program is the same for any number of them",
    "progress": "is told, and asked nothing",
    "cache": "says whether there is a key",
    "adapt": "is for what is made besides, while it runs",
}
ARGUMENTS_OF_MODULES = {
    "example_inputs": "a module is traced with them; what is asked for then is a graph, which is not kept",
    "example_kwargs": "likewise",
    "dynamic_shapes": "likewise",
    "weights": "says when a module's graph is made again",
}
# Packages that parse models, fold constants, choose plans or make code. `numpy` and `llvmlite` are imported for a run.
_PACKAGES = ("onnx", "ml_dtypes", "highspy", "llvmlite")


class Uncached(Exception):
    """An executable that is neither looked for nor kept; says why."""


def options_digest(asked: Request) -> str:
    """One digest of the arguments, the machine, the package and those that it stands on. Raises Uncached."""
    if debug.level():
        raise Uncached("MAPSTO_DEBUG looks inside of a compile, so there must be one")
    if asked.budget is None and budgets.metered():
        raise Uncached("it was compiled on what is left of another compile's budget")
    try:
        machine = deciding(asked.device)
        if machine is None:
            raise Uncached(f"an executable for {asked.device} cannot be saved")
        parts = {
            "format": FORMAT,
            "arguments": {name: read(asked) for name, read in ARGUMENTS.items()},
            "machine": machine,
            "package": [version.VERSION, own_code(), *others()],
            "python": list(sys.version_info[:3]),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    except (OSError, TypeError, ValueError, AttributeError, MapstoError) as error:
        raise Uncached(f"what decides cannot be put into a key: {error}") from None


def absolute(path: Any, what: str) -> str:
    """A path as it can be found from anywhere; links stay. Raises OSError where there is no current folder."""
    return os.path.abspath(name_of(path, what))


def _budget(asked: Request) -> budgets.Budget:
    return budgets.default() if asked.budget is None else budgets.budget_of(asked.budget)


# -- code --------------------------------------------------------------------------------------------------------------


def own_code(package: str = "") -> str:
    """A digest of this package's sources: the installer's list of them with their checksums; in a checkout, their
    names, sizes and times. Raises Uncached where one was changed just now.
    """
    package = package or os.path.dirname(version.__file__)
    installed = f"{package}-{version.VERSION}.dist-info/RECORD"
    try:
        with open(installed, "rb") as file:
            listed = file.read()
        if b"mapsto/version.py,sha256=" in listed:
            return hashlib.sha256(listed).hexdigest()
    except FileNotFoundError:
        pass
    newest, digest = 0, hashlib.sha256()
    for path, status in sorted(_sources(package), key=lambda found: found[0]):
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)).encode())
    if newest + TICK > time.time_ns():
        raise Uncached("the package's own code was changed just now")
    return digest.hexdigest()


def _sources(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.endswith(".py"):
                yield entry.path, entry.stat()
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _sources(entry.path)


def others() -> list[str]:
    """Name and version of each package that has a part in what is made, none of them imported."""
    found = [f"numpy {np.__version__}"]
    listed: dict[str, list[str]] = {}
    for name in _PACKAGES:
        origin = _origin(name)
        if origin is None:
            found.append(f"no {name}")
            continue
        folder = os.path.dirname(os.path.dirname(origin))
        if folder not in listed:
            listed[folder] = os.listdir(folder)
        versions = sorted(each for each in listed[folder] if each.startswith(f"{name}-") and each.endswith("-info"))
        status = os.stat(origin)
        found.append(", ".join(versions) or f"{origin} {status.st_size} {status.st_mtime_ns}")
    return found


def _origin(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin
