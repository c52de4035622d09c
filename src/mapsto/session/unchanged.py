"""The model of a compile, for compiles that come later: what it was then, or an error."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mapsto.errors import ModelError
from mapsto.files import name_of
from mapsto.witness import Stamp, stamp_of


@dataclass(frozen=True)
class KeptModel:
    """A model in memory that nobody changes, or a file and its stamp. Data beside the file is not looked at."""

    model: Any
    stamp: Stamp | None = None

    def again(self) -> Any:
        """Raises ModelError where the file is no longer what it was."""
        if self.stamp is not None and _stamp(self.model) != self.stamp:
            raise ModelError(f"{name_of(self.model, 'model')}: the file has been changed since it was compiled first")
        return self.model


def kept_model(model: Any) -> KeptModel:
    """Copies what whoever gave it may change."""
    if isinstance(model, (str, os.PathLike)):
        path = os.path.abspath(name_of(model, "model"))
        return KeptModel(path, _stamp(path))
    if isinstance(model, (bytearray, memoryview)):
        return KeptModel(bytes(model))
    if hasattr(model, "CopyFrom"):  # a ModelProto
        copy = type(model)()
        copy.CopyFrom(model)
        return KeptModel(copy)
    return KeptModel(model)


def _stamp(path: Any) -> Stamp | None:
    """None where there is no such file."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
