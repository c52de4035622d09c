"""The rules of fusion, in the order in which they are tried on a reader and each of its sources."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.plan.rules.absorb import ABSORB
from mapsto.plan.rules.base import Refusal, Rule
from mapsto.plan.rules.compose import COMPOSE
from mapsto.plan.rules.epilogue import EPILOGUE
from mapsto.plan.rules.narrow import narrow
from mapsto.plan.rules.rows import ROWS
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

__all__ = ["FORMS", "RULES", "Form", "Refusal", "Rule"]

Form = Callable[[Task, Traits], Task | Refusal]

RULES: tuple[Rule, ...] = (ABSORB, COMPOSE, EPILOGUE, ROWS)
# What a task by itself may be taken for, once its sources are in.
FORMS: dict[str, Form] = {"narrow": narrow}
