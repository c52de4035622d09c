"""Costs decide: with a device whose prices are made up, what is chosen follows from them; what was beaten is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.devices.cpu.maker import CpuMaker
from mapsto.devices.cpu.traits import TRAITS
from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, sym
from mapsto.ir.graph import Graph, Value
from mapsto.ir.text import parse_graph
from mapsto.machine.cost import Cost, Tally
from mapsto.ops.builder import Builder
from mapsto.plan import seats
from mapsto.plan.asked import Quote
from mapsto.plan.decide import decide
from mapsto.plan.guesses import guesses
from mapsto.plan.home import Home
from mapsto.plan.items import tasks
from mapsto.plan.judge import judge
from mapsto.plan.layout import permuted
from mapsto.plan.mapped import Mapped, Taken, plan_of
from mapsto.plan.prices import Prices
from mapsto.plan.rules import Refusal
from mapsto.plan.task import Task
from mapsto.plan.works import Offer, Pins, Seats
from tests.plan.graphs import conv, small_cnn
from tests.plan.support import SPEC, asked

Pricing = Callable[[Task, Mapping[str, Home]], float]


class Priced:
    """A device with these prices, in seconds. `asked`: how often it was."""

    name = "priced"
    spec = SPEC
    machine = "made up"
    traits = TRAITS

    def __init__(self, seconds: Pricing, graph: Graph) -> None:
        self.seconds, self.asked = seconds, 0
        self.constants = dict(graph.constants)

    def offers(
        self, task: Task, homes: Mapping[str, Home], sizes: Mapping[str, int], distances: Any = None
    ) -> Sequence[Quote | Refusal]:
        self.asked += 1
        return (Quote("any", Cost(self.seconds(task, homes)), (Tally(),)),)


def is_blocked(home: Home) -> bool:
    return home.layout.block is not None


def blocked(task: Task, homes: Mapping[str, Home], graph: Graph) -> int:
    """How many of the graph's own values that a task touches lie in blocks: copies for its sake are not counted."""
    own = graph.values()
    return sum(is_blocked(homes[n]) for n in (*task.reads, *task.targets) if n in homes and n in own)


def works(mapped: Mapped) -> list[Task]:
    return [task for task in tasks(mapped.items) if task.recipe.rule != "copy"]


def chain(layers: int = 2) -> Graph:
    """Convolutions one after the other: what lies between two is free to lie as it likes."""
    b = Builder("chain")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    for _ in range(layers):
        x = conv(b, x, 16)
    return b.finish([x], names=["y"])


def seats_of(mapped: Mapped) -> Seats:
    assert mapped.basis is not None and mapped.basis.seats is not None
    return mapped.basis.seats


# -- seats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dear", [True, False])
def test_values_lie_as_costs_less_whatever_most_readers_want(dear: bool) -> None:
    graph = chain()

    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        count = blocked(task, homes, graph)
        return 10.0 + 100.0 * (count if dear else 3 - count)

    mapped = decide(graph, Priced(seconds, graph))
    found = seats_of(mapped)
    ((((value,), beaten)),) = found.beaten
    assert is_blocked(mapped.homes[value]) != dear
    assert (found.seconds < found.voted) == dear and found.exact and found.bound <= found.seconds
    assert beaten.of == ("1" if dear else "-") and beaten.loss > 0


def test_a_gain_within_what_prices_are_good_for_changes_nothing() -> None:
    graph = chain()

    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        if task.recipe.rule == "copy":
            return 0.0
        return 1.0 + 0.4 * seats.LEAST_GAIN * blocked(task, homes, graph)

    found = seats_of(decide(graph, Priced(seconds, graph)))
    assert found.seconds == found.voted > found.bound
    assert [b.loss < 0 for _, b in found.beaten] == [True]


@given(st.integers(0, 10**6))
def test_seats_are_the_least_of_all_and_never_worse_than_the_votes(seed: int) -> None:
    """Against every choice of three seats, with prices drawn by how operands lie."""

    graph = chain(4)

    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        lie = tuple(sum(is_blocked(homes[n]) for n in some if n in homes) for some in (task.reads, task.targets))
        return 1.0 + (hash((seed, task.recipe.rule == "copy", blocked(task, homes, graph), lie)) % 997) / 100

    device = Priced(seconds, graph)
    mapped = decide(graph, device)
    found = seats_of(mapped)
    sums = []
    for choice in itertools.product((1, None), repeat=3):
        free = [names[0] for names, _ in found.beaten]
        pins = Pins(inner=tuple(zip(free, choice, strict=True)))
        sums.append(sum(c.quote.cost.seconds for c in decide(graph, device, pins).choices.values()))
    assert found.seconds <= found.voted and found.bound <= found.seconds
    if found.seconds < found.voted:
        assert found.seconds == pytest.approx(min(sums), rel=0.005)
    assert min(sums) >= found.bound * 0.995


