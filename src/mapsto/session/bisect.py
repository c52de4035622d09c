"""Finds the kernel that computes something wrong: each work of a plan compiled and run by itself, on reference
inputs, beside the reference.

For developers: `python -m mapsto.session.bisect MODEL.onnx INPUTS.npz` prints the works whose results differ from
the numpy interpreter's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.devices.backend import Backend
from mapsto.devices.named import backend_named
from mapsto.ir.expr import Sym, terms_of
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.interpret import run_graph
from mapsto.passes.retrace import retrace
from mapsto.plan.decide import decide
from mapsto.plan.initial import Setting, constants_of, setting_of
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped
from mapsto.session.compile import build


@dataclass(frozen=True)
class WorkError:
    """One work: its error relative to the largest magnitude of the reference, or what it raised."""

    work: str
    ops: tuple[str, ...]
    output: str
    error: float
    message: str = ""


def bisect(graph: Graph, inputs: Mapping[str, Any], tolerance: float = 1e-4) -> Iterator[WorkError]:
    """Verdicts of the works that differ by more than the tolerance."""
    constants = constants_of(graph)
    known: dict[str, np.ndarray] = {**constants, **{k: np.asarray(v) for k, v in inputs.items()}}

    def observe(node: Node, outputs: Sequence[np.ndarray]) -> None:
        known.update({value.name: array for value, array in zip(node.outputs, outputs, strict=True)})

    run_graph(graph, inputs, observe=observe)
    yielded = {name for node in graph.walk() for inner in node.graphs for name in inner.outputs}
    with backend_named("cpu", True, None) as backend:
        maker = backend.maker(constants)
        mapped, setting = decide(graph, maker), setting_of(graph, maker.traits)
        for task in tasks(mapped.items):
            if task.nodes:
                kept = [t for t in task.targets if t in mapped.homes]
                # what a branch yields is copied into the value of the `if`, which the reference knows by its own name
                kept += [v.name for n in task.nodes for v in n.outputs if v.name in yielded]
                yield from _judge(task.name, list(task.nodes), kept, known, mapped, setting, backend, tolerance)


def _judge(
    name: str,
    nodes: list[Node],
    targets: list[str],
    known: Mapping[str, np.ndarray],
    mapped: Mapped,
    setting: Setting,
    backend: Backend,
    tolerance: float,
) -> Iterator[WorkError]:
    made = {v.name for n in nodes for v in n.outputs}
    outputs = list(dict.fromkeys(t for t in targets if t in made and t in known))
    read = {i for n in nodes for i in n.inputs if i and i not in made}
    values, fixed = setting.values, setting.constants
    if not read - set(fixed) or not read <= set(known):
        return  # folded away when it stands alone; in a branch that was not taken
    inputs = tuple(Value(r, values[r].dtype, known[r].shape) for r in sorted(read) if r not in fixed)
    constants = {r: known[r] for r in read if r not in {v.name for v in inputs}}
    ordered = [n for n in mapped.graph.walk() if any(v.name in made for v in n.outputs)]
    ops = tuple(n.op for n in nodes)
    try:
        graph = retrace(
            Graph(name, inputs, tuple(outputs), tuple(ordered), constants),
            sizes=_sizes((*mapped.graph.inputs, *(v for n in ordered for v in n.outputs)), known),
        )
        exe = build(graph, backend, 1, None)
        found = exe.run({v.name: known[v.name] for v in inputs})
    except Exception as raised:
        yield WorkError(name, ops, ",".join(outputs), float("nan"), f"{type(raised).__name__}: {raised}")
        return
    for output in outputs:
        error = _error(found[output], known[output])
        if error > tolerance:
            yield WorkError(name, ops, output, error)


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude; infinite for another shape, or another NaN or
    infinity.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not (finite | (a == b) | (np.isnan(a) & np.isnan(b))).all():
        return float("inf")
    scale = float(np.max(np.abs(b[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale


def _sizes(values: Iterable[Value], known: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Values of size symbols, read off the reference arrays where a dim is a bare symbol (or a multiple of one)."""
    sizes: dict[str, int] = {}
    for value in values:
        for dim, extent in zip(value.shape, known[value.name].shape if value.name in known else (), strict=False):
            terms = terms_of(dim)
            if len(terms) == 1 and len(terms[0][0]) == 1 and isinstance(terms[0][0][0], Sym):
                sizes[terms[0][0][0].name] = int(extent) // terms[0][1]
    return sizes


def main() -> None:
    from mapsto.session.compile import prepared

    model, inputs = sys.argv[1], dict(np.load(sys.argv[2]))
    for verdict in bisect(prepared(model, {name: array.shape for name, array in inputs.items()}), inputs):
        print(verdict)


if __name__ == "__main__":
    main()
