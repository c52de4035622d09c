"""What one compile may ask for (`Budget`) and what it has asked for so far (`Meter`).

A model file is small; what it asks for may not be: 60 functions that call each other twice are 2^60 nodes, one
attribute is a stride of 10^9. Whoever does work that grows with what a file says charges it here first, before the
work is done. The meter of a compile is carried by a context variable, so that code deep down charges without being
handed anything:

    with metering(Budget(nodes=1000)) as meter:
        ...
        current().charge("nodes", 1, "the model's nodes")

Three kinds of limits: sums over a compile (`charge`), sizes of one thing (`check`), and sums that are asked before
something that need not be done at all (`afford`: a product of constants that is too dear to fold is left to the run).
docs/limits.md lists every one with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields

from mapsto.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """The limits of one compile.

    Sums over the compile:
    seconds: of the whole; looked at wherever something is charged.
    bytes: of the file and of its external data.
    tensors: bytes of the tensors read out of the file itself, besides 8 for each of its bytes (a function's body is
    read at each of its calls).
    nodes: nodes of the model, those of branches and of the bodies of called functions included.
    inlined: of those, the nodes that come from the bodies of functions.
    bodies: names, attributes and numbers in the bodies of functions, read at each call.
    steps: nodes that the model's nodes become, an LSTM's and an Einsum's parts included.
    terms: products of terms multiplied out, and elements followed, in the algebra of sizes.
    text: characters of the names that called functions and branches give their nodes.
    sources: source nodes named by nodes that stand for more than 64 of them.
    code: characters of LLVM IR.

    Sums over the compile that are not gone past but lead to less being done early:
    folded_bytes: results folded when compiling, besides 8 bytes for each byte of the model's own constants.
    folded_operations: additions, multiplications, moves of elements that numpy does for it, besides 8 for each element.
    native_operations: the same, by compiled code that runs while compiling (packed weights), besides 16 an element.

    Sizes of one thing:
    depth: graphs and functions nested in each other.
    rank: axes of a tensor.
    name: characters of a name.
    each: nodes that one node of the model becomes, besides 64 for each of its inputs and outputs.
    operands: inputs and outputs of one node.
    inputs: of the model, without its initializers.
    outputs: of the model.
    """

    seconds: float = 3600.0
    bytes: int = 16 << 30
    tensors: int = 1 << 27
    nodes: int = 500_000
    inlined: int = 100_000
    bodies: int = 4_000_000
    steps: int = 2_000_000
    terms: int = 1 << 20
    text: int = 1 << 26
    sources: int = 1 << 22
    code: int = 1 << 30
    folded_bytes: int = 1 << 28
    folded_operations: int = 1 << 28
    native_operations: int = 1 << 30
    depth: int = 32
    rank: int = 32
    name: int = 1 << 14
    each: int = 4096
    operands: int = 4096
    inputs: int = 16_384
    outputs: int = 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise BudgetError(f"budget: {field.name}={value!r} is not a positive number")


def budget_of(given: Budget | Mapping[str, float]) -> Budget:
    """A budget from one, or from the limits by name that differ from the defaults. Raises BudgetError."""
    if isinstance(given, Budget):
        return given
    if not isinstance(given, Mapping):
        raise BudgetError(f"budget: {type(given).__name__} is neither a Budget nor a mapping from names to numbers")
    known = [field.name for field in fields(Budget)]
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise BudgetError(f"budget: there is no limit named {', '.join(unknown)}; there are {', '.join(known)}")
    return Budget(**given)  # type: ignore[arg-type]  # the values are checked when it is made


_GIVEN_UP: ContextVar[Callable[[], bool] | None] = ContextVar("mapsto_given_up", default=None)


@contextmanager
def giving_up_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Compiles inside end with a BudgetError once this is true."""
    token = _GIVEN_UP.set(asked)
    try:
        yield
    finally:
        _GIVEN_UP.reset(token)


