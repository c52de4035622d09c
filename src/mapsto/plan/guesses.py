"""A guess for each open size of a graph: what costs are counted with, where a size is known in a run alone."""

from __future__ import annotations

from mapsto.ir.expr import Expr, symbols
from mapsto.ir.graph import Graph
from mapsto.plan.patterns import USUAL_SIZE, number

# A size is taken for no more than this, whatever a graph would need.
_MOST = 1 << 20


def guesses(graph: Graph) -> dict[str, int]:
    """By symbol, in the order in which the graph names them.

    A leading dim of an input of several dims is taken for a batch, of which there is one; another size for
    `USUAL_SIZE`, or as many times twice as much as the values that are made of it need to have elements (a window that
    is longer).
    """
    found: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in enumerate(value.shape):
            usual = 1 if dim == 0 and value.rank > 1 else USUAL_SIZE
            for name in sorted(symbols(size)):
                found.setdefault(name, usual)
    for node in graph.walk():
        if node.op == "bind_dim":
            found.setdefault(str(node.attrs["symbol"]), USUAL_SIZE)
    inner = (value for node in graph.walk() for each in node.graphs for value in each.inputs)
    made = (value for node in graph.walk() for value in node.outputs)
    ordered = sorted({size for value in (*inner, *made) for size in value.shape if isinstance(size, Expr)}, key=str)
    for size in ordered:
        for name in sorted(symbols(size)):
            found.setdefault(name, USUAL_SIZE)
    for size in ordered:
        _enlarge(size, found)
    return found


def _enlarge(size: Expr, found: dict[str, int]) -> None:
    """Doubles what an extent is made of until it is one, where that helps."""
    larger = {name: found[name] for name in sorted(symbols(size)) if found[name] >= USUAL_SIZE}
    while larger and number(size, found | larger) <= 0:
        larger = {name: 2 * guess for name, guess in larger.items()}
        if max(larger.values()) > _MOST:
            return
    found.update(larger)