def test_a_pinned_value_is_no_seat() -> None:
    graph = chain()

    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        return 1.0 + 9.0 * blocked(task, homes, graph)

    (value,) = seats_of(decide(graph, Priced(seconds, graph))).beaten[0][0]
    mapped = decide(graph, Priced(seconds, graph), Pins(inner=((value, 1),)))
    assert is_blocked(mapped.homes[value]) and mapped.basis is not None and mapped.basis.seats is None


# -- fusion ------------------------------------------------------------------------------------------------------------


def activated() -> Graph:
    b = Builder("activated")
    return b.finish([b.one("relu", [conv(b, b.input("x", DType.F32, (1, 16, 8, 8)), 16)])], names=["y"])


def test_what_is_better_apart_is_fused_anew_without_it() -> None:
    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        return 10.0 if len(task.nodes) > 1 else 1.0

    graph = activated()
    found = works(decide(graph, Priced(seconds, graph)))
    assert [len(task.nodes) for task in found] == [1, 1]
    (refused,) = [r.why for task in found for r in task.refused]
    assert "one after the other they take" in refused


def test_what_is_better_together_stays_so_and_says_what_it_beat() -> None:
    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        return 1.5 if len(task.nodes) > 1 else 1.0

    graph = activated()
    mapped = decide(graph, Priced(seconds, graph))
    (task,) = works(mapped)
    (beaten,) = mapped.choices[task.name].beaten
    assert (beaten.how, beaten.loss) == ("apart", 0.5)
    taken = {each.name: Taken(Offer("rows")) for each in tasks(mapped.items)}
    # a plan that is replayed has no choices
    for decided, predicted, lost in ((mapped, 1.5, (beaten,)), (replace(mapped, choices={}), 0.0, ())):
        printed = {work.name: work for work in plan_of(decided, taken, "cpu", ("digest", "version")).works}
        assert (printed[task.name].predicted, printed[task.name].beaten) == (predicted, lost)


def test_what_is_worse_as_a_whole_is_not_taken() -> None:
    """Apart, the two seem to take less; that all the rest then takes more, only the whole tells."""
    graph = activated()
    apart = [False]

    def seconds(task: Task, homes: Mapping[str, Home]) -> float:
        apart[0] |= task.kind == "rows" and task.recipe.rule != "copy" and task.name != ""
        return 100.0 if apart[0] else 10.0 if len(task.nodes) > 1 else 1.0

    assert [len(task.nodes) for task in works(decide(graph, Priced(seconds, graph)))] == [2]


@pytest.mark.parametrize(("joined", "apart"), [(1.5, False), (1.99, False), (2.0, False), (2.03, False), (2.2, True)])
def test_only_what_loses_clearly_is_undone(joined: float, apart: bool) -> None:
    """Prices are good for some hundredths: a gain, or a loss within that, leaves two in one."""
    graph = activated()
    mapped = decide(graph, Priced(lambda task, homes: 1.0, graph))
    prices = Prices(Priced(lambda task, homes: joined if len(task.nodes) > 1 else 1.0, graph), {})
    assert bool(judge(mapped.items, mapped.homes, prices).undone) == apart


# -- prices ------------------------------------------------------------------------------------------------------------


def test_equal_forms_are_asked_about_once() -> None:
    graph = chain(6)
    device = Priced(lambda task, homes: 1.0, graph)
    prices = Prices(device, {})
    mapped = decide(graph, asked(graph))
    found = list(tasks(mapped.items))
    for task in found:
        prices.seconds(task, mapped.homes)
    assert device.asked < len(found)  # layers in the middle lie alike
    middle = found[2]
    before = device.asked
    prices.seconds(middle, mapped.homes)
    assert device.asked == before
    moved = {n: replace(h, dtype=DType.F16) if n in middle.targets else h for n, h in mapped.homes.items()}
    prices.seconds(middle, moved)
    assert device.asked == before + 1


def test_whether_an_operand_is_a_constant_makes_another_form() -> None:
    b = Builder("two")
    x, w = b.input("x", DType.F32, (8, 32)), b.input("w", DType.F32, (32, 16))
    fixed = b.constant(np.ones((32, 16), "float32"))
    graph = b.finish([b.one("matmul", [x, w]), b.one("matmul", [x, fixed])], names=["y", "z"])
    device = Priced(lambda task, homes: 1.0, graph)
    prices = Prices(device, {})
    mapped = decide(graph, asked(graph))
    for task in tasks(mapped.items):
        prices.seconds(task, mapped.homes)
    assert device.asked == 2


def test_how_operands_lie_and_how_far_they_are_makes_another_form() -> None:
    graph = chain(2)
    device = Priced(lambda task, homes: 1.0, graph)
    prices = Prices(device, {})
    mapped = decide(graph, asked(graph))
    task = works(mapped)[0]
    name = task.phases[0].a.tensor
    home = mapped.homes[name]
    turned = replace(home, layout=permuted(home.layout.shape, (0, 1, 3, 2)))
    for asked_for, homes, distances in (
        (1, mapped.homes, None),
        (2, {**mapped.homes, name: turned}, None),
        (3, mapped.homes, {name: 1e3}),
        (4, mapped.homes, {name: 1e6}),
        (4, mapped.homes, {name: 1e3}),
    ):
        prices.offers(task, homes, distances)
        assert device.asked == asked_for