class Meter:
    """What one compile has spent of its budget. `earned`: what the model's own size adds to a limit."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent: dict[str, float] = {}
        self.earned: dict[str, float] = {}
        self._began = time.monotonic()
        self._is_given_up = _GIVEN_UP.get()

    def allowed(self, name: str) -> float:
        limit: float = getattr(self.budget, name)
        return limit + self.earned.get(name, 0)

    def earn(self, name: str, amount: float) -> None:
        """Raises a limit by what the model's own size allows."""
        self.earned[name] = self.earned.get(name, 0) + amount

    def charge(self, name: str, amount: float, what: str) -> None:
        """Spends, before the work is done. Raises BudgetError, saying `what` it is for, where that is too much."""
        total = self.spent.get(name, 0) + amount
        if total > self.allowed(name):
            raise BudgetError(_message(name, what, total, self.allowed(name)))
        self.spent[name] = total
        self.tick(what)

    def check(self, name: str, size: float, what: str) -> None:
        """Raises BudgetError where one thing is larger than it may be."""
        if size > self.allowed(name):
            raise BudgetError(_message(name, what, size, self.allowed(name)))

    def afford(self, name: str, amount: float) -> bool:
        """Spends where the budget allows it; False, and nothing spent, where it does not."""
        total = self.spent.get(name, 0) + amount
        if total > self.allowed(name):
            return False
        self.spent[name] = total
        return True

    def tick(self, what: str) -> None:
        """Raises BudgetError where the time is up, or nobody needs the compile any more."""
        if self._is_given_up is not None and self._is_given_up():
            raise BudgetError(f"{what}: the compile is given up, as it is not needed any more")
        spent = time.monotonic() - self._began
        if spent > self.budget.seconds:
            raise BudgetError(_message("seconds", what, round(spent, 1), self.budget.seconds))


def _message(name: str, what: str, needed: float, allowed: float) -> str:
    return (
        f"{what}: {needed:,} {_UNITS.get(name, name)} are needed, {allowed:,} are allowed; "
        f"if the model is to be trusted, raise the limit: budget={{{name!r}: ...}}, or --budget {name}=..."
    )


_UNITS = {
    "tensors": "bytes of tensors",
    "terms": "terms of size expressions",
    "inlined": "nodes of called functions",
    "bodies": "names and numbers of called functions",
    "steps": "nodes after import",
    "text": "characters of names",
    "code": "characters of LLVM IR",
    "sources": "names of source nodes",
    "depth": "levels of nesting",
    "rank": "axes",
    "name": "characters of a name",
    "each": "nodes for one of the model",
    "operands": "inputs and outputs of a node",
    "inputs": "inputs of the model",
    "outputs": "outputs of the model",
    "folded_bytes": "bytes of folded constants",
    "folded_operations": "operations on constants",
    "native_operations": "operations on constants",
}

_CURRENT: ContextVar[Meter | None] = ContextVar("mapsto_meter", default=None)
_USUAL = Budget()
_DEFAULT: ContextVar[Budget] = ContextVar("mapsto_budget", default=_USUAL)


def current() -> Meter:
    """The meter of the compile that is going on; outside of one, a fresh one with the defaults."""
    return _CURRENT.get() or Meter(default())


def metered() -> bool:
    """Whether the meter of a compile is running: what is compiled now has what that leaves."""
    return _CURRENT.get() is not None


def default() -> Budget:
    """The budget of a compile for which none is given."""
    return _DEFAULT.get()


@contextmanager
def defaulting(budget: Budget | Mapping[str, float] | None) -> Iterator[None]:
    """Compiles inside for which no budget is given have this one: each a meter of its own."""
    token = _DEFAULT.set(_DEFAULT.get() if budget is None else budget_of(budget))
    try:
        yield
    finally:
        _DEFAULT.reset(token)


@contextmanager
def metering(budget: Budget | Mapping[str, float] | None = None) -> Iterator[Meter]:
    """Charges what happens inside to one meter: a new one, or, where no budget is given, the one that there is."""
    meter = _CURRENT.get() if budget is None else None
    if meter is not None:
        yield meter
        return
    token = _CURRENT.set(meter := Meter(default() if budget is None else budget_of(budget)))
    try:
        yield meter
    finally:
        _CURRENT.reset(token)


@contextmanager
def metering_anew() -> Iterator[Meter]:
    """A new meter with the budget of the one that there is, and what the model's size allows: for one of several that
    are compiled, each by itself, of what was charged for once.
    """
    meter = _CURRENT.get()
    with metering(default() if meter is None else meter.budget) as own:
        own.earned.update({} if meter is None else meter.earned)
        yield own
