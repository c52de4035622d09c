"""What a run has checked by the time it comes to a place of a graph in the making: conditions on sizes."""

from __future__ import annotations

from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute


class Conditions:
    """Expressions that are at least 0 from here on; those of the enclosing graph hold as well."""

    def __init__(self, around: Conditions | None = None) -> None:
        self._around = around
        self._required: set[Dim] = set()
        self._least: dict[str, int] = {}  # size symbol -> what it is at least

    def add(self, condition: Dim) -> None:
        self._required.add(condition)
        if not isinstance(condition, Expr):
            return
        names = symbols(condition)
        name = next(iter(names))
        least = sym(name) - condition  # `symbol - k >= 0` is a bound of the symbol
        if len(names) == 1 and isinstance(least, int):
            self._least[name] = max(least, self._least.get(name, 0))

    def proves(self, e: Dim) -> bool:
        """Whether e >= 0 for all sizes that get past these conditions."""
        if known_at_least(e, 0):
            return True
        if isinstance(e, int):
            return False
        bounds: dict[str, Dim] = {}
        level: Conditions | None = self
        while level is not None:
            if e in level._required:
                return True
            for name, least in level._least.items():
                bounds.setdefault(name, sym(name) + least)
            level = level._around
        raised = substitute(e, bounds)
        return raised != e and known_at_least(raised, 0)
