"""`python -m mapsto.importers.keras.convert FILE.keras PROGRAM.pt2 TOLD.json SHAPES`: a Keras file, traced by
torch.export. What became of it is told in JSON: names of inputs, or an error and its kind ("read", "shapes", "trace").
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import torch

from mapsto.importers.keras.examples import closed_axes, examples_of
from mapsto.importers.torch.whole import kept_whole


class _Positional(torch.nn.Module):  # type: ignore[misc]
    """A Keras model called with its inputs one after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        return self.model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)


def told(source: str, made: str, shapes: dict[str, list[Any]]) -> dict[str, Any]:
    """Traces a file; what there is to tell of it."""
    try:
        model = keras.saving.load_model(source, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras raises for what it cannot read
        return {"kind": "read", "error": f"Keras cannot read it: {_first(error)}"}
    try:
        found = examples_of(model, shapes)
    except ValueError as error:
        return {"kind": "shapes", "error": f"shapes: {error}"}
    if found is None:
        said = "it does not say what it takes; build it from `keras.Input`, or compile the model itself with examples"
        return {"kind": "trace", "error": said}
    names, examples, open_axes = found
    try:
        with torch.no_grad(), kept_whole():
            program = torch.export.export(
                _Positional(model.eval()), examples, dynamic_shapes={"inputs": open_axes}, strict=False
            )
    except Exception as error:  # whatever layers and torch raise
        return {"kind": "trace", "error": f"torch cannot trace it as one graph: {_first(error)}"}
    if closed := closed_axes(program, names, open_axes):
        why = "Keras on torch unrolls recurrent layers that have masks or other activations"
        said = f"its layers fix {closed} ({why}); give it by `shapes`"
        return {"kind": "shapes", "error": said}
    torch.export.save(program, made)
    return {"inputs": names}


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:500]


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(told(sys.argv[1], sys.argv[2], json.loads(sys.argv[4]))))
