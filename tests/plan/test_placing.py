"""A mapped graph as a problem of placement, and what comes of it on described devices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from mapsto.devices.cpu.isa import AVX512
from mapsto.devices.cpu.typical import typical
from mapsto.devices.described.maker import DescribedMaker
from mapsto.importers.onnx import load
from mapsto.ir.graph import Graph
from mapsto.machine.spec import Link, Machine
from mapsto.passes import run_passes
from mapsto.placement.model import latency
from mapsto.placement.place import place
from mapsto.placement.problem import PlacementProblem
from mapsto.plan.decide import decide
from mapsto.plan.items import Branches, tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.placing import WorksToPlace
from tests.importers.models import model, node, port
from tests.importers.test_light_models import weighted


def machine(faster: float = 4.0, bytes_a_second: float = 10e9) -> Machine:
    """A processor, and a device that does everything so many times as fast."""
    host = replace(typical(AVX512, 1), name="host", source="described")
    other = replace(
        host,
        name="other",
        peaks={key: figure * faster for key, figure in host.peaks.items()},
        rates={key: figure / faster for key, figure in host.rates.items()},
        moves={key: figure / faster for key, figure in host.moves.items()},
        levels=tuple(
            replace(v, read=v.read * faster, write=v.write * faster, together=v.together * faster) for v in host.levels
        ),
    )
    ways = (("host", "other"), ("other", "host"))
    return Machine((host, other), tuple(Link(a, b, bytes_a_second, 5e-6) for a, b in ways))


def problem(graph: Graph, figures: Machine) -> tuple[Mapped, PlacementProblem]:
    makers = [DescribedMaker(spec, graph.constants) for spec in figures.devices]
    mapped = decide(graph, makers[0])
    return mapped, WorksToPlace(mapped, makers, figures.links).problem("latency", {})


def squeezenet() -> Graph:
    return run_passes(load(weighted("light_squeezenet")))


def test_works_values_and_constants_of_a_network() -> None:
    graph = squeezenet()
    mapped, found = problem(graph, machine())
    every = list(tasks(mapped.items))
    assert [w.name for w in found.works] == [task.name for task in every]
    assert all(0 < w.seconds[1] < w.seconds[0] < math.inf for w in found.works)
    weights = sum(array.nbytes for array in graph.constants.values())
    assert 0.9 * weights < sum(w.holds for w in found.works) < 1.5 * weights
    assert found.writer.keys() | {v for w in found.works for v in w.reads} == set(range(len(found.values)))
    assert all(v in found.writer for v in found.outputs)
    assert found.links[0, 1].bus == found.links[1, 0].bus == 0
    said = [mapped.choices[task.name].quote.cost.seconds for task in every]
    assert [w.seconds[0] for w in found.works] == pytest.approx(said)


def test_a_fast_device_is_used_where_its_link_allows_it() -> None:
    graph = squeezenet()
    _, near = problem(graph, machine(4.0, 100e9))
    _, far = problem(graph, machine(4.0, 1e6))
    on_it = place(near)
    assert 1 in on_it.seats and on_it.seconds < 0.6 * latency(near, [0] * len(near.works))
    assert set(place(far).seats) == {0}


def test_branches_stay_on_the_host_and_views_are_no_works() -> None:
    nodes = [
        node("Reshape", ["x", "shape"], ["r"]),
        node("Relu", ["r"], ["a"]),
        node("If", ["c"], ["b"], then_branch=_branch("Exp"), else_branch=_branch("Neg")),
        node("Add", ["a", "b"], ["y"]),
    ]
    inputs = [port("x", [64, 64]), port("c", [], np.bool_)]
    built = run_passes(load(model(nodes, inputs, constants={"shape": np.array([4096])})))
    mapped, found = problem(built, machine())
    regions = [item.name for item in mapped.items if isinstance(item, Branches)]
    assert len(regions) == 1
    by_name = {w.name: w for w in found.works}
    assert by_name[regions[0]].seconds[1] == math.inf and 0 < by_name[regions[0]].seconds[0] < math.inf
    assert place(found).said == "proved optimal"


def _branch(op: str) -> object:
    return helper.make_graph([node(op, ["r"], ["o"])], op, [], [helper.make_empty_tensor_value_info("o")])
