"""The models that tests share can fail: every weight tensor, and every channel and tap of it, shows in the outputs.

A model whose outputs are the same whatever its layers compute (a softmax over equal columns, weights all alike) passes
every comparison. So each weight tensor of each shared model is spoilt in the ways that faults spoil it, and the
outputs must change by far more than the comparisons forgive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode
from mapsto.session.compile import prepared
from tests.devices.cpu.forms import CHAINS, CONVOLUTIONS, PRODUCTS, QUANTISED, TRANSPOSED, Form, feeds_of
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.session.test_compile import cnn, image
from tests.session.test_replay import MODELS

Array = np.ndarray
Feed = dict[str, Array]

# Of the largest magnitude of an output. The comparisons forgive 1e-5; half-precision ones 8e-3.
CLEAR = 1e-3

SHARED: dict[str, tuple[Graph, Feed]] = {
    "small cnn": (small_cnn(), feeds_of(small_cnn(), {})),
    "layer norm": (layer_norm_rows(), feeds_of(layer_norm_rows(), {})),
    "the session's cnn": (prepared(cnn(), None), image(2, 9, 31)),
    **{name: (prepared(model, None), feed) for name, (model, feed) in MODELS.items() if name != "digits"},  # a real one
}
FORMS = (*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, *QUANTISED, *CHAINS)


def weights(graph: Graph, feed: Feed) -> Feed:
    """Constants, and inputs that stand for some. Not the image: strides leave pixels out, a norm forgets its scale."""
    live = DeadCode()(graph).constants  # one that was folded into another is read by nobody
    return {n: a for n, a in {**live, **feed}.items() if a.size > 1 and n not in ("x", "image")}


def spoilt(array: Array) -> Iterator[tuple[str, Array]]:
    """The array as faults leave it: a slice of it lost, two neighbours swapped, the whole scaled."""
    if array.dtype.kind == "b":
        return
    yield "scaled", (array * 2).astype(array.dtype)
    for axis, extent in enumerate(array.shape):
        for at in {0, extent // 2, extent - 1} if extent > 1 else ():
            lost = array.copy()
            np.moveaxis(lost, axis, 0)[at] = 0
            yield f"slice {at} of axis {axis} lost", lost
        if extent > 1:
            order = np.arange(extent)
            order[-2:] = order[-2:][::-1]
            yield f"the last two of axis {axis} swapped", np.take(array, order, axis)


def outputs(graph: Graph, feed: Feed, changed: Feed) -> Feed:
    constants = {n: changed.get(n, a) for n, a in graph.constants.items()}
    return run_graph(replace(graph, constants=constants), {n: changed.get(n, a) for n, a in feed.items()})


def hidden(graph: Graph, feed: Feed, clear: float = CLEAR) -> list[str]:
    """Faults that no output shows."""
    right = outputs(graph, feed, {})
    found = []
    for name, array in weights(graph, feed).items():
        for what, other in spoilt(array):
            wrong = outputs(graph, feed, {name: other})
            if not any(differ(right[n], wrong[n], clear) for n in right):
                found.append(f"{name}{list(array.shape)}: {what}")
    return found


def differ(a: Array, b: Array, clear: float) -> bool:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a.shape != b.shape or bool(np.abs(a - b).max(initial=0.0) > clear * np.abs(a).max(initial=1e-30))


@pytest.mark.parametrize("name", SHARED)
def test_every_fault_shows_in_a_shared_model(name: str) -> None:
    graph, feed = SHARED[name]
    assert weights(graph, feed)
    assert hidden(graph, feed) == []


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_fault_shows_in_a_contraction_form(form: Form) -> None:
    graph = form.graph()
    half = any(v.dtype in (DType.BF16, DType.F16) for v in graph.inputs)
    assert hidden(graph, feeds_of(graph, form.sizes), 1e-2 if half else CLEAR) == []


def test_a_model_that_cannot_fail_is_found() -> None:
    """The search itself: with equal columns before the softmax no layer shows."""
    graph = small_cnn()
    graph = replace(graph, constants={**graph.constants, "dense": np.ones((16, 10), np.float32)})
    found = hidden(graph, feeds_of(graph, {}))
    assert any(line.startswith("w[16, 3, 3, 3]") for line in found)
