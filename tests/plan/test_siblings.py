"""Siblings: text in, recipes out; where tasks stay by themselves, the reason; plans that say what rules do not give."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from mapsto.budget import Budget, metering
from mapsto.ir.text import parse_graph
from mapsto.kernel.text import statement_text
from mapsto.plan.decide import decide
from mapsto.plan.items import View, tasks
from mapsto.plan.rules import SIBLING_RULES
from mapsto.plan.rules import siblings as rule
from mapsto.plan.rules.siblings import MOST_SIBLINGS
from mapsto.plan.task import Task
from mapsto.plan.works import Pins, walk
from tests.plan.sibling_graphs import attention, fire, inception
from tests.plan.support import asked, fused, initial, recipes


@pytest.fixture(autouse=True)
def whatever_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "LEAST_GAIN", -math.inf)


def const(name: str, *shape: int, dtype: str = "f32", seed: int = 0) -> str:
    numbers = np.random.default_rng(seed).integers(-9, 9, shape).astype({"f32": np.float32, "i32": np.int32}[dtype])
    data = base64.b64encode(numbers.tobytes()).decode()
    return f'const {name}: {dtype}[{", ".join(map(str, shape))}] = base64 "{data}"'


def graph(*lines: str, inputs: str = "x: f32[6, 24]", outputs: str = "y") -> str:
    return f"graph g({inputs}) -> ({outputs}) {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}"


TWO = (const("v", 24, 16, seed=1), const("w", 24, 32, seed=2))
P, Q = "p: f32[6, 16] = matmul(x, v)", "q: f32[6, 32] = matmul(x, w)"
# readers that take their channels by strides
READ = (
    const("s", 16, 8), const("t", 32, 8), "m: f32[6, 8] = matmul(p, s)", "n: f32[6, 8] = matmul(q, t)",
    "y: f32[6, 8] = add(m, n)",
)  # fmt: skip


def told(text: str) -> list[str]:
    """Why siblings stayed by themselves."""
    return [r.why for task in fused(text) for r in task.refused if r.rule == "siblings"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (graph(*TWO, P, Q, *READ), "siblings(p, q)"),
        (
            graph(*TWO, const("b", 16), const("c", 32), "d: f32[6, 16] = matmul(x, v)", "p: f32[6, 16] = add(d, b)",
                  "e: f32[6, 32] = matmul(x, w)", "q: f32[6, 32] = add(e, c)", *READ),
            "siblings(epilogue(d, p), epilogue(e, q))",
        ),
        (
            graph(*TWO, const("b", 16), const("c", 1), "d: f32[6, 16] = matmul(x, v)", "p: f32[6, 16] = add(d, b)",
                  "e: f32[6, 32] = matmul(x, w)", "q: f32[6, 32] = add(e, c)", *READ),
            "siblings(epilogue(d, p), epilogue(e, q))",
        ),
        (
            graph("d: f32[6, 24] = exp(x)", *TWO, "p: f32[6, 16] = matmul(d, v)", "q: f32[6, 32] = matmul(d, w)",
                  *READ),
            "siblings(p, q)",
        ),
        (
            graph("d: f32[6, 24] = transpose(x) {perm: (1, 0)}", *TWO, "p: f32[6, 16] = matmul(d, v)",
                  "q: f32[6, 32] = matmul(d, w)", *READ, inputs="x: f32[24, 6]"),
            "siblings(absorb(d, p), absorb(d, q))",
        ),
    ],
    ids=["products", "a bias each", "a bias and a literal", "of what is made", "read through a transpose"],
)  # fmt: skip
def test_what_is_joined(text: str, wanted: str) -> None:
    found = recipes(text)
    assert wanted in found
    assert f"columns({wanted}, p)" in found and f"columns({wanted}, q)" in found


def joined(text: str, *names: str) -> Task:
    graph, by_node = initial(text)
    (found,) = SIBLING_RULES
    task = found.join([by_node[name] for name in names], graph.constants, "%")
    assert isinstance(task, Task)
    return task


def test_the_joined_sum_has_the_columns_of_both_in_order() -> None:
    text = graph(*TWO, P, Q, *READ)
    task = joined(text, "q", "p")
    (phase,) = task.phases
    assert (phase.target, phase.cols[0].extent, phase.shape) == ("%q.siblings", 48, (6, 48))
    constants = parse_graph(text).constants
    np.testing.assert_array_equal(task.constants[phase.b.tensor], np.concatenate([constants["w"], constants["v"]], 1))
    assert task.parts is None and str(task.recipe) == "siblings(q, p)"


def test_constants_of_an_epilogue_are_by_column_only_where_they_differ() -> None:
    lines = []
    for name, w, b, columns, scale in (("p", "v", "b", 16, "f"), ("q", "w", "c", 32, "g")):
        lines += [
            f"d{name}: f32[6, {columns}] = matmul(x, {w})", f"e{name}: f32[6, {columns}] = add(d{name}, {b})",
            f"h{name}: f32[6, {columns}] = mul(e{name}, {scale})", f"{name}: f32[6, {columns}] = mul(h{name}, r)",
        ]  # fmt: skip
    constants = (const("b", 16), const("c", 32), const("f", 1, seed=1), const("g", 1, seed=2), const("r", 1, seed=3))
    text = graph(*TWO, *constants, *lines, *READ)
    known = parse_graph(text).constants
    assert known["f"] != known["g"]
    (task,) = [t for t in fused(text) if t.recipe.rule == "siblings"]
    r = known["r"].item()
    assert [statement_text(s).partition("  for")[0] for s in task.stmts[1:]] == [
        "%hp.siblings[%0, %1] = %ep.siblings[%0, %1] * %p.siblings.2[%1]",
        f"%p.siblings[%0, %1] = %hp.siblings[%0, %1] * {r:g}",
    ]
    np.testing.assert_array_equal(task.constants["%p.siblings.2"], [known["f"].item()] * 16 + [known["g"].item()] * 32)


def test_a_negative_zero_is_not_taken_for_a_zero() -> None:
    lines = ["d: f32[6, 16] = matmul(x, v)", "p: f32[6, 16] = mul(d, f)", "e: f32[6, 32] = matmul(x, w)",
             "q: f32[6, 32] = mul(e, g)"]  # fmt: skip
    zeros = [f'const {name}: f32[1] = base64 "{base64.b64encode(np.float32(z).tobytes()).decode()}"'
             for name, z in (("f", 0.0), ("g", -0.0))]  # fmt: skip
    (task,) = [t for t in fused(graph(*TWO, *zeros, *lines, *READ)) if t.recipe.rule == "siblings"]
    np.testing.assert_array_equal(np.signbit(task.constants["%p.siblings.1"]), [False] * 16 + [True] * 32)


WIDE = (const("v", 24, 16, seed=1), const("w", 24, 32, seed=2), P, Q)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (graph(*WIDE, *READ, outputs="y, q"), "q leaves the graph"),
        (graph(const("w", 24, 32), P, Q, *READ, inputs="x: f32[6, 24], v: f32[24, 16]"), "v is no constant"),
        (
            graph(const("v", 6, 16), const("w", 24, 32), "o: f32[24, 6] = transpose(x) {perm: (1, 0)}",
                  "p: f32[24, 16] = matmul(o, v)", Q, const("s", 16, 8), const("t", 32, 24),
                  "m: f32[24, 8] = matmul(p, s)", "n: f32[6, 24] = matmul(q, t)", "y: f32[6, 8] = matmul(n, m)"),
            "q is summed over x in another way than p",
        ),
        (
            graph(*TWO, "d: f32[6, 16] = matmul(x, v)", "p: f32[6, 16] = relu(d)", Q, *READ),
            "q is made of its sums in another way than p",
        ),
        (
            graph(*TWO, "d: f32[6, 16] = matmul(x, v)", "p: f32[6, 16] = mul(d, z)", "e: f32[6, 32] = matmul(x, w)",
                  "q: f32[6, 32] = mul(e, k)", *READ, inputs="x: f32[6, 24], z: f32[6, 1], k: f32[6, 1]"),
            "q is made of its sums in another way than p",
        ),
        (
            graph(const("v", 24, 16, seed=1), const("w", 24, 16, seed=2), "d: f32[6, 16] = matmul(x, v)",
                  "p: f32[6, 16] = mul(d, z)", "e: f32[6, 16] = matmul(x, w)", "q: f32[6, 16] = mul(e, z)",
                  const("s", 16, 8), const("t", 16, 8), *READ[2:], inputs="x: f32[6, 24], z: f32[6, 16]"),
            "p is made of what depends on the column and is no constant",
        ),
        (
            graph(*TWO, const("b", 6, 1), const("c", 6, 1, seed=9), "d: f32[6, 16] = matmul(x, v)",
                  "p: f32[6, 16] = mul(d, b)", "e: f32[6, 32] = matmul(x, w)", "q: f32[6, 32] = mul(e, c)", *READ),
            "constants of p, q do not lie alike",
        ),
        (
            graph(*WIDE, *READ[:-1], 'k: f32[6, 1] = reduce(p) {kind: "max", axes: (1,), keepdims: true}',
                  "o: f32[6, 8] = add(m, n)", "y: f32[6, 8] = mul(o, k)"),
            "would go over p in rows of 16",
        ),
        (
            graph(*WIDE, "m: f32[12, 8] = reshape(p) {shape: (12, 8)}", "r: f32[6, 8] = matmul(z, m)",
                  const("t", 32, 8), "n: f32[6, 8] = matmul(q, t)", "y: f32[6, 8] = add(n, r)",
                  inputs="x: f32[6, 24], z: f32[6, 12]"),
            "m is a view of p alone, but not of its part of something wider",
        ),
        (
            graph(*WIDE, "o: f32[16, 6] = transpose(p) {perm: (1, 0)}", "m: f32[12, 8] = reshape(o) {shape: (12, 8)}",
                  "r: f32[6, 8] = matmul(z, m)", const("t", 32, 8), "n: f32[6, 8] = matmul(q, t)",
                  "y: f32[6, 8] = add(n, r)", inputs="x: f32[6, 24], z: f32[6, 12]"),
            "m reads p at places that are divided",
        ),
        (
            graph(*WIDE, "d: f32[6, 48] = concat(q, p) {axis: 1}", const("s", 48, 8), "y: f32[6, 8] = matmul(d, s)"),
            "is written straight into its part of d",
        ),
        (
            graph(*WIDE, *READ[:-1],
                  "l: f32[6, 2], k: i64[6, 2] = topk(p) {axis: 1, k: 2, largest: true, sorted: true}",
                  "o: f32[6, 8] = add(m, n)", 'e: f32[6, 1] = reduce(l) {kind: "sum", axes: (1,), keepdims: true}',
                  "y: f32[6, 8] = mul(o, e)"),
            "p is read by what needs it row-major and whole",
        ),
        (
            graph(*WIDE, *READ, outputs="y, p"),
            "p leaves the graph",
        ),
    ],
    ids=["an output", "no constant", "another index", "another epilogue", "other run-time operands",
         "a run-time operand by column", "constants that lie otherwise", "short rows", "a view of the whole",
         "divided places", "a concatenation", "a routine", "the first is an output"],
)  # fmt: skip
def test_why_not(text: str, why: str) -> None:
    assert any(why in said for said in told(text)), told(text)
    assert not any("siblings(" in recipe for recipe in recipes(text))


def test_a_part_that_ends_inside_a_block_is_the_last_one_and_there_is_one_such_part() -> None:
    def found(*reduced: int) -> list[str]:
        graph = inception(reduced=reduced)
        return [str(t.recipe.parts[0]) for t in tasks(decide(graph, asked(graph)).items) if "siblings" in str(t.recipe)]

    (recipe,) = found(24, 32)
    assert recipe == "siblings(epilogue(conv_11, relu_12), epilogue(conv_3, relu_4))"
    assert found(24, 40) == []


def test_a_border_is_not_laid_for_what_only_its_sibling_needs() -> None:
    for read, is_joined in ((3, True), (1, False)):
        graph = fire(read=read)
        found = [str(t.recipe) for t in tasks(decide(graph, asked(graph)).items)]
        assert any(recipe.startswith("siblings(") for recipe in found) == is_joined


def test_windows_must_be_equal() -> None:
    graph = fire(second=3)
    found = [r.why for t in tasks(decide(graph, asked(graph)).items) for r in t.refused if r.rule == "siblings"]
    assert found == ["relu_8 is summed over relu in another way than relu_4"]


def views(pins: Pins) -> int:
    graph = attention()
    items = walk(decide(graph, asked(graph), pins).items)
    return sum(isinstance(item, View) and "columns" in str(item.recipe) for item in items)


def test_pins_keep_siblings_apart() -> None:
    assert views(Pins()) == 3
    assert views(Pins((("matmul", "matmul_2"),))) == 2
    assert views(Pins((("matmul", "matmul_2", "matmul_8"),))) == 0
    assert views(Pins(inner=(("add", None),))) == 2


def test_it_must_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    large = attention(8, 128, 4, 64)
    items = decide(large, asked(large)).items
    said, _ = [r.why for t in tasks(items) for r in t.refused if r.rule == "siblings"]
    assert said.startswith("one contraction would save")
    small = attention(1, 4, 2, 10)
    assert any(t.recipe.rule == "siblings" for t in tasks(decide(small, asked(small)).items))


def many(count: int, columns: int = 16) -> str:
    lines = [const(f"w{k}", 24, columns, seed=k) for k in range(count)]
    lines += [f"p{k}: f32[6, {columns}] = matmul(x, w{k})" for k in range(count)]
    lines += [f"m{k}: f32[6, 8] = matmul(p{k}, s)" for k in range(count)]
    sums = [f"y{k}: f32[6, 8] = add({f'y{k - 1}' if k > 1 else 'm0'}, m{k})" for k in range(1, count)]
    return graph(const("s", columns, 8), *lines, *sums, outputs=f"y{count - 1}")


def test_there_is_a_bound_on_how_many_are_one() -> None:
    found = [t.recipe for t in fused(many(2 * MOST_SIBLINGS + 3)) if t.recipe.rule == "siblings"]
    assert [len(recipe.parts) for recipe in found] == [MOST_SIBLINGS, MOST_SIBLINGS, 3]


def test_the_budget_bounds_the_constants() -> None:
    text = many(5)
    with metering(Budget(folded_bytes=24 * 16 * 4 * 5 - 1)):
        assert set(told(text)) == {"the budget of folded_bytes has no room for constants side by side"}
    with metering(Budget(folded_bytes=24 * 16 * 4 * 5)) as meter:
        assert told(text) == [] and meter.spent["folded_bytes"] == 24 * 16 * 4 * 5


def test_bytes_side_by_side_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "MOST_BYTES", 24 * 16 * 4 * 2)
    assert [len(t.recipe.parts) for t in fused(many(5)) if t.recipe.rule == "siblings"] == [2, 2]


def test_thousands_that_do_not_fit_are_compared_with_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    (known,) = SIBLING_RULES

    def fits(*args: object) -> str:
        nonlocal count
        count += 1
        return "no"

    monkeypatch.setitem(known.__dict__, "fits", fits)
    fused(many(100))
    assert 0 < count <= 100 * 8
