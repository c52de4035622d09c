"""Products of a batch and what is between them, slice by slice: right for every form and size, with a slice of what
passes in memory; replayed from plans; and left apart where that would not pay.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tests.runtime.helpers import in_child
from tests.session.support import Feed, assert_close, assert_same_bits, check, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ParseError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.runtime.guard import Fences
from mapsto.session.compile import build, prepared

B, H, T, D = 8, 8, 100, 24
GIVEN = f"float[{B}, {H}, {T}, {D}] q, float[{B}, {H}, {D}, {T}] kt, float[{B}, {H}, {T}, 40] v"
SHAPES: dict[str, tuple[int, ...]] = {"q": (B, H, T, D), "kt": (B, H, D, T), "v": (B, H, T, 40)}
SOFTMAX = "s = MatMul(q, kt) w = Softmax(s) y = MatMul(w, v)"

FORMS: dict[str, tuple[str, dict[str, tuple[int, ...]], str, str]] = {
    # more inputs, their shapes, nodes, outputs
    "weights are kept": ("", {}, SOFTMAX, "y, w"),
    "scores are kept": ("", {}, SOFTMAX, "y, s"),
    "two readers": (
        f", float[{B}, {H}, {T}, 17] u", {"u": (B, H, T, 17)},
        "s = MatMul(q, kt) w = Tanh(s) y = MatMul(w, v) z = MatMul(w, u)", "y, z",
    ),
    "transposed": (
        "", {}, "s = MatMul(q, kt) w = Softmax(s) t = Transpose<perm = [0, 1, 3, 2]>(w) y = MatMul(t, v)", "y, w"
    ),
    "a mask of all": (
        f", float[{T}, {T}] m", {"m": (T, T)}, "s = MatMul(q, kt) a = Add(s, m) w = Softmax(a) y = MatMul(w, v)", "y, w"
    ),
    "a mask of each": (
        f", float[{B}, 1, 1, {T}] m", {"m": (B, 1, 1, T)},
        "s = MatMul(q, kt) a = Add(s, m) w = Softmax(a) y = MatMul(w, v)", "y, w",
    ),
    "four products": (
        "", {}, "s = MatMul(q, kt) w = Softmax(s) y = MatMul(w, v) vt = Transpose<perm = [0, 1, 3, 2]>(v) "
        "g = MatMul(y, vt) d = Mul(g, w) z = MatMul(d, q)", "y, z, w",
    ),
}  # fmt: skip


def model(name: str) -> Any:
    more, shapes, nodes, outputs = FORMS[name]
    lines = re.sub(r" (?=\w+ = )", "\n", nodes)
    given = ", ".join(f"float[P{n}, Q{n}, R{n}, S{n}] {o}" for n, o in enumerate(outputs.split(", ")))
    return parse(f"g ({GIVEN}{more}) => ({given}) {{ {lines} }}")


def feed(name: str, seed: int = 0) -> Feed:
    shapes = {**SHAPES, **FORMS[name][1]}
    found = {key: normal(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}
    if name == "a mask of each":
        found["m"] = np.where(found["m"] > 1, -np.inf, 0).astype(np.float32)
        found["m"][..., :1] = 0
    return found


def sliced(exe: Any) -> list[str]:
    return re.findall(r"^work \S+ sliced = (.*)$", exe.plan.text(), re.MULTILINE)


@pytest.mark.parametrize("name", FORMS)
def test_a_form(workers: Workers, name: str) -> None:
    exe = check(workers, model(name), feed(name), onnxruntime=name == "weights are kept")
    (recipe,) = sliced(exe)
    assert recipe.startswith("sliced(passing(")


def test_what_passes_is_in_memory_a_slice_at_a_time(workers: Workers) -> None:
    exe = build(prepared(model("weights are kept"), None), workers, 1, None)
    scores = B * H * T * T * 4
    assert exe.memory().arena < scores / 2
    assert len(sliced(exe)) == 1


def test_open_batches(workers: Workers) -> None:
    """One executable, from none on; threads share slices, whose number is known to a run alone."""
    heads = 64
    text = f"""g (float[N, {heads}, {T}, {D}] q, float[N, {heads}, {D}, {T}] kt, float[N, {heads}, {T}, 40] v)
        => (float[N, {heads}, {T}, 40] y, float[N, {heads}, {T}, {T}] w) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    shapes = {"q": (T, D), "kt": (D, T), "v": (T, 40)}
    feeds = [{key: normal(n, heads, *shape, seed=n) for key, shape in shapes.items()} for n in (1, 0, 3)]
    assert len(sliced(check(workers, parse(text), *feeds, onnxruntime=False))) == 1


