"""The plan: every decision as data, with its reason; printed, parsed, diffed, explained and replayed.

Text form, one decision a line (`#` starts a comment; the order of lines does not matter when a plan is replayed):

    plan <graph> for <instruction set>
    graph <digest> by mapsto <version>
    group <name> <kind> { <node>, <node>, ... } schedule "<...>"
      because "<reason>"
    home <value> : <dtype>[<shape>] inner <dim|-> in <buffer> layout "<...>"
      because "<reason>"
    step <number> <text>
    arena <bytes> bytes, at least <bytes> needed

A node is named by its first output; a name that is no plain word is quoted as in JSON. To edit a plan: move nodes
between groups (a group is only formed of nodes that the plan puts together), or change the `inner` dim of a home (the
dim that lies innermost: blocked by 16 where long enough; `-`: row-major).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from mapsto.arguments import brief, text_of
from mapsto.boundary import public
from mapsto.errors import ArgumentError, MapstoError, ParseError


@dataclass(frozen=True)
class GroupDecision:
    """What one kernel computes. `nodes`: first outputs of the nodes; `sources`: the source model's nodes that they
    stand for.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    schedule: str = ""
    cost: str = ""
    reasons: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)  # where it was read; 0: nowhere


@dataclass(frozen=True)
class HomeDecision:
    """Where a value lies. `inner`: the dim chosen to be innermost, None for row-major."""

    value: str
    type: str
    buffer: str
    layout: str
    inner: int | None
    reason: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """All decisions about one graph on one device. `digest` is the graph's, `version` that of mapsto: a plan is
    replayed where they are the same. `lines`: where the first words "plan" and "graph" were read.
    """

    graph: str
    isa: str
    groups: tuple[GroupDecision, ...]
    homes: tuple[HomeDecision, ...]
    steps: tuple[str, ...] = ()
    arena_bytes: int | None = None
    arena_bound: int | None = None
    digest: str = ""
    version: str = ""
    lines: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    code: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @public
    def text(self) -> str:
        """The text form; `parse(text)` gives an equal plan."""
        lines = [f"plan {_name(self.graph)} for {self.isa}"]
        lines.extend(f"graph {self.digest} by mapsto {self.version}" for _ in (0,) if self.digest)
        for g in self.groups:
            nodes = ", ".join(map(_name, g.nodes))
            lines.append(f"group {g.name} {g.kind} {{ {nodes} }} schedule {_quoted(g.schedule)}")
            lines.extend(f"  ops {', '.join(g.ops)}" for _ in (0,) if g.ops)
            lines.extend(f"  from {json.dumps(list(g.sources))}" for _ in (0,) if g.sources)
            lines.extend(f"  cost {_quoted(g.cost)}" for _ in (0,) if g.cost)
            lines.extend(f"  code {', '.join(g.functions)}" for _ in (0,) if g.functions)
            lines.extend(f"  because {_quoted(r)}" for r in g.reasons)
        for h in self.homes:
            inner = "-" if h.inner is None else str(h.inner)
            where = f"inner {inner} in {_name(h.buffer)} layout {_quoted(h.layout)}"
            lines.append(f"home {_name(h.value)} : {h.type} {where}")
            lines.extend(f"  because {_quoted(h.reason)}" for _ in (0,) if h.reason)
        lines.extend(f"step {number} {text}" for number, text in enumerate(self.steps))
        if self.arena_bytes is not None:
            lines.append(f"arena {self.arena_bytes} bytes, at least {self.arena_bound} needed")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "graph": self.graph,
            "isa": self.isa,
            "digest": self.digest,
            "version": self.version,
            "groups": [_data(g) for g in self.groups],
            "homes": [_data(h) for h in self.homes],
            "steps": list(self.steps),
            "arena_bytes": self.arena_bytes,
            "arena_lower_bound": self.arena_bound,
        }

    @public
    def explain(self, name: str) -> str:
        """Why a node (by the source model's name or by a value it yields) is where it is. Raises MapstoError where
        nothing has that name.
        """
        text_of(name, "the name of a node or value")
        groups = [g for g in self.groups if name in g.nodes or name in g.sources or name == g.name]
        homes = [h for h in self.homes if h.value == name or any(h.value in g.nodes for g in groups)]
        if not groups and not homes:
            raise MapstoError(
                f"nothing in the plan is named {name!r}; closest: {', '.join(self._closest(name)) or 'none'}"
            )
        lines = [f"{name}"]
        for g in groups:
            lines.append(
                f"  is computed by group {g.name} ({g.kind}), together with: {', '.join(g.sources or g.nodes)}"
            )
            lines.append(f"    schedule: {g.schedule or 'none'}")
            lines.extend(f"    cost: {g.cost}" for _ in (0,) if g.cost)
            lines.extend(f"    because {r}" for r in g.reasons)
        for h in homes:
            lines.append(f"  {h.value}: {h.type} lies in buffer {h.buffer} as {h.layout}")
            lines.extend(f"    because {h.reason}" for _ in (0,) if h.reason)
        if groups and not homes:
            lines.append("  its value is never in memory: it stays in registers or moves with its reader")
        return "\n".join(lines)

    def _closest(self, name: str) -> list[str]:
        import difflib

        known = [n for g in self.groups for n in (*g.nodes, *g.sources)] + [h.value for h in self.homes]
        return difflib.get_close_matches(name, known, 5)

    def together(self) -> list[frozenset[str]]:
        """The sets of nodes that the plan puts into one group each."""
        return [frozenset(g.nodes) for g in self.groups]

    def inner_dims(self) -> dict[str, int | None]:
        return {h.value: h.inner for h in self.homes}

    @public
    def difference(self, other: Plan) -> list[str]:
        """Lines that differ, as a unified diff from this plan to the other."""
        import difflib

        if not isinstance(other, Plan):
            raise ArgumentError(f"expected a Plan to compare with, got {brief(other)}")
        before, after = self.text().split("\n"), other.text().split("\n")
        return list(difflib.unified_diff(before, after, "this", "other", lineterm="", n=0))


