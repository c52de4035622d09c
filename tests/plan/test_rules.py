"""The rules of fusion one by one: text in, recipe out; where they do not apply, the reason; where what they make is
computed by the kernel oracle, the same numbers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Iter, Load, Stmt
from mapsto.kernel.text import statement_text
from mapsto.plan.rules import RULES, Refusal
from mapsto.plan.rules.compose import COMPLEXITY_LIMIT
from mapsto.plan.rules.rows import shared_dims
from mapsto.plan.task import Task
from tests.plan.support import Alone, fused, initial, recipes

HEAD = "graph g(x: f32[4, 8], w: f32[8, 16], v: f32[16]) -> "


def graph(outputs: str, *lines: str) -> str:
    return f"{HEAD}({outputs}) {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}"


EXP = "a: f32[4, 8] = exp(x)"
TURNED = "t: f32[8, 4] = transpose(x) {perm: (1, 0)}"
MEAN = 'a: f32[4, 1] = reduce(x) {kind: "mean", axes: (1,), keepdims: true}'
PRODUCT = "m: f32[4, 16] = matmul(x, w)"


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a chain", graph("y", EXP, "y: f32[4, 8] = neg(a)"), ["compose(a, y)"]),
        ("moved data", graph("y", TURNED, "y: f32[8, 4] = neg(t)"), ["compose(t, y)"]),
        (
            "moved data, for each reader",
            graph("y, z", TURNED, "y: f32[8, 4] = neg(t)", "z: f32[8, 4] = exp(t)"),
            ["compose(t, y)", "compose(t, z)"],
        ),
        (
            "a chain of three is one list",
            graph("y", EXP, "b: f32[4, 8] = neg(a)", "y: f32[4, 8] = tanh(b)"),
            ["compose(a, b, y)"],
        ),
        ("an activation", graph("y", PRODUCT, "y: f32[4, 16] = relu(m)"), ["epilogue(m, y)"]),
        (
            "what is read elsewhere is stored as well",
            graph(
                "z",
                PRODUCT,
                "y: f32[4, 16] = relu(m)",
                "q: f32[16, 4] = transpose(y) {perm: (1, 0)}",
                "n: f32[16, 16] = matmul(q, y)",
                'r: f32[16] = reduce(m) {kind: "sum", axes: (0,), keepdims: false}',
                "z: f32[16, 16] = add(n, r)",
            ),
            ["epilogue(m, y)", "r", "epilogue(absorb(q, n), z)"],
        ),
        (
            "what sums over rows read beside what is stored anyway is computed there",
            graph(
                "y, r",
                PRODUCT,
                "a: f32[4, 16] = mul(m, v)",
                "b: f32[4, 16] = neg(a)",
                's: f32[4, 1] = reduce(a) {kind: "sum", axes: (1,), keepdims: true}',
                "y: f32[4, 16] = sub(b, s)",
                'r: f32[16] = reduce(m) {kind: "sum", axes: (0,), keepdims: false}',
            ),
            ["m", "rows(a, b, s, y)", "r"],
        ),
        (
            "two statements of an epilogue",
            graph("y", PRODUCT, "b: f32[4, 16] = add(m, v)", "y: f32[4, 16] = relu(b)"),
            ["epilogue(m, b, y)"],
        ),
        (
            "rows of a mean",
            graph(
                "y",
                'a: f32[4, 1] = reduce(x) {kind: "mean", axes: (1,), keepdims: true}',
                "y: f32[4, 8] = sub(x, a)",
            ),
            ["rows(a, y)"],
        ),
        (
            "read through a transpose",
            "graph g(x: f32[8, 4], w: f32[8, 16]) -> (m) {\n  t: f32[4, 8] = transpose(x) {perm: (1, 0)}\n"
            "  m: f32[4, 16] = matmul(t, w)\n}",
            ["absorb(t, m)"],
        ),
    ],
)
def test_what_is_joined(name: str, text: str, wanted: list[str]) -> None:
    assert recipes(text) == wanted


def test_a_maker_says_what_is_worth_its_template() -> None:
    """Results that wait in registers, columns, and what is one of many groups."""
    chain = graph("y", PRODUCT, "b: f32[4, 16] = add(m, v)", "y: f32[4, 16] = relu(b)")
    assert recipes(chain, replace(TRAITS, most_waiting=1)) == ["epilogue(m, b, y)"]
    assert recipes(chain, replace(TRAITS, most_waiting=0)) == ["epilogue(m, b)", "y"]
    groups = "graph g(x: f32[3, 4, 8], w: f32[3, 8, 16]) -> (m) {\n  m: f32[3, 4, 16] = matmul(x, w)\n}"
    for text, name, least in ((graph("m", PRODUCT), "least_columns", 16), (groups, "least_of_a_group", 8 * 16)):
        assert [task.kind for task in fused(text, replace(TRAITS, **{name: least}))] == ["contraction"]
        assert [task.kind for task in fused(text, replace(TRAITS, **{name: least + 1}))] == ["rows"]


def rule(name: str, text: str, source: str, reader: str, **around: object) -> Task | Refusal:
    graph, by_node = initial(text)
    (found,) = (r for r in RULES if r.name == name)
    return found.apply(by_node[source], by_node[reader], source, Alone(graph, **around))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "source", "reader", "around", "why"),
    [
        ("compose", graph("y", EXP, "y: f32[4, 8] = neg(a)"), "a", "y", {"elsewhere": ("a",)}, "read elsewhere too"),
        (
            "compose",
            graph("y", MEAN, "y: f32[4, 8] = sub(x, a)"),
            "a", "y", {}, "more than one value a point",
        ),
        ("compose", graph("y", EXP, "y: f32[4, 8] = mul(a, a)"), "a", "y", {}, "a is read 2 times"),
        (
            "compose",
            "graph g(x: f32[4, 1]) -> (y) {\n  a: f32[4, 1] = exp(x)\n  y: f32[4, 8] = expand(a) {shape: (4, 8)}\n}",
            "a", "y", {}, "computed more than once",
        ),
        ("epilogue", graph("y, m", PRODUCT, "y: f32[4, 16] = relu(m)"), "m", "y", {"elsewhere": ("m",)}, "leaves the"),
        (
            "epilogue",
            graph("y", PRODUCT, "y: f32[4, 16] = relu(m)"),
            "m", "y", {"elsewhere": ("m",), "between": True}, "something in between",
        ),
        (
            "epilogue",
            graph("y", PRODUCT, 'y: f32[4, 1] = reduce(m) {kind: "sum", axes: (1,), keepdims: true}'),
            "m", "y", {}, "not computed point by point",
        ),
        (
            "epilogue",
            graph("y", PRODUCT, "y: f32[4, 16] = slice(m) {starts: (0, 15), steps: (1, -1), shape: (4, 16)}"),
            "m", "y", {}, "not computed point by point",
        ),
        (
            "epilogue",
            graph("y", PRODUCT, "y: f32[4, 16] = slice(m) {starts: (3, 0), steps: (-1, 1), shape: (4, 16)}"),
            "m", "y", {}, "not computed point by point",
        ),
        ("rows", graph("y", EXP, "y: f32[4, 8] = neg(a)"), "a", "y", {"between": True}, "something in between"),
        (
            "rows",
            "graph g(x: f32[2, 40000]) -> (y) {\n  a: f32[2, 40000] = exp(x)\n"
            '  y: f32[2, 1] = reduce(a) {kind: "sum", axes: (1,), keepdims: true}\n}',
            "a", "y", {}, "2 rows, 160000 bytes of one between them) they take 10 us more",
        ),
        ("absorb", graph("m", EXP, "m: f32[4, 16] = matmul(a, w)"), "a", "m", {}, "more than moved data"),
    ],
)  # fmt: skip
def test_why_not(name: str, text: str, source: str, reader: str, around: dict[str, object], why: str) -> None:
    found = rule(name, text, source, reader, **around)
    assert isinstance(found, Refusal) and why in found.why


def test_long_rows_share_a_kernel_where_that_costs_less() -> None:
    text = (
        "graph g(x: f32[2, 40000]) -> (y) {\n  a: f32[2, 40000] = exp(x)\n"
        '  y: f32[2, 1] = reduce(a) {kind: "sum", axes: (1,), keepdims: true}\n}'
    )
    assert isinstance(rule("rows", text, "a", "y", gain=1e-6), Task)


def test_composed_statements_as_text() -> None:
    task = rule("compose", graph("y", TURNED, "y: f32[8, 4] = neg(t)"), "t", "y")
    assert isinstance(task, Task)
    assert statement_text(task.stmts[0]) == "y[%0, %1] = -x[%1, %0]  for %0 < 8, %1 < 4"


def test_a_statement_does_not_grow_without_end() -> None:
    lines = [f"a{i + 1}: f32[4, 8] = {'neg' if i % 2 else 'relu'}({f'a{i}' if i else 'x'})" for i in range(400)]
    found = fused(graph("a400", *lines))
    assert sum(len(task.nodes) for task in found) == 400
    sizes = [len(task.stmts) for task in found]
    assert max(sizes) > 1, "what does not fit into one statement stays in the same kernel"
    assert len(found) < 10
    assert COMPLEXITY_LIMIT < 400


def test_tasks_without_a_reader_are_dropped() -> None:
    assert recipes(graph("y", EXP, "b: f32[4, 8] = tanh(a)", "y: f32[4, 8] = neg(x)")) == ["y"]


def test_the_reasons_stay_with_the_task() -> None:
    text = graph("y, m", PRODUCT, "y: f32[4, 16] = relu(m)")
    (product, activation) = fused(text)
    assert product.refused == ()
    assert [(r.of, r.rule) for r in activation.refused] == [("m", "epilogue")]


def test_shared_dims_of_a_softmax_over_channels_are_all_but_the_channels() -> None:
    lines = (
        'a: f32[4, 1] = reduce(x) {kind: "max", axes: (1,), keepdims: true}',
        "b: f32[4, 8] = sub(x, a)",
        "c: f32[4, 8] = exp(b)",
        'd: f32[4, 1] = reduce(c) {kind: "sum", axes: (1,), keepdims: true}',
        "y: f32[4, 8] = div(c, d)",
    )
    (task,) = fused(graph("y", *lines))
    assert shared_dims(task.stmts) == (0,)


def shared_by(text: str, *names: str) -> tuple[int, ...]:
    _, by_node = initial(text)
    return shared_dims([stmt for name in names for stmt in by_node[name].stmts])


@pytest.mark.parametrize("axis", [0, 1])
def test_the_dim_of_a_running_sum_is_not_shared(axis: int) -> None:
    for lines in (
        (EXP, f"y: f32[4, 8] = cumsum(a) {{axis: {axis}, exclusive: false, reverse: false}}"),
        (f"a: f32[4, 8] = cumsum(x) {{axis: {axis}, exclusive: false, reverse: false}}", "y: f32[4, 8] = exp(a)"),
    ):
        assert shared_by(graph("y", *lines), "a", "y") == (1 - axis,)


def test_values_of_different_ranks_share_leading_dims_alone() -> None:
    """Dims behind one that is not shared lie elsewhere in rows of another rank."""
    head = "graph g(x: f32[4, 8]) -> (y) {\n  a: f32[4, 8] = exp(x)\n  "
    wide = "y: f32[4, 8, 3] = expand(r) {shape: (4, 8, 3)}\n}"
    assert shared_by(head + "r: f32[4, 8, 1] = reshape(a) {shape: (4, 8, 1)}\n  " + wide, "a", "r") == (0, 1)
    stretched = head + "y: f32[5, 4, 8] = expand(a) {shape: (5, 4, 8)}\n}"
    assert shared_by(stretched, "a", "y") == ()
    i, j, t = Iter("i", 4), Iter("j", 8), Iter("t", 3)
    first = Stmt("a", DType.F32, (i, j), Load("x", (sym("i"), sym("j")), DType.F32))
    for rest, shared in (((), (1,)), ((t,), ())):  # y[i, j, ..] = a[3 - i, j]
        reader = Stmt("y", DType.F32, (i, j, *rest), Load("a", (3 - sym("i"), sym("j")), DType.F32))
        assert shared_dims([first, reader]) == shared


@pytest.mark.parametrize(
    ("x", "w", "result", "kind"),
    [
        ("u8", "i8", "i32", "contraction"),
        ("i8", "i16", "i32", "contraction"),
        ("f16", "f16", "f32", "contraction"),
        ("bf16", "f32", "f32", "contraction"),
        ("f16", "f16", "f16", "contraction"),
        ("i32", "i32", "i32", "rows"),
        ("f64", "f64", "f64", "rows"),
    ],
)
def test_types_of_products(x: str, w: str, result: str, kind: str) -> None:
    text = f"""graph g(x: {x}[4, 8], w: {w}[8, 16]) -> (m) {{
      m: {result}[4, 16] = matmul(x, w) {"" if x == w == result else f"{{result: :{result}}}"}
    }}"""
    (task,) = fused(text)
    assert task.kind == kind
    if kind == "contraction":
        (phase,) = task.phases
        assert (phase.a.dtype.value, phase.b.dtype.value) == (x, w)
        assert phase.dtype.value == ("i32" if result == "i32" else "f32")


BY_HAND = ("p: f32[4, 16, 8] = mul(x, v)", 'm: f32[4, 16] = reduce(p) {kind: "sum", axes: (2,), keepdims: false}')


def by_hand(inputs: str, *lines: str) -> str:
    return f"graph g({inputs}) -> (m) {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}"


def test_a_sum_of_what_was_multiplied_is_a_product() -> None:
    (task,) = fused(by_hand("x: f32[4, 1, 8], v: f32[1, 16, 8]", *BY_HAND))
    assert task.kind == "contraction" and str(task.recipe) == "contract(compose(p, m))"
    assert [i.extent for i in task.phases[0].cols] == [16] and [i.extent for i in task.phases[0].reds] == [8]


def test_what_is_multiplied_point_by_point_or_by_one_vector_is_none() -> None:
    lines = ("p: f32[4, 8] = mul(x, v)", 'm: f32[4] = reduce(p) {kind: "sum", axes: (1,), keepdims: false}')
    for inputs in ("x: f32[4, 8], v: f32[4, 8]", "x: f32[4, 8], v: f32[8]"):
        (task,) = fused(by_hand(inputs, *lines))
        assert task.kind == "rows"


def test_what_is_multiplied_for_others_too_stays() -> None:
    text = by_hand("x: f32[4, 1, 8], v: f32[1, 16, 8]", *BY_HAND).replace("-> (m)", "-> (m, p)")
    assert all(task.kind == "rows" for task in fused(text))