def test_one_leading_dim_and_a_right_operand_that_all_share(workers: Workers) -> None:
    n = B * H
    text = f"""g (float[{n}, {T}, {D}] q, float[{n}, {D}, {T}] kt, float[{T}, 40] v)
        => (float[{n}, {T}, 40] y, float[{n}, {T}, {T}] w) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    given = {"q": normal(n, T, D), "kt": normal(n, D, T, seed=1), "v": normal(T, 40, seed=2)}
    exe = check(workers, parse(text), given, onnxruntime=False)
    assert len(sliced(exe)) == 1


def test_heads_that_share_their_keys(workers: Workers) -> None:
    text = f"""g (float[{B}, {H}, {T}, {D}] q, float[{B}, 1, {D}, {T}] kt, float[{B}, 1, {T}, 40] v)
        => (float[{B}, {H}, {T}, 40] y, float[{B}, {H}, {T}, {T}] w) {{
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    given = {"q": normal(B, H, T, D), "kt": normal(B, 1, D, T, seed=1), "v": normal(B, 1, T, 40, seed=2)}
    check(workers, parse(text), given, onnxruntime=False)


def test_no_slice_leaves_its_buffers(workers: Workers) -> None:
    """Runs between pages that fault, in a child process."""
    for name in ("weights are kept", "four products"):
        exe = build(prepared(model(name), None), workers, 1, None)
        given = feed(name)

        def between_fences(exe: Any = exe, given: Feed = given) -> bool:
            for behind in (True, False):
                exe.guard(Fences(behind))
                exe.run(given)
            return True

        assert in_child(between_fences) == 0


def test_little_stays_apart(workers: Workers) -> None:
    """What passes stays in the caches as it is."""
    text = """g (float[2, 2, 20, 24] q, float[2, 2, 24, 20] kt, float[2, 2, 20, 40] v)
        => (float[2, 2, 20, 40] y, float[2, 2, 20, 20] w) {
        s = MatMul(q, kt)
        w = Softmax(s)
        y = MatMul(w, v)
    }"""
    assert not sliced(build(prepared(parse(text), None), workers, 1, None))


def test_rows_of_other_slices_stay_apart(workers: Workers) -> None:
    """A sum over the batch needs all slices: it comes after them."""
    text = f"""g ({GIVEN}) => (float[1, {H}, {T}, {T}] y) <int64[1] first = {{0}}> {{
        s = MatMul(q, kt)
        w = Tanh(s)
        y = ReduceSum(w, first)
    }}"""
    exe = check(workers, parse(text), feed("weights are kept"), onnxruntime=False)
    assert not sliced(exe)


def test_products_of_other_heads(workers: Workers) -> None:
    """What is multiplied belongs to another slice: that product comes after all slices."""
    text = f"""g ({GIVEN}) => (float[{B}, {H}, {T}, 40] y)
        <int64[1] from = {{-1}}, int64[1] to = {{-1000}}, int64[1] axis = {{1}}, int64[1] step = {{-1}}> {{
        s = MatMul(q, kt)
        w = Softmax(s)
        r = Slice(w, from, to, axis, step)
        y = MatMul(r, v)
    }}"""
    exe = check(workers, parse(text), feed("weights are kept"), onnxruntime=False)
    assert all("matmul_y" not in recipe and not recipe.endswith("y)") for recipe in sliced(exe))


def test_an_operand_that_is_overwritten_meanwhile(workers: Workers) -> None:
    text = f"""g ({GIVEN}) => (float[{B}, {H}, {T}, {D}] q2, float[{B}, {H}, {T}, 40] y, float[{B}, {H}, {T}, {T}] w) {{
        s = MatMul(q, kt)
        q2 = Relu(q)
        w = Softmax(s)
        y = MatMul(w, v)
    }}"""
    given = feed("weights are kept")
    expected = run_graph(load(parse(text)), given)
    updating = mapsto.compile(parse(text), isa=workers.isa.name, updates={"q": "q2"}, cache=False)
    found = updating.run({name: array.copy() for name, array in given.items()})
    assert_close(found, expected)


def test_a_plan_is_replayed(workers: Workers) -> None:
    """Read back, it makes the same program; other shares give the same bits; and what cannot be is refused."""
    graph, given = prepared(model("four products"), None), feed("four products")
    exe = build(graph, workers, 1, None)
    text, isa = exe.plan.text(), workers.isa.name
    again = mapsto.compile(graph, plan=text, isa=isa, threads=1, cache=False)
    assert again.plan.text() == text and again.program == exe.program
    assert_same_bits(again.run(given), exe.run(given))
    (shares,) = re.findall(r'as slices "(\d+ shares)', text)
    other = mapsto.compile(graph, plan=text.replace(shares, "3 shares"), isa=isa, threads=1, cache=False)
    assert_same_bits(other.run(given), exe.run(given))
    for wrong in ("0 shares", "three shares", "3"):
        with pytest.raises(ParseError, match="as slices"):
            mapsto.compile(graph, plan=text.replace(shares, wrong), isa=isa, threads=1, cache=False)


def test_a_plan_of_other_stages_is_refused(workers: Workers) -> None:
    graph = prepared(model("weights are kept"), None)
    text = build(graph, workers, 1, None).plan.text()
    (recipe,) = re.findall(r" sliced = (.*)$", text, re.MULTILINE)
    passing, stages = re.fullmatch(r"sliced\(passing\((\S+)\), (.*)\)", recipe).groups()  # type: ignore[union-attr]
    wrong = {
        "no stages": f"sliced(passing({passing}))",
        "nothing passes": f"sliced({stages})",
        "an output passes": f"sliced(passing({passing}, w), {stages})",
        "an input passes": f"sliced(passing(q), {stages})",
        "nobody makes it": f"sliced(passing(nobody), {stages})",
    }
    for what, edited in wrong.items():
        with pytest.raises(ParseError):
            mapsto.compile(graph, plan=text.replace(recipe, edited), isa=workers.isa.name, cache=False)
            raise AssertionError(what)