def test_what_a_node_is_told_makes_another_form() -> None:
    """Running sums along the one axis and the other, of one shape."""
    b = Builder("two")
    x = b.input("x", DType.F32, (16, 16))
    sums = [b.one("cumsum", [x], axis=axis, exclusive=False, reverse=False) for axis in (0, 1)]
    graph = b.finish(sums, names=["y", "z"])
    device = Priced(lambda task, homes: 1.0, graph)
    prices = Prices(device, {})
    mapped = decide(graph, asked(graph))
    for task in tasks(mapped.items):
        prices.seconds(task, mapped.homes)
    assert device.asked == 2


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_open_sizes_are_guessed_and_a_user_may_say_them() -> None:
    graph = small_cnn(sym("h"), sym("w"))
    assert guesses(graph) == {"h": 64, "w": 64}
    small = decide(graph, asked(graph), Pins(sizes=(("h", 8), ("w", 8))))
    large = decide(graph, asked(graph))
    assert small.basis is not None and dict(small.basis.sizes) == {"h": 8, "w": 8}
    total = [sum(c.quote.cost.seconds for c in m.choices.values()) for m in (small, large)]
    assert total[0] < total[1] / 4
    with pytest.raises(ParseError, match="pin size n: the graph has no such size; open are: h, w"):
        decide(graph, asked(graph), Pins(sizes=(("n", 8),)))


def test_a_batch_is_taken_for_one() -> None:
    b = Builder("batch")
    x, y = b.input("x", DType.F32, (sym("n"), 8)), b.input("y", DType.F32, (sym("k"),))
    assert guesses(b.finish([b.one("relu", [x]), b.one("relu", [y])], names=["a", "b"])) == {"n": 1, "k": 64}


def taps(b: Builder, x: Value) -> Value:
    weights = b.constant(np.ones((16, 16, 40), "float32"))
    return b.one("conv", [x, weights], strides=(8,), pads=(0, 0), dilations=(1,), group=1)


def test_a_size_is_taken_for_as_much_as_a_window_needs() -> None:
    """Two strided convolutions of 40 taps: of 64 samples nothing would be left."""
    b = Builder("speech")
    x = b.input("x", DType.F32, (1, 16, sym("n")))
    for _ in range(2):
        x = taps(b, x)
    graph = b.finish([x], names=["y"])
    (size,) = guesses(graph).values()
    assert 64 < size <= 1024
    mapped = decide(graph, asked(graph))
    assert all(choice.quote.cost.seconds > 0 for choice in mapped.choices.values())


def test_a_size_that_no_shape_has_is_guessed_too() -> None:
    """It is read in the run, and says where something begins, or what of it is padding."""
    graph = parse_graph(
        """graph g(x: f32[8], s: i64[]) -> (y) {
          bind_dim(s) {symbol: "start"}
          y: f32[8] = relu(x)
        }"""
    )
    assert guesses(graph) == {"start": 64}


def test_what_no_guess_makes_right_is_left_as_it_was() -> None:
    b = Builder("never")
    x, n = b.input("x", DType.F32, (1, 16, sym("n"))), sym("n")
    y = b.one("slice", [x], starts=(0, 0, 0), steps=(1, 1, 1), shape=(1, 16, floordiv(n, n + 1)))
    assert guesses(b.finish([y], names=["y"])) == {"n": 64}


def test_guesses_that_do_not_go_together_price_no_less_than_nothing() -> None:
    """What no guess makes right: sizes pinned so that nothing is left, or more than all memory."""
    b = Builder("speech")
    x = b.input("x", DType.F32, (1, 16, sym("n")))
    y = taps(b, x)
    graph = b.finish([b.one("reduce", [y], kind="mean", axes=(2,), keepdims=False)], names=["y"])
    for size in (0, 1, 10**18):
        mapped = decide(graph, asked(graph), Pins(sizes=(("n", size),)))
        assert all(0 <= choice.quote.cost.seconds < float("inf") for choice in mapped.choices.values())


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_maker_quotes_loops_where_they_could_be_less_than_its_template() -> None:
    b = Builder("products")
    x = b.input("x", DType.F32, (512, 512))
    y = b.input("y", DType.F32, (2, 20))
    weights = [b.constant(np.ones(shape, "float32")) for shape in ((512, 512), (20, 6))]
    graph = b.finish([b.one("matmul", [x, weights[0]]), b.one("matmul", [y, weights[1]])], names=["p", "q"])
    device: CpuMaker = asked(graph)
    mapped = decide(graph, device)
    large, small = (device.offers(task, mapped.homes, {}) for task in tasks(mapped.items))
    assert isinstance(large[0], Quote) and large[0].template == "tiles"
    assert isinstance(large[1], Refusal) and "loops: they would take" in large[1].why
    assert {quote.template for quote in small if isinstance(quote, Quote)} == {"tiles", "loops"}
