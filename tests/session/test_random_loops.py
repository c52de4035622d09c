"""Random loops: states that are handed on as they are, computed, exchanged, replaced and grown, with rows, branches and
loops inside, beside ONNX Runtime and the numpy reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tests.session.support import check, normal
from tests.session.test_loops import BOOL, FLOAT, INT, Typed, body, constant, model, node, ports

from mapsto.devices.cpu.workers import Workers

FIXED: tuple[int, Sequence[int | str]] = (FLOAT, [3, 4])
OPEN: tuple[int, Sequence[int | str]] = (FLOAT, ["K", 4])
UNARY = ("Sin", "Tanh", "Neg", "Sigmoid", "Identity", "Softmax", "Abs")
BINARY = ("Add", "Sub", "Mul", "Max", "Min")


class Body:
    """Nodes over values [3, 4] that can be had by name."""

    def __init__(self, rng: np.random.Generator, prefix: str, values: Sequence[str], depth: int) -> None:
        self.rng, self.prefix, self.depth = rng, prefix, depth
        self.values = list(values)
        self.nodes: list[Any] = []

    def fresh(self) -> str:
        return f"{self.prefix}v{len(self.nodes)}"

    def pick(self) -> str:
        return str(self.rng.choice(self.values))

    def grow(self, count: int) -> None:
        for _ in range(count):
            kind = self.rng.integers(10)
            name = self.fresh()
            if kind < 4:
                self.nodes.append(node(str(self.rng.choice(UNARY)), self.pick(), name))
            elif kind < 7:
                self.nodes.append(node(str(self.rng.choice(BINARY)), f"{self.pick()} {self.pick()}", f"{name}u"))
                self.nodes.append(node("Tanh", f"{name}u", name))
            elif kind == 7:
                self.product(name)
            elif kind == 8 and self.depth:
                self.branch(name)
            elif self.depth:
                self.loop(name)
            else:
                self.nodes.append(node("Sin", self.pick(), name))
            self.values.append(name)

    def product(self, name: str) -> None:
        self.nodes += [
            node("Transpose", self.pick(), f"{name}t", perm=[1, 0]),
            node("MatMul", f"{self.pick()} {name}t", f"{name}p"),
            node("MatMul", f"{name}p {self.pick()}", f"{name}q"), node("Tanh", f"{name}q", name),
        ]  # fmt: skip

    def branch(self, name: str) -> None:
        arms = []
        for which in "te":
            arm = Body(self.rng, f"{name}{which}", self.values, self.depth - 1)
            arm.grow(int(self.rng.integers(1, 3)))
            arms.append(helper.make_graph(arm.nodes, which, [], ports({arm.values[-1]: FIXED})))
        self.nodes.append(helper.make_node("If", ["odd"], [name], then_branch=arms[0], else_branch=arms[1]))

    def loop(self, name: str) -> None:
        """A loop of `number` rounds, of which a state and the sum of the rows are taken."""
        inner, outputs = looped(self.rng, self.values, f"{name}n", self.depth - 1, rows=1)
        states = len(outputs) - 1
        starts = " ".join(self.pick() for _ in range(states))
        names = " ".join(f"{name}o{i}" for i in range(states))
        self.nodes += [
            node("Loop", f"number _ {starts}", f"{names} {name}rr", body=inner),
            node("ReduceSum", f"{name}rr first", f"{name}r", keepdims=0), node("Tanh", f"{name}r", f"{name}h"),
            node("Add", f"{name}o0 {name}h", name),
        ]  # fmt: skip


def looped(
    rng: np.random.Generator, around: Sequence[str], prefix: str, depth: int, rows: int, caches: int = 0
) -> tuple[Any, list[str]]:
    """The body of a loop that reads some values around it, and the names of what it yields."""
    states = [f"{prefix}s{i}" for i in range(int(rng.integers(1, 4)))]
    inner = Body(rng, prefix, [*states, *around, *states], depth)
    head = [node("Cast", f"{prefix}i", f"{prefix}b", to=BOOL)] if depth else []
    inner.grow(int(rng.integers(1, 6)))
    free = [*states, *inner.values[-3:], *around[:1]]
    handed = [str(name) for name in rng.choice(free, len(states))]
    collected = [str(name) for name in rng.choice(free, rows)]
    outputs, tail = [], []
    for at, name in enumerate([*handed, *collected]):  # the standard wants names that are different
        outputs.append(f"{prefix}y{at}")
        tail.append(node("Identity", name, outputs[-1]))
    grown: Typed = {}
    kept: Typed = {}
    for at in range(caches):
        grown = {**grown, f"{prefix}c{at}": OPEN}
        kept = {**kept, f"{prefix}z{at}": (FLOAT, ["K1", 4])}
        tail.append(node("Concat", f"{prefix}c{at} {inner.pick()}", f"{prefix}z{at}", axis=0))
    on = node("Identity", f"{prefix}g", f"{prefix}on")
    places = len(states)
    made = body(
        [on, *head, *inner.nodes, *tail],
        {f"{prefix}i": (INT, []), f"{prefix}g": (BOOL, []), **dict.fromkeys(states, FIXED), **grown},
        {f"{prefix}on": (BOOL, []), **dict.fromkeys(outputs[:places], FIXED), **kept,
         **dict.fromkeys(outputs[places:], FIXED)},
    )  # fmt: skip
    return made, [*outputs[:places], *kept, *outputs[places:]]


def random_model(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    rows, caches = int(rng.integers(0, 3)), int(rng.integers(0, 2))
    inner, yielded = looped(rng, ["x", "w", "h"], "a", depth=2, rows=rows, caches=caches)
    states = len(yielded) - rows - caches
    starts = " ".join(str(name) for name in rng.choice(["x", "w", "h"], states + caches))
    names = [f"y{i}" for i in range(len(yielded))]
    kinds = [FIXED] * states + [(FLOAT, ["K2", 4])] * caches + [(FLOAT, ["R", 3, 4])] * rows
    return model(
        [
            constant("first", [0]), constant("two", 2), node("Mod", "number two", "rest"),
            node("Cast", "rest", "odd", to=BOOL), node("Sin", "x", "h"),
            node("Loop", f"n go {starts}", " ".join(names), body=inner),
        ],
        {"x": FIXED, "w": FIXED, "n": (INT, []), "number": (INT, []), "go": (BOOL, [])},
        dict(zip(names, kinds, strict=True)),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_random_loop(seed: int, workers: Workers) -> None:
    made = random_model(seed)
    feeds = [
        {"x": normal(3, 4), "w": normal(3, 4, seed=1), "n": np.array(n), "number": np.array(k), "go": np.array(True)}
        for n, k in ((1, 0), (2, 1), (5, 2), (3, 3))
    ]
    check(workers, made, *feeds)
