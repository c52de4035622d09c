"""Graphs to be placed: random ones, and the shapes of networks."""

from __future__ import annotations

import math

import numpy as np

from mapsto.placement.problem import Job, PlacementProblem, Route


def problem_of(
    edges: list[list[int]], rng: np.random.Generator, devices: int = 2, share: tuple[float, float] = (0.1, 0.5),
    refuses: float = 0.0, objective: str = "latency", memory: tuple[float, ...] = (), begins: float = 0.0,
) -> PlacementProblem:  # fmt: skip
    """Works with the earlier works that each reads (none: an input). Devices' seconds differ by factors of 0.5 to 2; a
    transfer takes 0.1 to 0.5 of a work. Each holds up to 2 bytes. refuses: how often a device but the host does not
    take a work. begins: where it is not 0, devices begin after up to so much with what was moved to them, and make
    their transfers themselves.
    """
    count = len(edges)
    base = rng.uniform(0.5, 2.0, count)
    works, values = [], []
    mean = float(base.mean())
    for k, before in enumerate(edges):
        ratios = [1.0, *(float(rng.choice([r, 1 / r])) for r in rng.uniform(1.0, 2.0, devices - 1))]
        seconds = tuple(
            math.inf if d and rng.random() < refuses else float(base[k]) * ratio for d, ratio in enumerate(ratios)
        )
        works.append(Job(f"w{k}", seconds, tuple(before) if before else (count,), (k,), float(rng.uniform(0, 2))))
        values.append(float(rng.uniform(*share)) * mean)
    values.append(float(rng.uniform(*share)) * mean)
    read = {v for work in works for v in work.reads}
    outputs = tuple(k for k in range(count) if k not in read)
    links = {
        (a, b): Route(0 if devices == 2 else min(a, b), 0.0, 1.0, max(a, b) if begins else None)
        for a in range(devices) for b in range(devices) if a != b
    }  # fmt: skip
    names = tuple(f"d{d}" for d in range(devices))
    after = tuple(rng.uniform(0, begins, devices).tolist()) if begins else ()
    return PlacementProblem(names, tuple(works), tuple(values), outputs, links, objective, memory, after)


def random_edges(rng: np.random.Generator, count: int, reach: int = 12) -> list[list[int]]:
    """Each work reads one to three of the `reach` before it; now and then an input."""
    edges: list[list[int]] = []
    for k in range(count):
        before = range(max(0, k - reach), k)
        most = min(len(before), int(rng.integers(1, 4)))
        edges.append([] if k == 0 or rng.random() < 0.08 else sorted(rng.choice(before, most, replace=False).tolist()))
    return edges


def resnet(blocks: int = 16) -> list[list[int]]:
    """Three convolutions and a sum, around which the input goes, now and then through one of its own."""
    edges: list[list[int]] = [[], [0]]
    for block in range(blocks):
        start = len(edges) - 1
        edges += [[start], [start + 1], [start + 2]]
        if block % 4 == 0:
            edges.append([start])
            edges.append([start + 3, start + 4])
        else:
            edges.append([start, start + 3])
    return [*edges, [len(edges) - 1], [len(edges)]]


def inception(blocks: int = 9) -> list[list[int]]:
    """Four branches and their concatenation."""
    edges: list[list[int]] = [[], [0], [1]]
    for _ in range(blocks):
        start = len(edges) - 1
        at = len(edges)
        edges += [[start], [start], [at + 1], [start], [at + 3], [start], [at + 5], [at, at + 2, at + 4, at + 6]]
    return [*edges, [len(edges) - 1], [len(edges)]]


def bert(layers: int = 12) -> list[list[int]]:
    """Query, key and value, attention, projection, sum and norm, and a block of two products."""
    edges: list[list[int]] = [[]]
    for _ in range(layers):
        start = len(edges) - 1
        at = len(edges)
        edges += [
            [start], [start], [start], [at, at + 1], [at + 3, at + 2], [at + 4], [start, at + 5], [at + 6], [at + 7],
            [at + 6, at + 8],
        ]  # fmt: skip
    return [*edges, [len(edges) - 1]]


def yolo(stages: int = 4) -> list[list[int]]:
    """A backbone whose stages are read again by a head of three outputs."""
    edges: list[list[int]] = [[], [0]]
    taps = []
    for _ in range(stages):
        start = len(edges)
        edges += [[start - 1], [start], [start], [start + 2], [start + 1, start + 3], [start + 4]]
        taps.append(len(edges) - 1)
    last = taps[-1]
    for tap in reversed(taps[:-1]):
        at = len(edges)
        edges += [[last], [at, tap], [at + 1], [at + 1], [at + 3], [at + 2, at + 4], [at + 5]]
        last = len(edges) - 1
        edges += [[last], [last + 1], [last], [last + 3]]
    return edges


NETWORKS = {"resnet": resnet, "inception": inception, "bert": bert, "yolo": yolo}
