"""Contractions and what reads their rows, by blocks of rows: right for every form and size, with nothing of all rows in
memory; replayed from plans; and left apart where somebody else wants what passes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tests.runtime.helpers import in_child
from tests.session.support import Feed, assert_same_bits, check, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ParseError
from mapsto.runtime.guard import Fences
from mapsto.session.compile import build, prepared

SCORES = "s = MatMul(q, kt) scaled = Mul(s, scale) "
OPEN = "float[B, H, T, 24] q, float[B, H, 24, T] kt, float[B, H, T, 40] v"
KNOWN = "float[1, 3, 400, 24] q, float[1, 3, 24, 650] kt, float[1, 3, 650, 40] v"
FORMS = {
    "softmax": ("", SCORES + "w = Softmax(scaled) y = MatMul(w, v)"),
    "mask of columns": (
        ", float[B, 1, 1, T] mask", SCORES + "masked = Add(scaled, mask) w = Softmax(masked) y = MatMul(w, v)"
    ),
    "mask of rows": (", float[T, T] mask", SCORES + "masked = Add(scaled, mask) w = Softmax(masked) y = MatMul(w, v)"),
    "softcap": ("", SCORES + "c = Tanh(scaled) d = Add(c, scale) w = Softmax(d) y = MatMul(w, v)"),
    "plain sums": ("", SCORES + "n = ReduceSum(scaled, last) w = Div(scaled, n) y = MatMul(w, v)"),
    "followed": ("", SCORES + "w = Softmax(scaled) z = MatMul(w, v) r = Relu(z) y = Transpose<perm = [0, 2, 1, 3]>(r)"),
}  # fmt: skip


def model(name: str, given: str = OPEN) -> Any:
    more, nodes = FORMS[name]
    if given is KNOWN:
        more = more.replace("B, 1, 1, T", "1, 1, 1, 650").replace("[T, T]", "[400, 650]")
    # what several nodes yield is known to the parser without its shape
    lines = re.sub(r" (?=\w+ = )", "\n", nodes)
    constants = "float scale = {0.3}, int64[1] last = {-1}"
    return parse(f"g ({given}{more}) => (float[P, Q, R, S] y) <{constants}> {{ {lines} }}")


def feed(name: str, b: int, h: int, t: int, columns: int | None = None, seed: int = 0) -> Feed:
    columns = t if columns is None else columns
    shapes = {"q": (b, h, t, 24), "kt": (b, h, 24, columns), "v": (b, h, columns, 40)}
    found = {key: normal(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}
    if "mask of columns" == name:
        found["mask"] = np.where(normal(b, 1, 1, columns, seed=9) > 1, -np.inf, 0).astype(np.float32)
        found["mask"][..., :1] = 0
    if "mask of rows" == name:
        found["mask"] = normal(t, columns, seed=8)
    if name == "plain sums":
        found["q"], found["kt"] = abs(found["q"]), abs(found["kt"])
    return found


def chains(exe: Any) -> list[str]:
    return re.findall(r"^work \S+ chain = (.*)$", exe.plan.text(), re.MULTILINE)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_in_open_sizes(workers: Workers, name: str) -> None:
    sizes = ((2, 3, 70), (1, 1, 1), (1, 2, 24), (3, 1, 25), (0, 2, 5), (1, 2, 131))
    exe = check(workers, model(name), *(feed(name, *s, seed=s[2]) for s in sizes), onnxruntime=name == "softmax")
    assert len(chains(exe)) == 1


@pytest.mark.parametrize("name", FORMS)
def test_a_form_in_known_sizes(workers: Workers, name: str) -> None:
    """Blocks that divide the rows, more columns than rows, and what passes would leave a second cache."""
    exe = check(workers, model(name, KNOWN), feed(name, 1, 3, 400, 650), onnxruntime=False)
    assert len(chains(exe)) == 1
    assert exe.memory().arena < 3 * 400 * 650 * 4 / 2


@pytest.mark.parametrize(("rows", "columns"), [(397, 650), (401, 650)])
def test_no_block_leaves_its_buffers(workers: Workers, rows: int, columns: int) -> None:
    """Rows that no blocks divide: runs between pages that fault, in a child process."""
    text = KNOWN.replace("400", str(rows)).replace("650", str(columns))
    asked = parse(f"""g ({text}) => (float[1, 3, {rows}, 40] y) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }}""")
    given = feed("softmax", 1, 3, rows, columns)
    exe = check(workers, asked, given, onnxruntime=False)
    assert len(chains(exe)) == 1

    def between_fences() -> bool:
        for behind in (True, False):
            exe.guard(Fences(behind))
            exe.run(given)
        return True

    assert in_child(between_fences) == 0


def test_values_and_keys_that_all_heads_share(workers: Workers) -> None:
    """A dim is one of rows in both products, and others are walked one by one."""
    text = """g (float[B, H, T, 24] q, float[B, 1, 24, T] kt, float[T, 40] v) => (float[B, H, T, 40] y) {
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }"""
    feeds = [
        {"q": normal(b, h, t, 24), "kt": normal(b, 1, 24, t, seed=1), "v": normal(t, 40, seed=2)}
        for b, h, t in ((2, 3, 40), (1, 1, 7), (2, 2, 65))
    ]
    assert len(chains(check(workers, parse(text), *feeds))) == 1


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves(workers: Workers, kind: str) -> None:
    text = f"""g ({kind}[2, T, 32] q, {kind}[2, 32, T] kt, {kind}[2, T, 32] v) => ({kind}[2, T, 32] y) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    import ml_dtypes

    dtype = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    given = {
        "q": normal(2, 50, 32) / 8, "kt": normal(2, 32, 50, seed=1), "v": normal(2, 50, 32, seed=2)
    }  # fmt: skip
    feeds = {name: array.astype(dtype) for name, array in given.items()}
    exe = build(prepared(parse(text), None), workers, 1, None)
    assert len(chains(exe)) == 1
    q, kt, v = (feeds[name].astype(np.float64) for name in ("q", "kt", "v"))
    scores = np.exp(q @ kt - (q @ kt).max(-1, keepdims=True))
    expected = scores / scores.sum(-1, keepdims=True) @ v
    assert abs(exe.run(feeds)["y"].astype(np.float64) - expected).max() < 3e-2


