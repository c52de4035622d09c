"""Tasks as kernels in canonical form: what many tensors have in common is done once."""

from __future__ import annotations

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, Load, Op, Scalar, Stmt
from mapsto.plan.kernels import Renamer, canonical
from mapsto.plan.layout import Layout, blocked, plain

F32 = DType.F32


def total(count: int, extent: Dim) -> tuple[list[Stmt], dict[str, Value]]:
    """The sum of so many vectors."""
    value: Scalar = Load("x0", (sym("i"),), F32)
    for k in range(1, count):
        value = Op("add", (value, Load(f"x{k}", (sym("i"),), F32)), F32)
    names = [*(f"x{k}" for k in range(count)), "y"]
    return [Stmt("y", F32, (Iter("i", extent),), value)], {n: Value(n, F32, (extent,)) for n in names}


@pytest.mark.parametrize("extent", [40, sym("n")])
def test_a_layout_of_many_tensors_is_renamed_once(extent: Dim, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[Layout] = []
    rename = Renamer._layout

    def renaming(self: Renamer, layout: Layout) -> Layout:
        renamed.append(layout)
        return rename(self, layout)

    monkeypatch.setattr(Renamer, "_layout", renaming)
    stmts, values = total(50, extent)
    shared, other = plain((extent,)), blocked((extent,), 0, 16)
    layouts = {name: other if name == "x7" else shared for name in values}
    form, names = canonical(stmts, values, layouts)
    assert len(renamed) == 2
    single = Renamer(sizes=dict(names.sizes))
    assert dict(form.layouts) == {names.tensors[n]: rename(single, layouts[n]) for n in values}
