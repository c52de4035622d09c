"""One node with what is drawn of it, and the models that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.differential.drawing import NEWEST, Draw, is_float

Feed = Mapping[str, Any]


# Inputs whose length is a count of axes or of results.
PARAMETERS = frozenset("axes ends k pads repeats shape sizes scales split starts steps".split())


@dataclass(frozen=True)
class Form:
    """`feed` makes the inputs of one run, of any sizes; `inputs` are their names in order, "" where one is left out.
    Those of `constants` are parts of the model. `rule`: how near results must be (`judging`). `wide`: whether f64 in
    the place of each float type means the same. `pinned`: axes whose extents stay what they are where dims are open, as
    the rank of a result hangs on them; those of `PARAMETERS` always are.
    """

    op: str
    feed: Callable[[Draw], Feed]
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Feed = field(default_factory=dict)
    outputs: int = 1
    opset: int = NEWEST
    rule: str = "each"
    wide: bool = True
    domain: str = ""
    pinned: Mapping[str, Collection[int]] = field(default_factory=dict)

    @property
    def results(self) -> list[str]:
        return [f"y{k}" for k in range(self.outputs)]


def model_of(form: Form, feed: Feed, *, opened: bool = False, wide: bool = False) -> Any:
    """The model of the node: `opened`, each extent of each input is a dim of its own; `wide`: floats are f64."""

    def kind(array: Any) -> int:
        dtype = np.dtype(np.float64) if wide and is_float(array.dtype) else array.dtype
        return int(helper.np_dtype_to_tensor_dtype(dtype))

    ports, stored = [], []
    for name in dict.fromkeys(n for n in form.inputs if n):
        if name in form.constants:
            stored.append(onnx.numpy_helper.from_array(widened(form.constants[name], wide), name))
            continue
        array = feed[name]
        pinned = range(array.ndim) if name in PARAMETERS or not opened else form.pinned.get(name, ())
        dims = [extent if k in pinned else f"{name}_{k}" for k, extent in enumerate(array.shape)]
        ports.append(helper.make_tensor_value_info(name, kind(array), dims))
    results = [helper.make_empty_tensor_value_info(name) for name in form.results]
    node = helper.make_node(form.op, form.inputs, form.results, "it", domain=form.domain, **form.attributes)
    graph = helper.make_graph([node], "one", ports, results, stored)
    domains = {"": form.opset, form.domain: form.opset if not form.domain else 1}
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()], ir_version=10
    )


def widened(array: Any, wide: bool) -> Any:
    array = np.asarray(array)
    return array.astype(np.float64) if wide and is_float(array.dtype) else array
