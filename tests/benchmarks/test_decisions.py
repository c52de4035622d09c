"""Which decisions the benchmark of decisions looks at, draws and forces. Nothing is timed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.decisions.__main__ import Opened, agree, opened
from benchmarks.decisions.force import NotForced, forced_plan, pairs_apart, took, with_offer
from benchmarks.decisions.pool import MAPPED, Decision, Draw, Window, decisions, looked_at
from benchmarks.decisions.timing import differing, differing_seconds
from benchmarks.models import ROOT, Case

import mapsto
from mapsto.errors import MapstoError
from mapsto.ir.dtypes import DType
from mapsto.kernel.ast import Load, Stmt
from mapsto.plan.plan import Plan
from mapsto.plan.recipe import parse_recipe
from mapsto.plan.task import Task
from mapsto.plan.works import Basis, Beaten, Offer, PlannedRegion, Seats, Work
from mapsto.runtime.executable import Executable
from mapsto.runtime.profile import StepTime

DIGITS = Case("digits", ROOT / "examples" / "mnist-cnn.onnx", [{"image": np.ones((4, 1, 28, 28), np.float32)}])


def work(name: str, predicted: float, *beaten: Beaten, writes: Sequence[str] = (), recipe: str = "a") -> Work:
    parsed = parse_recipe(recipe)
    return Work(name, "rows", parsed, tuple(writes), Offer("loops", "s"), predicted=predicted, beaten=beaten)


def task(recipe: str) -> Task:
    return Task("rows", parse_recipe(recipe), ())


class Doubled:
    """An executable that gives twice what another one does."""

    def __init__(self, exe: Executable) -> None:
        self.exe = exe

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        return 2 * self.exe(*inputs)


# -- which decisions there are -----------------------------------------------------------------------------------------


def test_the_runner_up_is_the_beaten_way_that_loses_least() -> None:
    far, near = Beaten("as", "tiles", "", 3.0), Beaten("as", "loops", "t", 1.0)
    apart = Beaten("apart", "v", "", 0.5)
    plan = Plan("g", "isa", items=(work("g0", 10.0, far, apart, near),))
    found = list(decisions("m", plan, {"g0": task("a")}))
    assert [(d.kind, d.runner_up, d.predicted, d.work) for d in found] == [
        ("as", near, 10.0, "g0"),
        ("apart", apart, 10.0, "g0"),
    ]


def test_a_seat_is_about_all_works_that_write_or_read_its_values() -> None:
    wide, narrow = Beaten("inner", "2", "", 4.0), Beaten("inner", "-", "", 2.0)
    seats = Seats(9.0, 9.0, 9.0, "exact", True, ((("x", "y"), wide), (("x", "y"), narrow)))
    works = work("g0", 1.0, writes=["x"]), work("g1", 2.0, writes=["z"]), work("g2", 4.0, writes=["w"])
    plan = Plan("g", "isa", items=works, basis=Basis("d", "measured", seats=seats))
    reader = replace(task("a"), stmts=(Stmt("w", DType.F32, (), Load("y", (), DType.F32)),))
    (found,) = decisions("m", plan, {"g0": task("a"), "g1": task("a"), "g2": reader})
    assert (found.kind, found.runner_up, found.values, found.predicted) == ("inner", narrow, ("x", "y"), 5.0)


def test_only_losses_that_a_clock_can_see_and_that_are_near_are_looked_at() -> None:
    window = Window(least=0.1, most=0.5, seconds=1e-6)
    assert window.holds(2e-6, 1e-5)
    assert not window.holds(0.9e-6, 4e-6)  # too short
    assert not window.holds(2e-6, 1e-4)  # too small a share
    assert not window.holds(6e-6, 1e-5)  # too large a share
    assert not window.holds(-2e-6, 1e-5)


def decision(name: str, kind: str, loss: float = 1e-6, what: str = "") -> Decision:
    return Decision("m", Beaten(kind, f"of {name}", "", loss), 1e-5, work=name, what=what or name)


def test_equal_decisions_count_once() -> None:
    twins = [decision("g0", "apart", what="conv"), decision("g1", "apart", what="conv")]
    others = [decision("g2", "apart", what="relu"), decision("g3", "apart", 2e-6, "conv")]
    assert looked_at([*twins, *others], Window()) == [twins[0], *others]


# -- drawing -----------------------------------------------------------------------------------------------------------


def taken(draw: Draw) -> list[Decision]:
    found = []
    while (one := draw.next()) is not None:
        found.append(one)
    return found


POOL = [decision(f"g{n}", "as" if n % 4 else ("apart", "inner")[n // 4 % 2]) for n in range(40)]


def test_so_many_of_what_the_plan_decides_are_drawn_and_none_twice() -> None:
    found = taken(Draw(POOL, 20, 8, 3))
    assert len({d.work for d in found}) == 20
    assert all(d.kind in MAPPED for d in found[:8])
    assert found == taken(Draw(POOL, 20, 8, 3))
    assert found != taken(Draw(POOL, 20, 8, 4))


def test_where_there_are_too_few_of_a_kind_others_take_their_places() -> None:
    found = taken(Draw([d for d in POOL if d.kind == "as"][:5], 20, 8, 0))
    assert Counter(d.kind for d in found) == {"as": 5}


def test_what_cannot_be_forced_is_replaced_by_one_of_its_sort() -> None:
    draw = Draw(POOL, 4, 2, 0)
    first = draw.next()
    assert first is not None and first.kind in MAPPED
    draw.again(first)
    rest = taken(draw)
    assert len(rest) == 4 and first not in rest and all(d.kind in MAPPED for d in rest[:2])


# -- forcing -----------------------------------------------------------------------------------------------------------


def test_the_parts_of_the_last_join_are_kept_apart_pair_by_pair() -> None:
    nodes = {"a", "b", "c", "d"}
    assert pairs_apart(parse_recipe("rows(a, b, compose(c, d))"), nodes) == (
        ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"),
    )  # fmt: skip
    assert pairs_apart(parse_recipe("reading(epilogue(a, b), a, x)"), nodes) == (("a", "b"),)
    # b is computed in both parts, x is no node
    assert pairs_apart(parse_recipe("rows(compose(b, a), compose(b, reading(c, x, y)))"), nodes) == (("a", "c"),)


@pytest.mark.parametrize("recipe", ["a", "copy(a, b)", "rows(a, a)"])
def test_what_is_no_join_of_different_nodes_cannot_be_kept_apart(recipe: str) -> None:
    with pytest.raises(NotForced):
        pairs_apart(parse_recipe(recipe), {"a", "b"})


def test_a_work_in_a_nested_graph_is_given_another_offer() -> None:
    plan = Plan("g", "isa", items=(work("g0", 1.0), PlannedRegion("g1", "n", ((work("g2", 1.0),), (work("g3", 1.0),)))))
    made = with_offer(plan, "g3", "tiles", "")
    assert [w.offer for w in made.works] == [Offer("loops", "s"), Offer("loops", "s"), Offer("tiles", None)]
    assert with_offer(plan, "g3", "loops", "t").works[2].offer == Offer("loops", "t")


@pytest.fixture(scope="module")
def digits() -> Opened:
    return opened(DIGITS, 1)


def test_runner_ups_of_each_kind_are_forced_on_a_real_plan(digits: Opened) -> None:
    """By whatever figures it is planned: not each runner-up can be forced, but some of each kind."""
    done: Counter[str] = Counter()
    for each in digits.decisions:
        try:
            forced = forced_plan(each, digits.plan, digits.nodes)
            exe = mapsto.compile(DIGITS.model, shapes=DIGITS.shapes, threads=1, plan=forced)
        except (NotForced, MapstoError):
            continue
        if took(each, digits.plan, exe.plan) == "":
            agree(digits.exe, exe, digits.inputs)
            done[each.kind] += exe.program.steps != digits.exe.program.steps
    assert all(done[kind] for kind in ("as", "apart", "inner"))


def test_a_plan_that_is_as_before_did_not_take_the_runner_up(digits: Opened) -> None:
    kinds = {each.kind: each for each in digits.decisions}
    assert took(kinds["apart"], digits.plan, digits.plan) == "it has the same work again"
    assert took(kinds["inner"], digits.plan, digits.plan) == "its values lie as before"


def test_other_results_are_told(digits: Opened) -> None:
    agree(digits.exe, digits.exe, digits.inputs)
    with pytest.raises(MapstoError, match="output 0"):
        agree(digits.exe, Doubled(digits.exe), digits.inputs)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_calls_of_equal_functions_cancel_as_often_as_both_have_them() -> None:
    assert differing(["k", "k", "k", "m"], ["k", "m", "n"]) == {"k": pytest.approx(2 / 3)}
    assert differing(["k", "m", "n"], ["k", "k", "k", "m"]) == {"n": 1.0}


def test_seconds_of_steps_that_differ_are_of_one_run() -> None:
    times = [
        StepTime(0, "k", "", (), 1000.0, 4),
        StepTime(1, "m", "", (), 500.0, 2),
        StepTime(2, "k", "", (), 3000.0, 4),
    ]
    assert differing_seconds(times, {"k": 0.5}, runs=2) == pytest.approx((2 * 1e-6 + 2 * 3e-6) * 0.5)
