"""A device is one folder: a maker that only plans has plans of its own, which are printed, read and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.plan.support import SPEC
from tests.session.support import parse
from tests.session.test_branches import CASES

from mapsto.devices.described.maker import TRAITS, DescribedMaker
from mapsto.devices.maker import Made, Maker
from mapsto.errors import ParseError
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.plan.decide import decide
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped, Taken, plan_of
from mapsto.plan.plan import Offer, Plan
from mapsto.plan.plan import parse as parse_plan
from mapsto.plan.replay import check_origin, replay
from mapsto.plan.traits import Traits
from mapsto.session.compile import prepared
from mapsto.version import VERSION

GRAPHS: dict[str, Graph] = {
    "cnn": small_cnn(),
    "open cnn": small_cnn(sym("h"), sym("w")),
    "layer norm": layer_norm_rows(),
    "branches": prepared(parse(CASES["several nodes"]), None),
}


def board(traits: Traits = TRAITS) -> DescribedMaker:
    return DescribedMaker(replace(SPEC, name="board-9", maker="described", source="described"), traits=traits)


def made(mapped: Mapped, maker: Maker, offers: Mapping[str, Offer]) -> dict[str, Made]:
    return {task.name: maker.make(task, mapped.homes, offers.get(task.name)) for task in tasks(mapped.items)}


def planned(mapped: Mapped, maker: Maker, offers: Mapping[str, Offer]) -> Plan:
    taken = {name: Taken(each.offer, each.because) for name, each in made(mapped, maker, offers).items()}
    return plan_of(mapped, taken, maker.name, (graph_digest(mapped.graph), VERSION))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_plan_for_a_device_that_is_not_there(name: str) -> None:
    graph, maker = GRAPHS[name], board()
    plan = planned(decide(graph, maker), maker, {})
    text = plan.text()
    assert text.splitlines()[0].endswith(" for board-9") and text.count("as described") == len(plan.works) > 0
    assert parse_plan(text) == plan
    again = replay(parse_plan(text), graph)
    offers = {work.name: work.offer for work in parse_plan(text).works}
    assert made(again, maker, offers).keys() == {work.name for work in plan.works}
    assert all(not each.calls and not each.homes for each in made(again, maker, offers).values())
    with pytest.raises(ParseError, match="for: board-9, but code is made for avx2"):
        check_origin(parse_plan(text), (graph_digest(graph), VERSION), "avx2", maker.traits)


def test_a_plan_is_laid_as_its_maker_asks() -> None:
    """Blocks of its own size or none, and no contraction that is too small for its template."""
    graph, usual = GRAPHS["cnn"], board().traits
    for traits in (usual, replace(usual, block=4, least_blocked=4), replace(usual, block=0)):
        maker = board(traits)
        plan = planned(decide(graph, maker), maker, {})
        blocks = {home.layout.block[1] for home in plan.homes.values() if home.layout.block}
        assert blocks == ({traits.block} if traits.block else set())
        again = parse_plan(plan.text())
        assert again == plan and planned(replay(again, graph), maker, {}).homes == plan.homes
        with pytest.raises(ParseError, match="line 3: traits: .*, but board-9 asks for block 7, "):
            check_origin(again, (graph_digest(graph), VERSION), "board-9", replace(usual, block=7))
    found = [work.kind for work in planned(decide(graph, board()), board(), {}).works]
    maker = board(replace(usual, least_columns=10**6))
    wide = [work.kind for work in planned(decide(graph, maker), maker, {}).works]
    assert "contraction" in found and "contraction" not in wide


def test_offers_of_other_devices_are_refused() -> None:
    maker = board()
    mapped = decide(small_cnn(), maker)
    task = next(tasks(mapped.items))
    for offer in (Offer("loops"), replace(maker.make(task, mapped.homes).offer, schedule="inner x16 of 2")):
        with pytest.raises(ParseError, match=f"work {task.name}: board-9 is only described"):
            maker.make(task, mapped.homes, offer)
