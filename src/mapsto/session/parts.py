"""A graph cut into parts, each for one device: what each reads and yields, and the sizes that it must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.graph import Graph, Node, Value, binds, dims_in
from mapsto.ir.region import free_values, reads

SIZE = "size of the whole: "
"""How the name of an input begins that has no elements, and whose shape holds a size that no other input shows."""


@dataclass(frozen=True)
class GraphPart:
    """device: by its number. told: the sizes that it has inputs for (`SIZE`).
    holds: (a value, a size): scalars that the part reads or yields and that data decides a size by.
    """

    device: int
    graph: Graph
    told: tuple[str, ...] = ()
    holds: tuple[tuple[str, str], ...] = ()


def cut(
    graph: Graph, seats: Mapping[str, int], host: int = 0, ends: Set[str] = frozenset()
) -> tuple[GraphPart, ...]:
    """Parts in the order in which they can be done one after the other: a node goes with the last part of its device,
    if that waits for all that the node does, and nothing waits for it yet.

    seats: the device of a node, by its first output, in the order in which they are to be done, as far as the graph
    allows: nodes that one work computes follow one another. A node that is not named goes with its first reader, else
    it is the host's. ends: nodes that a part ends with, by their first outputs. Raises UnsupportedError where a size
    that data decides shows in no value that could be passed on.
    """
    before = _before(graph)
    order = _in_order(graph, before, seats)
    devices = _devices(graph, order, seats, host)
    groups: list[tuple[int, list[Node]]] = []
    waits: list[set[int]] = []  # of each group, groups of other devices
    last: dict[int, int] = {}  # of each device, its last group
    made: dict[int, int] = {}  # node -> group
    closed: set[int] = set()  # groups that others wait for, or that ended
    for at in order:
        node, device = graph.nodes[at], devices[at]
        k = last.get(device, -1)
        needs = {made[n] for n in before[at] if groups[made[n]][0] != device}  # its own device's are done before
        joins = k >= 0 and (needs <= waits[k] and k not in closed or not node.outputs and k == len(groups) - 1)
        if not joins:
            k = last[device] = len(groups)
            groups.append((device, []))
            waits.append(set())
        waits[k] |= needs
        closed |= needs
        groups[k][1].append(node)
        made[at] = k
        if any(value.name in ends for value in node.outputs[:1]):
            closed.add(k)
    return tuple(_Cut(graph, groups).parts())


def _before(graph: Graph) -> list[set[int]]:
    """For each node, those that it is to follow: who makes what it reads, and the sizes it works with; and the last
    check before it, which may be what keeps it inside of its operands.
    """
    made: dict[str, int] = {}
    sized: dict[str, int] = {}
    check: set[int] = set()
    found = []
    for at, node in enumerate(graph.nodes):
        names = _read([node])
        found.append({made[n] for n in names if n in made} | {sized[s] for s in _sizes_of(node) if s in sized} | check)
        made.update((value.name, at) for value in node.outputs)
        sized.update((size, at) for size in binds(node))
        if not node.outputs:
            check = {at}
    return found


def _in_order(graph: Graph, before: Sequence[set[int]], seats: Mapping[str, int]) -> list[int]:
    """All nodes, those that are named as they are named, each after those that it is to follow."""
    numbers = {value.name: at for at, node in enumerate(graph.nodes) for value in node.outputs[:1]}
    found: dict[int, None] = {}
    for first in (*(numbers[name] for name in seats if name in numbers), *range(len(graph.nodes))):
        left = [first]
        while left:
            at = left[-1]
            missing = sorted(before[at] - found.keys(), reverse=True)
            if missing:
                left.extend(missing)
            else:
                found[left.pop()] = None
    return list(found)


def _devices(graph: Graph, order: Sequence[int], seats: Mapping[str, int], host: int) -> list[int]:
    readers: dict[str, int] = {}
    found = [host] * len(graph.nodes)
    for at in reversed(order):
        node = graph.nodes[at]
        named = next((seats[v.name] for v in node.outputs if v.name in seats), None)
        after = next((readers[v.name] for v in node.outputs if v.name in readers), host)
        found[at] = host if binds(node) else after if named is None else named
        for name in reads(node):
            readers[name] = found[at]
    for before, at in pairwise(order):  # what yields nothing goes with its neighbour: it makes no part of its own
        if not graph.nodes[at].outputs:
            found[at] = found[before]
    return found


class _Cut:
    def __init__(self, graph: Graph, groups: Sequence[tuple[int, list[Node]]]) -> None:
        self.graph, self.groups = graph, groups
        self.reads = [_read(nodes) for _, nodes in groups]
        self.made = [{v.name for node in nodes for v in node.outputs} for _, nodes in groups]
        self.inputs = [self._inputs(k) for k in range(len(groups))]
        self.of_inputs = {d for v in graph.inputs for dim in v.shape for d in _bare(dim)}
        self.of_data = {s for node in graph.nodes for s in binds(node)}
        self.told = [self._untold(k) for k in range(len(groups))]

    def parts(self) -> Iterator[GraphPart]:
        holds = self._holding()
        shown = {value for value, _ in holds} | self._shown({size for _, size in holds})
        for k, (device, nodes) in enumerate(self.groups):
            wanted = set(self.graph.outputs).union(*self.reads[k + 1 :], shown) & self.made[k]
            outputs = [v.name for node in nodes for v in node.outputs if v.name in wanted]
            told = tuple(sorted(self.told[k]))
            inputs = [*self.inputs[k], *(Value(f"{SIZE}{size}", DType.BOOL, (sym(size), 0)) for size in told)]
            constants = {n: a for n, a in self.graph.constants.items() if n in self.reads[k]}
            part = replace(
                self.graph, inputs=tuple(inputs), outputs=tuple(outputs),
                nodes=tuple(nodes), constants=constants, updates=(),
            )  # fmt: skip
            ends = {*outputs, *(v.name for v in self.graph.inputs if k == 0)}
            yield GraphPart(device, part, told, tuple(pair for pair in holds if pair[0] in ends))

    def _inputs(self, k: int) -> list[Value]:
        names = self.reads[k] - self.made[k] - self.graph.constants.keys()
        return [value for name, value in self.graph.values().items() if name in names]

    def _untold(self, k: int) -> set[str]:
        """Sizes that a part uses and that none of its inputs and nodes shows."""
        nodes = self.groups[k][1]
        used = {s for value in self.inputs[k] for dim in value.shape for s in symbols(dim)}
        used |= {s for node in nodes for s in _sizes_of(node)}
        known = {s for value in self.inputs[k] for dim in value.shape for s in _bare(dim)}
        own = {s for node in nodes for s in binds(node)}
        return (used & (self.of_inputs | self.of_data)) - known - own  # the rest are those of nested graphs

    def _holding(self) -> list[tuple[str, str]]:
        """Scalars that hold sizes which parts must be told."""
        wanted = set().union(*self.told) if self.told else set()
        bound = [(node.inputs[0], *binds(node)) for node in self.graph.nodes if node.op == "bind_dim"]
        return [(value, size) for value, size in bound if size in wanted]

    def _shown(self, held: set[str]) -> set[str]:
        """Values that parts yield because other sizes that parts must be told show in them."""
        found: set[str] = set()
        for size in sorted(set().union(*self.told) - self.of_inputs - held if self.told else set()):
            values = [v for _, nodes in self.groups for node in nodes for v in node.outputs]
            value = next((v for v in values if any(size in _bare(d) for d in v.shape)), None)
            if value is None:
                raise UnsupportedError(f"{self.graph.name}: the size {size} depends on data and shows in no value; "
                                       "such a model runs on one device")  # fmt: skip
            found.add(value.name)
        return found


def _read(nodes: Sequence[Node]) -> set[str]:
    return set().union(*(reads(node) for node in nodes), *(free_values(g) for node in nodes for g in node.graphs))


def _bare(dim: Dim) -> set[str]:
    """The size that a dim shows: itself, if it is nothing else."""
    names = symbols(dim)
    return names if len(names) == 1 and isinstance(dim, Expr) and dim == sym(*names) else set()


def _sizes_of(node: Node) -> Iterator[str]:
    for value in node.outputs:
        for dim in value.shape:
            yield from symbols(dim)
    for dim in dims_in(node.attrs.values()):
        yield from symbols(dim)
    for graph in node.graphs:
        for value in graph.inputs:
            for dim in value.shape:
                yield from symbols(dim)
        for inner in graph.nodes:
            yield from _sizes_of(inner)
