"""What the results of a graph of torch's are: outputs of ours, what came in, numbers; and views of these.

What a module gives may be written into, so two results share memory only where they do in torch. What is kept for a
backward graph nobody else sees: it may look at whatever has its elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from mapsto.importers.torch.strides import Look, looked_at, row_major
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, bare_symbol, symbols
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
_VIEWS = (  # that keep the order of elements
    torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.unsqueeze.default,
    torch.ops.aten.squeeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims,
)  # fmt: skip
_NUMBERS = (torch.SymFloat, torch.SymInt, torch.SymBool)


@dataclass(frozen=True)
class TracedResult:
    """One result of the program: output `at` of the graph, the tensor of placeholder `feed` as it came in, or a number
    (`number`, which may be None). as_number: what is wanted of the output is a Python number. view: how the result
    looks at the output, or at the input as the graph has it.
    """

    at: int | None = None
    feed: int | None = None
    number: Any = None
    as_number: str = ""
    view: Look | None = None


@dataclass(frozen=True)
class Wanted:
    """A result: torch's node, what it has become, its name; whether it is kept for a backward graph alone."""

    node: Any
    made: Any
    name: str
    is_kept: bool = False


@dataclass
class TracedResults:
    """The outputs of the graph so far, and the results that are known. feeds: torch's placeholders, by their nodes;
    inputs: the same, by the names of the graph's inputs.
    """

    builder: Builder
    feeds: Mapping[Any, int]
    inputs: Mapping[str, int]
    values: list[Value] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    _made_of: dict[Any, int] = field(default_factory=dict)  # by torch's nodes: outputs
    _seen: dict[Any, int] = field(default_factory=dict)  # by what results look at: the output with its elements
    _taken: set[str] = field(default_factory=set)  # names

    def found(self, wanted: Sequence[Wanted], may_look: bool) -> tuple[TracedResult, ...]:
        """What all results are. may_look: whether some may be views of others."""
        self._taken.update(v.name for v in self.builder.inputs)
        sizes = {bare_symbol(d) for value in self.builder.inputs for d in value.shape}
        known: dict[int, TracedResult] = {}
        kept: dict[int, Wanted] = {}
        for at, each in enumerate(wanted):
            result = self._result(each, sizes if may_look else None)
            if result is None:
                kept[at] = each
            else:
                known[at] = result
        known.update(self._kept(kept))
        return tuple(known[at] for at in range(len(wanted)))

    def _result(self, wanted: Wanted, sizes: Set[str | None] | None) -> TracedResult | None:
        """None for what is kept, which may look at what others make. sizes: what inputs say of views' shapes; None: no
        result is a view.
        """
        raw, made, kind = wanted.node, wanted.made, ""
        if raw in self.feeds and isinstance(made, Value):
            return TracedResult(feed=self.feeds[raw])
        if isinstance(made, Expr):
            kind, made = "int", self.builder.known(made)
        elif isinstance(made, Value) and isinstance(raw.meta.get("val"), _NUMBERS):
            kind = "bool" if made.dtype is DType.BOOL else "float" if made.dtype.is_float else "int"
        if not isinstance(made, Value):
            return TracedResult(number=made)
        itself = _aliased(raw)
        if itself in self._made_of:
            return TracedResult(at=self._made_of[itself], as_number=kind)
        if sizes is not None and not kind and all(symbols(d) <= sizes for d in made.shape):
            if wanted.is_kept:
                return None
            root = _in_order(itself)
            if root in self._seen:  # a view in torch as well: it is no array of its own
                return TracedResult(at=self._seen[root], view=Look(made.shape))
            self._seen[root] = len(self.values)
        return TracedResult(at=self._output(made, wanted.name, itself), as_number=kind)

    def _output(self, value: Value, hint: str, itself: Any = None) -> int:
        name, k = hint, 1
        while name in self._taken:
            name, k = f"{hint}.{k}", k + 1
        self._taken.add(name)
        self.values.append(value)
        self.names.append(name)
        if itself is not None:
            self._made_of[itself] = len(self.values) - 1
        return len(self.values) - 1

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _kept(self, wanted: Mapping[int, Wanted]) -> dict[int, TracedResult]:
        looks = {at: looked_at(self.builder, each.made) for at, each in wanted.items()}
        groups: dict[str, list[int]] = {}
        for at, (base, _) in looks.items():
            groups.setdefault(base.name, []).append(at)
        found: dict[int, TracedResult] = {}
        for places in groups.values():
            base = looks[places[0]][0]
            found.update(self._looking(base, {at: (wanted[at], looks[at][1]) for at in places}))
        return found

    def _looking(self, base: Value, looking: Mapping[int, tuple[Wanted, Look]]) -> dict[int, TracedResult]:
        """Results that look at one value, which is in memory where they show all of it, or is anyway."""
        found: dict[int, TracedResult] = {}
        rest = {}
        for at, (wanted, look) in looking.items():
            shared = self._shared(base, wanted.node, look)
            if shared is None:
                rest[at] = (wanted, look)
            else:
                found[at] = shared
        fixed = base.name in self.inputs or base.name in self.builder.constants
        whole = _elements(base.shape) <= sum(_elements(look.shape) for _, look in rest.values())
        if not rest or fixed or not whole:
            found.update({at: self._own(wanted) for at, (wanted, _) in rest.items()})
            return found
        first, look = next(iter(rest.values()))
        output = self._output(base, first.name, _aliased(first.node) if look == Look(base.shape) else None)
        for at, (_, look) in rest.items():
            found[at] = TracedResult(at=output, view=None if look == Look(base.shape) else look)
        return found

    def _own(self, wanted: Wanted) -> TracedResult:
        itself = _aliased(wanted.node)
        at = self._made_of.get(itself)
        return TracedResult(at=self._output(wanted.made, wanted.name, itself) if at is None else at)

    def _shared(self, base: Value, node: Any, look: Look) -> TracedResult | None:
        """A view in torch as well of what comes in, or of what the module gives: no copy of it, as what is written into
        that until the backward graph runs is for torch to see.
        """
        while True:
            at = self._made_of.get(node)
            if at is not None and self.values[at] is base:
                return TracedResult(at=at, view=look)
            if node in self.feeds and self.inputs.get(base.name) == self.feeds[node]:
                return TracedResult(feed=self.feeds[node], view=look)
            target = getattr(node, "target", None)
            if target not in (*_ALIASES, *_VIEWS) and not getattr(target, "is_view", False):
                return None
            node = node.args[0]