def _data(decision: GroupDecision | HomeDecision) -> dict[str, Any]:
    return {key: value for key, value in vars(decision).items() if key != "line"}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_PLAIN = re.compile(r'[^\s,{}":#]+\Z')
_NAME = r'(?:[^\s,{}":#]+|"(?:[^"\\]|\\.)*")'  # as it is, or quoted: a model may call a value anything


def _name(name: str) -> str:
    return name if _PLAIN.match(name) else _quoted(name)


def _read_name(text: str) -> str:
    return _read_text(text) if text.startswith('"') else text


def _read_text(text: str) -> str:
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"{brief(text)} is no quoted text")
    return value


def _read_texts(text: str) -> tuple[str, ...]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{brief(text)} is no list of texts")
    return tuple(values)


_HEAD = re.compile(rf"plan (?P<graph>{_NAME}) for (?P<isa>\S+)$")
_ORIGIN = re.compile(r"graph (?P<digest>\S+) by mapsto (?P<version>\S+)$")
_GROUP = re.compile(
    rf"group (?P<name>\S+) (?P<kind>\S+) \{{ *(?P<nodes>(?:{_NAME}(?:, *{_NAME})*)?) *\}}"
    r' schedule (?P<schedule>".*")$'
)
_HOME = re.compile(
    rf"home (?P<value>{_NAME}) : (?P<type>.+) inner (?P<inner>-|\d+) in (?P<buffer>{_NAME}) layout (?P<layout>\".*\")$"
)
_ARENA = re.compile(r"arena (?P<bytes>\d+) bytes, at least (?P<bound>\d+) needed$")


@public
def parse(text: str) -> Plan:
    """Read the text form. Raises ParseError naming the line, ArgumentError for what is no text."""
    text_of(text, "plan")
    plan = Plan("", "", (), (), lines={})
    groups: list[GroupDecision] = []
    homes: list[HomeDecision] = []
    steps: list[str] = []
    last: list[Any] = groups
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            if head := _HEAD.match(line):
                _only_once(plan, "plan", number)
                plan = replace(plan, graph=_read_name(head["graph"]), isa=head["isa"])
            elif origin := _ORIGIN.match(line):
                _only_once(plan, "graph", number)
                plan = replace(plan, digest=origin["digest"], version=origin["version"])
            elif line.startswith("  "):
                if not last:
                    raise ValueError("a detail, but no decision before it")
                last[-1] = _detail(last[-1], line.strip())
            elif group := _GROUP.match(line):
                nodes = tuple(map(_read_name, re.findall(_NAME, group["nodes"])))
                groups.append(
                    GroupDecision(
                        group["name"], group["kind"], nodes, schedule=_read_text(group["schedule"]), line=number
                    )
                )
                last = groups
            elif home := _HOME.match(line):
                inner = None if home["inner"] == "-" else int(home["inner"])
                value, buffer = _read_name(home["value"]), _read_name(home["buffer"])
                homes.append(HomeDecision(value, home["type"], buffer, _read_text(home["layout"]), inner, line=number))
                last = homes
            elif line.startswith("step "):
                steps.append(line.split(" ", 2)[2])
            elif arena := _ARENA.match(line):
                plan = replace(plan, arena_bytes=int(arena["bytes"]), arena_bound=int(arena["bound"]))
            else:
                raise ValueError("not a line of a plan")
        except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
            raise ParseError(f"plan, line {number}: {error}: {brief(raw)}") from error
    if not plan.isa:
        raise ParseError("plan: the first line must be `plan <graph> for <instruction set>`")
    return replace(plan, groups=tuple(groups), homes=tuple(homes), steps=tuple(steps))


def _only_once(plan: Plan, key: str, number: int) -> None:
    if key in plan.lines:
        raise ValueError(f"line {plan.lines[key]} says that already")
    plan.lines[key] = number


def _detail(decision: Any, line: str) -> Any:
    word, _, rest = line.partition(" ")
    if isinstance(decision, HomeDecision) and word == "because":
        return replace(decision, reason=_read_text(rest))
    if isinstance(decision, GroupDecision):
        if word == "because":
            return replace(decision, reasons=(*decision.reasons, _read_text(rest)))
        if word == "from":
            return replace(decision, sources=_read_texts(rest))
        if word == "cost":
            return replace(decision, cost=_read_text(rest))
        if word in ("ops", "code"):
            names = tuple(name.strip() for name in rest.split(","))
            return replace(decision, ops=names) if word == "ops" else replace(decision, functions=names)
    raise ValueError(f"unknown detail {word!r}")
