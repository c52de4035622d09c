"""Gradients of convolutions' weights where images lie channels innermost: products at points, over all tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.session.support import assert_same_bits, normal
from tests.session.test_weight_gradients import assert_right

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import MapstoError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import gradient, run_passes
from mapsto.plan.plan import Plan, parse
from mapsto.session.compile import build

PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (0, 0, 0, 0)}


def network(
    images: int, channels: int, columns: int, size: tuple[int, int], pads: tuple[int, ...] = (1, 1, 1, 1), taps: int = 3
) -> Graph:
    """The gradient of the middle of three convolutions: both operands of its correlation are made channels innermost.
    """
    b = Builder("g")
    x = b.input("x", DType.F32, (images, 16, *size))
    first = b.one("conv", [x, b.input("w0", DType.F32, (channels, 16, 1, 1))], **PLAIN)
    middle = b.input("w", DType.F32, (columns, channels, taps, taps))
    y = b.one("conv", [b.one("relu", [first]), middle], **{**PLAIN, "pads": pads})
    z = b.one("conv", [b.one("relu", [y]), b.input("w2", DType.F32, (16, columns, 1, 1))], **PLAIN)
    weighed = b.one("mul", [z, b.input("by", DType.F32, z.shape)])
    loss = b.one("reduce", [weighed], kind="sum", axes=(0, 1, 2, 3), keepdims=False)
    return run_passes(gradient(b.finish([loss], names=["loss"]), "loss", ["w"]))


def given_for(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    return {v.name: normal(*(int(d) for d in v.shape), seed=seed + n) for n, v in enumerate(graph.inputs)}  # type: ignore[arg-type]


def templates(plan: Plan) -> list[str]:
    """Of the works that sum over images."""
    return [work.offer.template for work in plan.works if "places" in (work.offer.schedule or "")]


CASES: dict[str, tuple[Any, ...]] = {
    "whole tiles": (16, 32, 64, (14, 14)),
    "tiles that are cut": (8, 16, 48, (9, 13)),
    "no border": (8, 32, 16, (11, 10), (0, 0, 0, 0)),
    "uneven borders": (40, 32, 32, (8, 12), (0, 1, 2, 0)),
    "blocks of channels": (6, 160, 96, (7, 7)),
    "many images": (70, 16, 16, (12, 12)),
    "one image": (1, 48, 64, (40, 41)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_form(name: str, workers: Workers) -> None:
    graph = network(*CASES[name])
    exe = build(graph, workers, 1, None)
    assert templates(exe.plan) == ["winograd"], exe.plan.text()
    assert_right(graph, exe, 1)


def test_images_are_not_copied(workers: Workers) -> None:
    """Both operands are read as they lie."""
    exe = build(network(*CASES["whole tiles"]), workers, 1, None)
    (work,) = [work for work in exe.plan.works if "places" in (work.offer.schedule or "")]
    assert "reading(" not in str(work.recipe)


def test_a_plan_is_replayed(workers: Workers) -> None:
    graph = network(*CASES["tiles that are cut"])
    exe = build(graph, workers, 1, None)
    again = build(graph, workers, 1, None, parse(exe.plan.text()))
    assert templates(again.plan) == ["winograd"]
    feed = given_for(graph, 3)
    assert_same_bits(again.run(feed), exe.run(feed))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2x2 places", "3x3 places", "no schedule of a correlation"),
        (" 16 channels by", " 15 channels by", "do not divide"),
        (" parts,", "0 parts,", "does not share"),
        (" tiles a block", "0000 tiles a block", "tiles a block, where there are"),
    ],
)
def test_a_plan_that_says_nonsense(old: str, new: str, says: str, workers: Workers) -> None:
    graph = network(*CASES["many images"])
    text = build(graph, workers, 1, None).plan.text()
    assert text.count(old) >= 1
    with pytest.raises(MapstoError, match=says):
        build(graph, workers, 1, None, parse(text.replace(old, new)))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e25])
@pytest.mark.parametrize("name", ["x", "by"])
def test_odd_values_stay_where_they_belong(odd: float, name: str, workers: Workers) -> None:
    """One element that is not finite, or overflows at the points alone, reaches the shifts that read it, no others."""
    graph = network(*CASES["no border"])
    exe = build(graph, workers, 1, None)
    feed = given_for(graph, 5)
    feed[name].reshape(-1)[7] = odd
    wide = run_graph(graph, feed, wide=True)["w.gradient"]
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(np.float32)
    found = exe.run(feed)["w.gradient"]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(narrow))
    finite = np.isfinite(narrow) & np.isfinite(found)
    assert np.abs(found[finite] - wide[finite]).max(initial=0) <= 1e-4 * np.abs(wide[finite]).max(initial=0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(workers: Workers, data: st.DataObject) -> None:
    images, h, w = (data.draw(st.integers(low, most)) for low, most in ((1, 9), (1, 14), (1, 20)))
    channels, columns = (16 * data.draw(st.integers(1, 4)) for _ in range(2))
    pads = tuple(data.draw(st.integers(max(0, 3 - (h, w)[k % 2]), 2)) for k in range(4))
    graph = network(images, channels, columns, (h, w), pads)
    assert_right(graph, build(graph, workers, 1, None), 3)


@pytest.mark.parametrize("taps", [2, 5])
def test_other_shifts_are_done_in_tiles(taps: int, workers: Workers) -> None:
    graph = network(4, 16, 16, (12, 12), (1, 1, 1, 1), taps)
    exe = build(graph, workers, 1, None)
    assert templates(exe.plan) == []
    assert_right(graph, exe, 2)


def test_few_channels_meet_images_as_they_lie(workers: Workers) -> None:
    """B lies in blocks of its columns: it is read so, not packed first."""
    graph = network(8, 3, 40, (20, 20))
    exe = build(graph, workers, 1, None)
    (work,) = [work for work in exe.plan.works if "absorb(transpose" in str(work.recipe)]
    assert work.offer.template == "tiles" and " | " not in (work.offer.schedule or "")
    assert_right(graph, exe, 1)
