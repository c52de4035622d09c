"""A node as a kernel: its statements with the tensors that they read, write and keep between them."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.errors import UnsupportedError
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Kernel, Stmt, Tensor
from mapsto.ops.registry import Lowering, op


def statements(node: Node, lookup: Callable[[str], Value]) -> list[Stmt]:
    """The statements that define a node's outputs. Raises UnsupportedError for a routine or a control op."""
    spec = op(node.op)
    if spec.lower is None:
        raise UnsupportedError(f"{node.op} has no lowering to kernels (node {', '.join(v.name for v in node.outputs)})")
    return spec.lower(Lowering(node, tuple(lookup(name) if name else None for name in node.inputs)))


def temporaries(stmts: list[Stmt], outputs: set[str]) -> tuple[Tensor, ...]:
    """The targets that are no outputs. Each is written whole, by a statement whose iterators are its axes."""
    found: dict[str, Tensor] = {}
    for stmt in stmts:
        if stmt.target in outputs or stmt.target in found:
            continue
        assert stmt.index is None, f"{stmt.target}: a temporary is written by its own iterators"
        found[stmt.target] = Tensor(stmt.target, stmt.dtype, tuple(i.extent for i in stmt.iters))
    return tuple(found.values())


def node_kernel(node: Node, lookup: Callable[[str], Value]) -> Kernel:
    """The kernel of one node, named after its first output."""
    stmts = statements(node, lookup)
    operands = {name: lookup(name) for name in node.inputs if name}
    return Kernel(
        node.outputs[0].name,
        tuple(Tensor(v.name, v.dtype, v.shape) for v in operands.values()),
        tuple(Tensor(v.name, v.dtype, v.shape) for v in node.outputs),
        temporaries(stmts, {v.name for v in node.outputs}),
        tuple(stmts),
    )
