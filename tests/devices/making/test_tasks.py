"""Tasks one by one: the code of each schedule, how results are reached, in what types a constant is packed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.plan.support import asked

from mapsto.devices.contraction.packing import Packing
from mapsto.devices.cpu.functions import Functions
from mapsto.devices.cpu.isa import AVX512
from mapsto.devices.making.code import Shared, TaskCode
from mapsto.devices.making.contractions import template_reach
from mapsto.devices.making.packed import packed_b
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ir.text import parse_graph
from mapsto.ops.builder import Builder
from mapsto.plan.decide import decide
from mapsto.plan.home import Home
from mapsto.plan.items import tasks
from mapsto.plan.layout import blocked
from mapsto.plan.mapped import Mapped
from mapsto.plan.task import Task


def decided(graph: Graph, kind: str) -> tuple[Mapped, Task]:
    """What was decided of a graph, and its first task of this kind."""
    mapped = decide(graph, asked(graph))
    return mapped, next(task for task in tasks(mapped.items) if task.kind == kind)


def code_of(graph: Graph, task: Task, homes: dict[str, Home]) -> TaskCode:
    return TaskCode.of(Shared(Functions(AVX512, lambda name, text, optimizer: None)), task, homes, graph.constants)


def product(dtype: DType = DType.F32) -> Graph:
    b = Builder("g")
    x = b.input("x", dtype, (64, 50))
    w = b.constant(np.random.default_rng(0).standard_normal((50, 80)).astype(dtype.numpy), "w")
    return b.finish([b.one("matmul", [x, w])], names=["y"])


def two_results() -> Graph:
    """A product and what is above 0 of it, which are both read later."""
    return parse_graph(
        """graph g(x: f32[64, 96], w: f32[96, 128]) -> (z) {
          m: f32[64, 128] = matmul(x, w)
          y: f32[64, 128] = relu(m)
          t: f32[128, 64] = transpose(y) {perm: (1, 0)}
          z: f32[64, 64] = matmul(m, t)
        }"""
    )


def moved() -> Graph:
    b = Builder("g")
    x = b.input("x", DType.F32, (64, 48))
    return b.finish([b.one("exp", [b.one("transpose", [x], perm=(1, 0))])], names=["y"])


@pytest.mark.parametrize("kind", ["contraction", "rows"])
def test_each_schedule_of_one_kernel_gets_code_of_its_own(kind: str) -> None:
    """As where a plan has two works of one form, and the second is to be walked otherwise."""
    graph = product() if kind == "contraction" else moved()
    mapped, task = decided(graph, kind)
    maker = asked(graph)
    made = maker.make(task, mapped.homes)
    other = maker.make(task, mapped.homes, made.beaten[0].offer)
    again = maker.make(task, mapped.homes, made.offer)
    assert made.offer.template == other.offer.template and made.offer != other.offer
    assert [call.function for call in made.calls] != [call.function for call in other.calls]
    assert [call.function for call in made.calls] == [call.function for call in again.calls]


def test_results_are_stored_together_in_blocks_of_one_size_or_in_none() -> None:
    graph = two_results()
    mapped, task = decided(graph, "contraction")
    assert len(task.targets) == 2
    homes = dict(mapped.homes)
    assert template_reach(task, code_of(graph, task, homes)) is not None
    for name in task.targets:
        other = replace(homes[name], layout=blocked(homes[name].layout.shape, 1, 16))
        assert template_reach(task, code_of(graph, task, {**homes, name: other})) is None


def test_a_constant_is_packed_for_each_type_that_it_is_read_in() -> None:
    graph = product(DType.F16)
    mapped, task = decided(graph, "contraction")
    code = code_of(graph, task, dict(mapped.homes))
    packing = Packing(80, 50, (), 1, 0, 32, 16)
    for dtype in (DType.F16, DType.F32):
        name = packed_b(task.phases[0], packing, dtype, code, [])
        assert code.homes[name].dtype is dtype and np.asarray(code.packed[name]).dtype == dtype.numpy