NOT = {
    "scores leave the graph": "y, s", "weights leave the graph": "y, w", "weights are read twice": "y, z",
}  # fmt: skip


@pytest.mark.parametrize("why", NOT)
def test_what_others_want_stays_in_memory(workers: Workers, why: str) -> None:
    outputs = ", ".join(f"float[B, H, T, {c}] {c}" for c in NOT[why].split(", "))
    text = f"""g ({OPEN}) => ({outputs}) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
        z = Relu(w)
    }}"""
    exe = check(workers, parse(text), feed("softmax", 1, 2, 30), onnxruntime=False)
    assert chains(exe) == []


def test_an_operand_that_is_overwritten_meanwhile_is_read_before(workers: Workers) -> None:
    """What a stage reads is updated in place between the stages: it cannot be done later."""
    text = f"""g ({KNOWN}) => (float[1, 3, 400, 24] q2, float[1, 3, 400, 40] y) {{
        s = MatMul(q, kt)
        q2 = Relu(q)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    given = feed("softmax", 1, 3, 400, 650)
    plain = mapsto.compile(parse(text), isa=workers.isa.name, cache=False)
    assert len(chains(plain)) == 1
    expected = plain.run(given)
    updating = mapsto.compile(parse(text), isa=workers.isa.name, updates={"q": "q2"}, cache=False)
    found = updating.run({name: array.copy() for name, array in given.items()})
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["q2"], expected["q2"])


def test_a_plan_with_a_chain_is_replayed(workers: Workers) -> None:
    """Read back, it makes the same program; other shares give the same bits, and impossible blocks are refused."""
    graph, given = prepared(model("softmax", KNOWN), None), feed("softmax", 1, 3, 400, 650)
    exe = build(graph, workers, 1, None)
    text = exe.plan.text()
    again = mapsto.compile(graph, plan=text, isa=workers.isa.name, threads=1, cache=False)
    assert again.plan.text() == text and again.program == exe.program
    assert_same_bits(again.run(given), exe.run(given))
    (blocks,) = re.findall(r"\d+ rows a block, \d+ shares", text)
    shares = text.replace(blocks, re.sub(r"\d+ shares", "3 shares", blocks))
    other = mapsto.compile(graph, plan=shares, isa=workers.isa.name, threads=1, cache=False)
    assert_same_bits(other.run(given), exe.run(given))
    for wrong in ("0 rows a block, 3 shares", "401 rows a block, 3 shares", "40 rows a block, 0 shares", "40 rows"):
        with pytest.raises(ParseError, match="as blocks"):
            mapsto.compile(graph, plan=text.replace(blocks, wrong), isa=workers.isa.name, threads=1, cache=False)


def test_a_chain_of_other_stages_is_refused(workers: Workers) -> None:
    graph = prepared(model("softmax", KNOWN), None)
    text = build(graph, workers, 1, None).plan.text()
    (recipe,) = re.findall(r" chain = (.*)$", text, re.MULTILINE)
    inner = recipe.removeprefix("chain(").removesuffix(")")
    parts = re.split(r", (?![^(]*\))", inner)
    assert len(parts) == 3
    for wrong in (parts[:2], parts[::-1], [*parts, parts[0]], [parts[0], parts[0], parts[2]]):
        with pytest.raises(ParseError, match="line"):
            edited = text.replace(recipe, f"chain({', '.join(wrong)})")
            mapsto.compile(graph, plan=edited, isa=workers.isa.name, cache=False)
