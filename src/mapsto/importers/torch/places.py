"""What a call of torch's graph is named, and where it stands in the user's source."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from mapsto.importers.torch.keras_names import keras_layer_of

_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in (?P<function>[^\n]*)\n?(?P<code>[^\n]*)')


def name_of(node: Any) -> str:
    """The path of the module (of Keras: the layer) that makes the call, and the call: "layer1.0.conv1/conv2d"."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for held in stack.values():
        path = str(held[0] if isinstance(held, tuple) else held)
    path = re.sub(r"^L\['self'\]\.?|^L__self__\.?", "", path)
    path = keras_layer_of(node) or path
    return f"{path}/{node.name}" if path else str(node.name)


def place_of(node: Any) -> str:
    """The call in a user's words: its operator, its module, and its line in the user's source."""
    said = f"{node.target} in {name_of(node)!r}"
    frame = _frame(node.meta.get("stack_trace"))
    return f"{said} ({frame})" if frame else said


def _frame(trace: str | None) -> str:
    """The innermost line of a trace that is a user's own; else the innermost."""
    frames = [found.groupdict() for found in _FRAME.finditer(trace or "")]
    own = [frame for frame in frames if not _is_inside(frame["file"])]
    own = own or [frame for frame in frames if not _is_inside(frame["file"], ("keras", "mapsto"))]
    return f"{own[-1]['file']}:{own[-1]['line']}: {own[-1]['code'].strip()}" if own else ""


def _is_inside(file: str, packages: Sequence[str] = ("torch", "keras", "mapsto")) -> bool:
    """Whether a file is torch's own, or Keras's, or of this."""
    return any(f"{os.sep}{name}{os.sep}" in file for name in packages)


def user_frame(traces: Sequence[Any]) -> str:
    """The innermost of some frames of a traceback that is a user's own, as "file:line"."""
    own = [f for f in traces if not _is_inside(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}: {(own[-1].line or '').strip()}" if own else ""
