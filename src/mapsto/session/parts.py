"""A graph cut into parts, each for one device: what each reads and yields, and the sizes that it must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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


def cut(graph: Graph, seats: Mapping[str, int], host: int = 0) -> tuple[GraphPart, ...]:
    """Parts in the order in which they can be done one after the other: neighbours of one device together, as long as
    they wait for the same parts of other devices.

    seats: the device of a node, by its first output; a node that is not named goes with its first reader, else it is
    the host's. Raises UnsupportedError where a size that data decides shows in no value that could be passed on.
    """
    devices = _devices(graph, seats, host)
    groups: list[tuple[int, list[Node]]] = []
    made: dict[str, int] = {}
    waits: set[int] = set()
    for node, device in zip(graph.nodes, devices, strict=True):
        before = {made[name] for name in reads(node) if name in made}
        needs = {k for k in before if groups[k][0] != device}  # those of its own device are done before, at any rate
        if not groups or groups[-1][0] != device or (needs - waits and node.outputs):
            groups.append((device, []))
            waits = set()
        waits |= needs
        groups[-1][1].append(node)
        made |= {value.name: len(groups) - 1 for value in node.outputs}
    return tuple(_Cut(graph, groups).parts())


def _devices(graph: Graph, seats: Mapping[str, int], host: int) -> list[int]:
    readers: dict[str, int] = {}
    found = [host] * len(graph.nodes)
    for at in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[at]
        named = next((seats[v.name] for v in node.outputs if v.name in seats), None)
        after = next((readers[v.name] for v in node.outputs if v.name in readers), host)
        found[at] = host if binds(node) else after if named is None else named
        for name in reads(node):
            readers[name] = found[at]
    for at in range(1, len(found)):  # what yields nothing goes with its neighbour: it makes no part of its own
        if not graph.nodes[at].outputs:
            found[at] = found[at - 1]
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
