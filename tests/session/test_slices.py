"""Products of a batch and what is between them, slice by slice: right for every form and size, with a slice of what
passes in memory; replayed from plans; and left apart where that would not pay.
"""

from __future__ import annotations

import random
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
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import gradient
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


@pytest.mark.parametrize("constant", ["kt", "v"])
def test_a_right_operand_of_each_head_that_is_constant(workers: Workers, constant: str) -> None:
    """Constants are packed ahead, all heads at once: their products stay apart."""
    b, given = Builder("g"), feed("weights are kept")
    values = {
        name: b.constant(given[name], name) if name == constant else b.input(name, DType.F32, shape)
        for name, shape in SHAPES.items()
    }
    scores = b.one("matmul", [values["q"], values["kt"]])
    weights = composite.softmax(b, scores, -1)
    graph = b.finish([b.one("matmul", [weights, values["v"]]), weights], names=["y", "w"])
    inputs = {v.name: given[v.name] for v in graph.inputs}
    assert_close(build(prepared(graph, None), workers, 1, None).run(inputs), run_graph(graph, inputs))


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


def _replayed(graph: Graph, exe: Any, given: Feed, isa: str) -> None:
    text = exe.plan.text()
    again = mapsto.compile(graph, plan=text, isa=isa, threads=1, cache=False)
    assert again.plan.text() == text and again.program == exe.program
    assert_same_bits(again.run(given), exe.run(given))


def test_the_gradient_of_attention(workers: Workers) -> None:
    """Weights are made with the scores, and kept for products of the way back, for which they lie turned."""
    b = Builder("attention")
    shapes = {"q": (B, H, T, D), "k": (B, H, T, D), "v": (B, H, T, 32)}
    q, k, v = (b.input(name, DType.F32, shape) for name, shape in shapes.items())
    scores = b.one("matmul", [q, b.one("transpose", [k], perm=(0, 1, 3, 2))])
    y = b.one("matmul", [composite.softmax(b, scores, -1), v])
    loss = b.one("reduce", [b.one("mul", [y, y])], kind="sum", axes=(0, 1, 2, 3), keepdims=False)
    graph = gradient(b.finish([loss], names=["loss"]), "loss", ["q", "k", "v"])
    given = {name: normal(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}
    exe = build(prepared(graph, None), workers, 1, None)
    assert len(sliced(exe)) >= 2
    assert_close(exe.run(given), run_graph(graph, given))
    _replayed(prepared(graph, None), exe, given, workers.isa.name)


_KINDS = ("matmul", "matmul", "matmul", "softmax", "tanh", "transpose", "add", "mask", "scale", "less the largest")


def _random(seed: int) -> Graph:
    """Products of batches and what may be between them."""
    rng = random.Random(seed)
    lead = rng.choice([(3,), (2, 3), (4, 1), (1, 5), (2, 2, 2)])
    sizes = [rng.choice([4, 8, 16, 17, 20, 32, 40]) for _ in range(3)]
    b = Builder("random")

    def given(*shape: int) -> Value:
        if b.inputs and rng.random() < 0.2:
            return b.constant(normal(*shape, seed=rng.randrange(1000)) / 3)
        return b.input(f"x{len(b.inputs)}", DType.F32, shape)

    values = [given(*lead, rng.choice(sizes), rng.choice(sizes)) for _ in range(2)]
    for _ in range(rng.randint(4, 10)):
        values.append(_next(b, rng, values, sizes, given))
    made = [v for v in values if v not in b.inputs]
    kept = dict.fromkeys(v.name for v in (made[-1], *(v for v in made if rng.random() < 0.25)))
    return b.finish([b.lookup(name) for name in kept], names=[f"y{n}" for n in range(len(kept))])


def _next(b: Builder, rng: random.Random, values: list[Value], sizes: list[int], given: Any) -> Value:
    kind, x = rng.choice(_KINDS), rng.choice(values)
    inner: Any = x.shape[-1]
    if kind == "matmul":
        fitting = [v for v in values if v.shape[:-2] == x.shape[:-2] and v.shape[-2] == inner]
        shared = rng.random() < 0.2
        other = rng.choice(fitting) if fitting and rng.random() < 0.7 else None
        if other is None:
            other = given(*(() if shared else x.shape[:-2]), inner, rng.choice(sizes))
        return b.one("mul", [b.one("matmul", [x, other]), b.constant(np.float32(0.3))])
    if kind == "softmax":
        return composite.softmax(b, x, rng.choice([-1, -1, -2]))
    if kind == "tanh":
        return b.one("tanh", [x])
    if kind == "transpose":
        return b.one("transpose", [x], perm=(*range(x.rank - 2), x.rank - 1, x.rank - 2))
    if kind == "less the largest":
        return b.one("sub", [x, b.one("reduce", [x], kind="max", axes=(x.rank - 1,), keepdims=True)])
    others = {"add": x.shape, "mask": x.shape[-2:], "scale": (*x.shape[:-2], 1, inner)}
    same = [v for v in values if v.shape == others[kind]]
    return b.one("mul" if kind == "scale" else "add", [x, rng.choice(same) if same else given(*others[kind])])


@pytest.mark.parametrize("seed", range(8))
def test_random_batches(workers: Workers, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be done slice by slice is, however small; plans are replayed."""
    monkeypatch.setattr("mapsto.plan.by_slices._Grouping._pays", lambda self, group, passing: bool(passing))
    number = {"sse2": 0, "avx2": 100, "avx512": 200}.get(workers.isa.name, 300) + seed
    graph = _random(number)
    given = {v.name: normal(*v.shape, seed=number + n) / 3 for n, v in enumerate(graph.inputs)}  # type: ignore[arg-type]
    exe = build(prepared(graph, None), workers, 1, None)
    found = exe.run(given)
    for name, expected in run_graph(graph, given, wide=True).items():
        largest = max(abs(expected).max(), 1e-3)
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-5 * largest)
    _replayed(prepared(graph, None), exe, given, workers.isa.name)
