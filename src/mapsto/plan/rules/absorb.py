"""absorb: a contraction reads through reshapes and transposes of its operand, where its places stay linear."""

from __future__ import annotations

from dataclasses import replace

from mapsto.ir.expr import product
from mapsto.ir.graph import Value
from mapsto.kernel.compose import is_movement
from mapsto.plan.access import access
from mapsto.plan.contraction import Contraction, absorb
from mapsto.plan.home import layout_for
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Around, Refusal, Rule
from mapsto.plan.task import Task, joined_nodes


def _allowed(source: Task, reader: Task, value: str, around: Around) -> str:
    return "" if only_moves(source) else f"{value} is more than moved data"


def _join(source: Task, reader: Task, value: str) -> Task | Refusal:
    if len(reader.phases) != 1 or reader.phases[0].a.tensor != value or reader.targets[-1] in reader.reads:
        return Refusal(f"{value} is not the operand that is read by strides")
    if not only_moves(source):
        return Refusal(f"{value} is more than moved data")
    phase = absorb(reader.phases[0], source.stmts[0])
    if phase is None:
        return Refusal(f"read through {value}, places would not be linear")
    return replace(
        reader,
        recipe=made("absorb", source.recipe, reader.recipe),
        nodes=joined_nodes(source.nodes, reader.nodes),
        phases=(phase,),
        because=(*reader.because, f"{value} only moves {phase.a.tensor}: read where that lies"),
    )


def _pays(source: Task, reader: Task, value: str, joined: Task, around: Around) -> str:
    """Nothing is computed, and nothing is read twice; but what lies otherwise than it is multiplied is copied whole."""
    (phase,) = joined.phases
    whole = around.value(phase.a.tensor)
    if not _can_lie(phase, whole):
        return f"however {whole.name} lay, what is summed over would be elements apart"
    along = around.columns(phase.a.tensor)
    if along is None or along == phase.channel_dim:
        return ""
    part, all_of_it = (product(around.value(name).shape) for name in (value, whole.name))
    if isinstance(part, int) and isinstance(all_of_it, int) and part >= all_of_it or part == all_of_it:
        return ""
    return f"{value} is a part of {whole.name}, which is made along its dim {along} and read along {phase.channel_dim}"


def _can_lie(c: Contraction, value: Value) -> bool:
    """Whether some layout of A has neighbours side by side that are summed over."""
    layouts = (layout_for(value.shape, c.channel_dim, c.traits, (), whole) for whole in (False, True))
    return c.slides or any(access(c, c.a.index, layout, c.channels[0].name, None) is not None for layout in layouts)


def only_moves(task: Task) -> bool:
    return task.kind == "rows" and len(task.stmts) == 1 and is_movement(task.stmts[0])


ABSORB = Rule("absorb", "contraction", "rows", _allowed, _join, _pays)
