"""The rules of fusion, in the order in which they are tried on a reader and each of its sources."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mapsto.plan.rules.absorb import ABSORB
from mapsto.plan.rules.base import Refusal, Rule, SiblingRule
from mapsto.plan.rules.compose import COMPOSE
from mapsto.plan.rules.contract import contract
from mapsto.plan.rules.epilogue import EPILOGUE
from mapsto.plan.rules.rows import ROWS
from mapsto.plan.rules.siblings import SIBLINGS
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

__all__ = ["COMPOSE", "FORMS", "ROWS", "RULES", "SIBLING_RULES", "Form", "Refusal", "Rule", "SiblingRule"]

Form = Callable[[Task, Traits, Collection[str]], Task | Refusal]

RULES: tuple[Rule, ...] = (ABSORB, COMPOSE, EPILOGUE, ROWS)
# What a task by itself may be taken for, once what it sums is in.
FORMS: dict[str, Form] = {"contract": contract}
# Of tasks that read the same thing, once all others are done.
SIBLING_RULES: tuple[SiblingRule, ...] = (SIBLINGS,)
