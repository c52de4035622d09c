"""A training step as a graph: forward, backward and update in one, the parameters and states updated in place.

What a step needs beside the batch are inputs of it: parameters, the optimizer's states, and its numbers (rates), so
that a change of them compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.passes import DeadCode, PoolsFirst, gradient
from mapsto.passes.recompute import recomputed
from mapsto.passes.retrace import copy_into
from mapsto.train.losses import Loss
from mapsto.train.optimizers import Optimizer

_MASK = (1 << 64) - 1
_NORM_ROUNDING = 1e-6  # PyTorch's clip_grad_norm_ adds it to the norm that it divides by


@dataclass(frozen=True)
class Updating:
    """How parameters are updated. factors: of the rate, by parameter (1 where it is not named); clip_value: bounds of
    each gradient's elements; clip_norm: of the norm of all gradients together, after that.
    """

    optimizer: Optimizer
    factors: Mapping[str, float]
    clip_value: float | None = None
    clip_norm: float | None = None


@dataclass(frozen=True)
class StateInput:
    """An input that holds a state of a parameter: which one, and what its elements are before the first step."""

    name: str
    parameter: str
    state: str
    start: float


@dataclass(frozen=True)
class ScalarInput:
    """An input of shape [] that holds a number of the step: which one, for a factor of the rate, in a type."""

    name: str
    scalar: str
    factor: float
    dtype: DType


@dataclass(frozen=True)
class StepGraph:
    """A step. Inputs: the model's, the label, the parameters, those of `scalars`, `states` and `sums` (parameter ->
    input that holds the sum of its gradients so far, where a step goes over several batches). Outputs: `loss`, then
    what takes over the memory of inputs.
    """

    graph: Graph
    scalars: tuple[ScalarInput, ...]
    states: tuple[StateInput, ...]
    sums: Mapping[str, str]


def with_loss(graph: Graph, output: str, loss: Loss, label: str, kept: Sequence[str] = ()) -> Graph:
    """The graph with the loss of one of its outputs as its first output; after it those of `kept`, and what takes over
    the memory of inputs.
    """
    if label in graph.values():
        raise ShapeError(f"the model has a value named {label!r} already; give `label=` another name")
    builder = Builder(graph.name)
    values = copy_into(builder, graph)
    with builder.source("loss"):
        result = loss(builder, values[output], label)
    kept = list(dict.fromkeys((*kept, *(updated for _, updated in graph.updates))))
    made = builder.finish([result, *(values[name] for name in kept)], graph.updates, names=["loss", *kept])
    return DeadCode()(made)


def step_graph(
    graph: Graph,
    parameters: Sequence[str],
    updating: Updating,
    parts: int = 1,
    is_last: bool = True,
    memory: str = "fast",
) -> StepGraph:
    """The step of some inputs of a graph whose first output is the loss; others take over the inputs that
    `graph.updates` says. parts: batches whose gradients are averaged for an update, which the last one makes. memory:
    see `passes.recompute`.
    """
    loss, *kept = graph.outputs
    there = recomputed(gradient(PoolsFirst()(graph), loss, parameters), loss, memory)
    builder = Builder(graph.name)
    values = copy_into(builder, there)
    results = [values[name] for name in (loss, *kept)]
    step = _Step(builder, results, [*graph.outputs], list(graph.updates))
    gradients = {name: values[f"{name}.gradient"] for name in parameters}
    sums = step.accumulated(gradients, parts, is_last) if parts > 1 else {}
    scalars, states = ((), ()) if not is_last else step.updated({n: values[n] for n in parameters}, gradients, updating)
    return StepGraph(builder.finish(step.results, step.updates, names=step.names), scalars, states, sums)


def run_number(seed: int, run: int) -> int:
    """64 bits that make the draws of a run differ from those of others: SplitMix64 at the seed's place, twice."""
    return _mixed(_mixed(seed) + run)


