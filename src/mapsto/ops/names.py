"""The names of a graph in the making: fresh ones, those kept for who had them before, those given at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set


class Names:
    """All names given so far: of values and symbols, in a graph and those nested in it."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._kept: set[str] = set()
        self._count = 0

    def fresh(self, hint: str) -> str:
        """A name that nothing else has: the hint, or the hint and a number."""
        if hint in self._kept:
            self._kept.discard(hint)
            return hint
        name = hint
        while name in self._given or not name:
            self._count += 1
            name = f"{hint}_{self._count}"
        self._given.add(name)
        return name

    def reserve(self, names: Iterable[str]) -> None:
        """Names that `fresh` does not give."""
        self._given.update(names)

    def keep(self, names: Iterable[str]) -> None:
        """Names that go, once, to whoever asks for one of them by name."""
        names = tuple(names)
        self._given.update(names)
        self._kept.update(names)

    def settled(self, wanted: Mapping[str, str], firm: Set[str], fixed: Set[str], values: Set[str]) -> dict[str, str]:
        """New names for values (old name -> new name), of which no two are the same.

        firm: names that go to whom they are wanted for; whoever had one of them gets a fresh one. fixed: old names that
        stay, which nobody else may want. values: what has its name here; symbols and values of nested graphs keep
        theirs.
        """
        given: dict[str, str] = {}
        used = set(firm)
        for old, new in wanted.items():
            if new in firm and old not in fixed:
                given[old] = new
        for old, new in wanted.items():
            free = new not in self._given or new in values
            if old not in given and old not in fixed and new not in used and free:
                given[old] = new
                used.add(new)
        for old in sorted(n for n in used if n in self._given and n not in given and n not in fixed):
            given[old] = self.fresh(old)
        self._given |= used
        return {old: new for old, new in given.items() if old != new}