def strides_of(result: TracedResult, outputs: Sequence[Sequence[Dim]], fed: Sequence[Any]) -> tuple[int, ...] | None:
    """Strides in elements of a result's tensor; None where they are open, or it is none. outputs: the shapes of the
    graph's outputs; fed: tensors that lie as those of placeholders.
    """
    if result.as_number or (result.at is None and result.feed is None):
        return None
    if result.view is not None and result.view.strides is not None:
        return result.view.strides
    if result.view is not None or result.at is not None:
        shape = result.view.shape if result.view is not None else outputs[result.at or 0]
        return row_major(shape) if all(isinstance(d, int) for d in shape) else None  # type: ignore[arg-type]
    strides = tuple(fed[result.feed or 0].stride())
    return strides if all(type(n) is int for n in strides) else None


def _elements(shape: Sequence[Any]) -> float:
    """How many there are; where that is open, as many as in anything else."""
    return math.prod(shape) if all(isinstance(d, int) for d in shape) else math.inf


def _aliased(raw: Any) -> Any:
    """The node whose tensor this is under another name."""
    while getattr(raw, "target", None) in _ALIASES:
        raw = raw.args[0]
    return raw


def _in_order(raw: Any) -> Any:
    """The node whose elements a view has, in the same order."""
    while getattr(raw, "target", None) in (*_ALIASES, *_VIEWS):
        raw = raw.args[0]
    return raw