def _mixed(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z ^ (z >> 31)


def updates_graph(
    builder: Builder, parameters: Mapping[str, Value], gradients: Mapping[str, Value], updating: Updating
) -> StepGraph:
    """The update alone, by gradients that are values of the builder's, as its inputs are: what `step_graph` ends in."""
    step = _Step(builder, [], [], [])
    scalars, states = step.updated(parameters, gradients, updating)
    return StepGraph(builder.finish(step.results, step.updates, names=step.names), scalars, states, {})


class _Step:
    """A graph in the making that outputs are added to which take over the memory of inputs."""

    def __init__(
        self, builder: Builder, results: list[Value], names: list[str], updates: list[tuple[str, str]]
    ) -> None:
        self.builder = builder
        self.results, self.names, self.updates = results, names, updates
        self._scalars: dict[tuple[str, float, DType], Value] = {}

    def replaced(self, name: str, value: Value) -> None:
        """`value` takes over the memory of the input `name`."""
        self.results.append(value)
        self.names.append(f"{name}.updated")
        self.updates.append((name, f"{name}.updated"))

    def accumulated(self, gradients: dict[str, Value], parts: int, is_last: bool) -> dict[str, str]:
        """Adds each gradient to its sum so far; with the last part the sums are the gradients, and begin anew."""
        b, sums = self.builder, {}
        for name, g in gradients.items():
            with b.source(f"update {name}"):
                so_far = b.input(f"{name}.sum", g.dtype, g.shape)
                total = b.one("add", [so_far, b.one("div", [g, composite.scalar(b, float(parts), g)])])
                sums[name], gradients[name] = so_far.name, total
                begun = b.one("full", [], shape=g.shape, value=0.0, dtype=g.dtype)
                self.replaced(so_far.name, begun if is_last else total)
        return sums

    def updated(
        self, parameters: Mapping[str, Value], gradients: Mapping[str, Value], updating: Updating
    ) -> tuple[tuple[ScalarInput, ...], tuple[StateInput, ...]]:
        """Adds the update of each parameter; which inputs it brings."""
        b, optimizer = self.builder, updating.optimizer
        states = []
        for name, g in _clipped(b, gradients, updating).items():
            p = parameters[name]
            with b.source(f"update {name}"):
                own = {state: b.input(f"{name}.{state}", p.dtype, p.shape) for state in optimizer.states()}
                states += [StateInput(own[s].name, name, s, start) for s, start in optimizer.states().items()]
                scalars = self._numbers(optimizer, updating.factors.get(name, 1.0), p.dtype)
                after, changed = optimizer.update(b, p, g, own, scalars)
                for state, value in changed.items():
                    self.replaced(own[state].name, value)
                self.replaced(name, after)
        return tuple(ScalarInput(v.name, *key) for key, v in self._scalars.items()), tuple(states)

    def _numbers(self, optimizer: Optimizer, factor: float, dtype: DType) -> dict[str, Value]:
        found = {}
        for scalar in optimizer.scalars(0.0, 1):
            key = (scalar, factor, dtype)
            if key not in self._scalars:
                self._scalars[key] = self.builder.input(f"optimizer.{scalar}", dtype, ())
            found[scalar] = self._scalars[key]
        return found


def _clipped(b: Builder, gradients: Mapping[str, Value], updating: Updating) -> dict[str, Value]:
    """The gradients within their bounds."""
    found = dict(gradients)
    with b.source("clip"):
        if updating.clip_value is not None:
            for name, g in found.items():
                low, high = (composite.scalar(b, bound, g) for bound in (-updating.clip_value, updating.clip_value))
                found[name] = composite.clip(b, g, low, high)
        if updating.clip_norm is not None:
            factor = _factor(b, list(found.values()), updating.clip_norm)
            found = {name: b.one("mul", [g, composite.cast(b, factor, g.dtype)]) for name, g in found.items()}
    return found


def _factor(b: Builder, gradients: Sequence[Value], bound: float) -> Value:
    """min(bound / norm, 1), of the norm of all gradients together."""
    wide = DType.F64 if any(g.dtype is DType.F64 for g in gradients) else DType.F32
    total = None
    for g in gradients:
        square = composite.reduce(b, b.one("mul", [g, g]), "sum", range(g.rank), keepdims=False) if g.rank else g
        square = composite.cast(b, square if g.rank else b.one("mul", [g, g]), wide)
        total = square if total is None else b.one("add", [total, square])
    assert total is not None
    norm = b.one("add", [b.one("sqrt", [total]), composite.scalar(b, _NORM_ROUNDING, total)])
    return b.one("min", [b.one("div", [composite.scalar(b, bound, norm), norm]), composite.scalar(b, 1.0, norm)])
