"""A plan that takes the runner-up of one decision: as text for what a plan can say, as pins for what it must decide."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from benchmarks.decisions.pool import Decision
from mapsto.plan.edits import unedited
from mapsto.plan.plan import Plan
from mapsto.plan.recipe import Recipe
from mapsto.plan.rules import RULES
from mapsto.plan.works import Offer, Pins, PlannedItem, PlannedRegion, Work


class NotForced(Exception):
    """There is no plan that takes this runner-up, or what was made is no other program there."""


def forced_plan(decision: Decision, plan: Plan, nodes: Set[str]) -> Plan:
    """The plan to compile by. nodes: of the graph, by first outputs and by all outputs. Raises NotForced."""
    if decision.kind == "as":
        return with_offer(plan, decision.work, decision.runner_up.of, decision.runner_up.schedule)
    if decision.kind == "apart":
        work = next(w for w in plan.works if w.name == decision.work)
        return Plan(plan.graph, plan.device, pins=Pins(apart=pairs_apart(work.recipe, nodes)))
    dim = None if decision.runner_up.of == "-" else int(decision.runner_up.of)
    inner = tuple((name, dim) for name in decision.values if name in nodes)
    if not inner:
        raise NotForced("none of its values is one of the graph's")
    return Plan(plan.graph, plan.device, pins=Pins(inner=inner))


def with_offer(plan: Plan, name: str, template: str, schedule: str) -> Plan:
    """The plan with one work made otherwise; without a schedule it is left to the maker, of this template."""
    offer = Offer(template, schedule or None)

    def changed(item: PlannedItem) -> PlannedItem:
        if isinstance(item, PlannedRegion):
            return replace(item, arms=tuple(tuple(map(changed, arm)) for arm in item.arms))
        return replace(item, offer=offer) if isinstance(item, Work) and item.name == name else item

    return replace(plan, items=tuple(map(changed, plan.items)))


def pairs_apart(recipe: Recipe, nodes: Set[str]) -> tuple[tuple[str, ...], ...]:
    """Each node of one part of the last join with each of the other; what is computed in both is in neither. Raises
    NotForced.
    """
    recipe = unedited(recipe)
    if recipe.rule not in {rule.name for rule in RULES} or len(recipe.parts) < 2:
        raise NotForced("the last step of its recipe is no join")
    source = {name for part in recipe.parts[:-1] for name in part.leaves()} & nodes
    reader = set(recipe.parts[-1].leaves()) & nodes
    pairs = tuple((a, b) for a in sorted(source - reader) for b in sorted(reader - source))
    if not pairs:
        raise NotForced("both parts compute the same nodes")
    return pairs


def took(decision: Decision, base: Plan, made: Plan) -> str:
    """ "" where a plan that was made by pins does what they say, else what it does instead."""
    if decision.kind == "apart":
        recipe = next(unedited(w.recipe) for w in base.works if w.name == decision.work)
        return "it has the same work again" if recipe in {unedited(w.recipe) for w in made.works} else ""
    if decision.kind == "inner":
        return "" if any(_lie_otherwise(name, base, made) for name in decision.values) else "its values lie as before"
    return ""


def _lie_otherwise(name: str, base: Plan, made: Plan) -> bool:
    before, after = base.homes.get(name), made.homes.get(name)
    return (before is None) != (after is None) or (
        before is not None and after is not None and before.layout != after.layout
    )
