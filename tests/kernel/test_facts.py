"""Facts of expressions: as a walk of the whole tells them, and told once a node, however expressions are composed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, load, sym
from mapsto.kernel import facts as told
from mapsto.kernel.ast import Cast, Const, Index, Iter, Load, Op, Reduce, Scalar, Stmt, Where, walk
from mapsto.kernel.compose import inline, loads_of
from mapsto.kernel.facts import facts

F32 = DType.F32
i, j, n = sym("i"), sym("j"), sym("n")


def at(tensor: str, *index: Any) -> Load:
    return Load(tensor, index, F32)


def added(*args: Scalar) -> Op:
    return Op("add", args, F32)


def looked_up(tensor: str, through: str) -> Load:
    return at(tensor, load(through, [i]))


CASES: dict[str, Callable[[], Scalar]] = {
    "load": lambda: at("x", i),
    "gather": lambda: looked_up("x", "k"),
    "constant": lambda: Const(1.0, F32),
    "index": lambda: Index(floordiv(i, n)),
    "operation": lambda: added(at("x", i), at("y", j)),
    "nested": lambda: added(at("x", i), added(at("y", j), Const(2.0, F32))),
    "the same load twice": lambda: added(at("x", i), at("x", i)),
    "gathered operand": lambda: added(at("x", i), looked_up("y", "k")),
    "divided operand": lambda: added(at("x", floordiv(i, 3)), at("y", floordiv(i, n))),
    "cast": lambda: Cast(added(at("x", i), at("y", i)), DType.F64),
    "guard": lambda: added(Where((load("k", [i]),), at("x", i), Const(0.0, F32)), at("y", i)),
    "reduction": lambda: added(Reduce("sum", (Iter("j", n),), at("x", i, j)), at("y", i)),
}


@pytest.mark.parametrize("name", CASES)
def test_facts_are_those_of_a_walk(name: str) -> None:
    e, nodes = CASES[name](), list(walk(CASES[name]()))
    found = facts(e)
    loads = [node for node in nodes if isinstance(node, Load)]
    assert list(found.loads) == loads
    assert found.tensors == {node.tensor for node in loads}
    assert found.size == len([node for node in nodes if isinstance(node, (Load, Op, Where))])
    assert found.reduces == any(isinstance(node, Reduce) for node in nodes)
    assert found.moves == (not any(isinstance(node, (Op, Reduce)) for node in nodes))
    assert found.indexing == ({"k"} if name in ("gather", "gathered operand", "guard") else set())
    assert found.calls == (name in ("gather", "index", "gathered operand", "divided operand", "guard"))
    assert found.divides == (name in ("index", "divided operand"))


def chained(length: int) -> Stmt:
    """v1 = x + c0, v2 = v1 + c1...: each composed into the next."""
    made = Stmt("v0", F32, (Iter("i", 8),), added(at("x", i), at("c0", i)))
    for k in range(1, length):
        reader = Stmt(f"v{k}", F32, (Iter("i", 8),), added(at(f"v{k - 1}", i), at(f"c{k}", i)))
        assert len(loads_of(reader)) == 2
        made = inline(reader, made)
        assert len(loads_of(made)) == k + 2
    return made


def test_a_node_of_a_chain_costs_the_same_however_long_the_chain_is(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Scalar] = []
    tell = told._facts

    def telling(e: Scalar) -> Any:
        counted.append(e)
        return tell(e)

    monkeypatch.setattr(told, "_facts", telling)
    for length in (20, 80):
        counted.clear()
        chained(length)
        assert len(counted) <= 2 * length  # a reader's operation, and the composed one: none of their loads
        assert not any(isinstance(e, Load) for e in counted)
