"""Twice as many inputs, nodes or outputs are twice the work: counted in calls of functions, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.budget import metering


def variadic(op: str, n: int, **attributes: Any) -> Any:
    inputs = {f"x{k}": [4, 4] for k in range(n)}
    return model([node(op, list(inputs), **attributes)], inputs)


def concat(n: int) -> Any:
    return variadic("Concat", n, axis=0)


def total(n: int) -> Any:
    return variadic("Sum", n)


def mean(n: int) -> Any:
    return variadic("Mean", n)


def computed_and_joined(n: int) -> Any:
    inputs = {f"x{k}": [4] for k in range(n)}
    nodes = [node("Relu", [f"x{k}"], [f"v{k}"]) for k in range(n)]
    return model([*nodes, node("Concat", [f"v{k}" for k in range(n)], axis=0)], inputs)


def identities(n: int) -> Any:
    nodes = [node("Identity", [f"v{k}" if k else "x"], [f"v{k + 1}" if k < n - 1 else "y"]) for k in range(n)]
    return model(nodes, {"x": [4]})


def split(n: int) -> Any:
    return model(
        [node("Split", ["x"], [f"y{k}" for k in range(n)], axis=0, num_outputs=n)],
        {"x": [n, 4]},
        [f"y{k}" for k in range(n)],
    )


def ports(n: int) -> Any:
    names = [f"y{k}" for k in range(n)]
    return model([node("Identity", [f"x{k}"], [f"y{k}"]) for k in range(n)], {f"x{k}": [4] for k in range(n)}, names)


def one_input_many_outputs(n: int) -> Any:
    names = [f"y{k}" for k in range(n)]
    return model([node("Identity", ["x"], [name]) for name in names], {"x": [4]}, names)


def initializers(n: int) -> Any:
    constants = {f"w{k}": np.full(4, k, np.float32) for k in range(n)}
    return model([node("Sum", ["x", *constants])], {"x": [4]}, constants=constants)


def folded_chain(n: int) -> Any:
    nodes = [node("Neg", [f"v{k}" if k else "c"], [f"v{k + 1}"]) for k in range(n)]
    return model([*nodes, node("Add", ["x", f"v{n}"])], {"x": [4]}, constants={"c": np.arange(4, dtype=np.float32)})


def additions(n: int) -> Any:
    """Each node adds a constant of its own."""
    constants = {f"c{k}": np.full(4, k, np.float32) for k in range(n)}
    return model(
        [node("Add", [f"v{k}" if k else "x", f"c{k}"], [f"v{k + 1}" if k < n - 1 else "y"]) for k in range(n)],
        {"x": [4]},
        constants=constants,
    )


def work(proto: Any) -> int:
    """Calls and returns of functions in this thread while a model is compiled."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(seen)
    try:
        mapsto.compile(proto, threads=1)
    finally:
        sys.setprofile(None)
    return count


KINDS: list[tuple[Callable[[int], Any], int]] = [
    (concat, 300), (total, 630), (mean, 630), (computed_and_joined, 200), (identities, 1000), (split, 200),
    (ports, 200), (one_input_many_outputs, 150), (initializers, 630), (folded_chain, 200), (additions, 160),
]  # fmt: skip


@pytest.mark.parametrize(("make", "n"), KINDS, ids=[make.__name__ for make, _ in KINDS])
def test_twice_the_model_is_twice_the_work(make: Callable[[int], Any], n: int) -> None:
    mapsto.compile(make(3), threads=1)  # what is imported or set up once is no part of it
    once, twice = work(make(n)), work(make(2 * n))
    assert twice < 2.4 * once


@pytest.mark.parametrize("make", [identities, one_input_many_outputs, folded_chain])
def test_sources_are_written_out_once(make: Callable[[int], Any]) -> None:
    """A value that stands for n source nodes is not the reason for n lists of them."""
    n = 1000
    with metering() as meter:
        mapsto.compile(make(n), threads=1)
    assert meter.spent["sources"] < 40 * n


def test_equal_parts_of_a_concatenation_are_one_kernel() -> None:
    exe = mapsto.compile(concat(100), threads=1)
    assert len(exe.program.functions()) == 1 and len(exe.program.steps) == 100
    inputs = {f"x{k}": np.full((4, 4), k, np.float32) for k in range(100)}
    np.testing.assert_array_equal(exe.run(inputs)["y"], np.concatenate(list(inputs.values())))


def test_equal_parts_of_a_split_are_one_kernel() -> None:
    exe = mapsto.compile(split(50), threads=1)
    assert len(exe.program.functions()) == 1
    x = np.arange(200, dtype=np.float32).reshape(50, 4)
    for k, part in enumerate(exe.run({"x": x}).values()):
        np.testing.assert_array_equal(part, x[k : k + 1])


@pytest.mark.parametrize(("op", "fn"), [("Sum", np.add), ("Max", np.maximum), ("Min", np.minimum)])
def test_many_operands_are_taken_together_in_order(op: str, fn: Any) -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (1, 4), (3, 1)]
    inputs = {f"x{k}": rng.standard_normal(shapes[k % 4]).astype(np.float32) for k in range(150)}
    exe = mapsto.compile(model([node(op, list(inputs))], {n: list(a.shape) for n, a in inputs.items()}), threads=1)
    expected = list(inputs.values())[0]
    for array in list(inputs.values())[1:]:
        expected = fn(expected, array)
    np.testing.assert_array_equal(exe.run(inputs)["y"], expected)
