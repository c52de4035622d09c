"""Axes of different names that broadcast: equal or 1, as each run has them; one executable, nothing compiled again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from tests.session.support import Feed, assert_close, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.passes.gradient import gradient
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build, prepared

SIZES = (0, 1, 2, 5)


def made(workers: Workers, text: str) -> Executable:
    return build(prepared(parse(text), None), workers, 1, None)


def agrees(exe: Executable, feeds: Iterable[Feed], expected: Callable[..., Any]) -> int:
    """Every feed gives what numpy gives, or is refused where numpy refuses; how many were right."""
    good = 0
    for feed in feeds:
        shapes = {name: array.shape for name, array in feed.items()}
        try:
            want = {"y": expected(**feed)}
        except ValueError:
            with pytest.raises((ExecutionError, ShapeError)):
                exe.run(feed)
            continue
        found = exe.run(feed)
        assert found["y"].shape == want["y"].shape, shapes
        assert_close(found, want)
        good += 1
    return good


def pairs(*shapes: str, inner: tuple[int, ...] = ()) -> Iterable[Feed]:
    """Inputs x, z, w.. for all sizes of the letters of their shapes."""
    letters = sorted(set("".join(shapes)))
    for sizes in itertools.product(SIZES, repeat=len(letters)):
        extent = dict(zip(letters, sizes, strict=True))
        yield {
            name: normal(*(extent[c] for c in shape), *inner, seed=k)
            for k, (name, shape) in enumerate(zip("xzw", shapes, strict=False))
        }


def test_an_elementwise_op_of_all_open_operands(workers: Workers) -> None:
    exe = made(workers, "g (float[a, b] x, float[c, d] z) => (float[e, f] y) { y = Mul(x, z) }")
    assert agrees(exe, pairs("ab", "cd"), lambda x, z: x * z) > 50


def test_what_goes_on_from_a_broadcast(workers: Workers) -> None:
    """A row at a time (a softmax) and the whole (a product with its own operand) after it."""
    text = """g (float[a, b] x, float[c, d] z) => (float[e, f] y) { s = Add(x, z) t = Softmax(s) y = Mul(t, x) }"""

    def expected(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        s = x + z
        s = np.exp(s - s.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(s / s.sum(axis=-1, keepdims=True) * x, np.float32)

    assert agrees(made(workers, text), pairs("ab", "cd"), expected) > 50


def test_batches_of_a_product(workers: Workers) -> None:
    exe = made(workers, "g (float[a, b, 3, k] x, float[c, d, k, n] z) => (float[e, f, 3, n] y) { y = MatMul(x, z) }")
    feeds = ({"x": normal(a, b, 3, 7), "z": normal(c, d, 7, 20)} for a, b, c, d in itertools.product(SIZES, repeat=4))
    assert agrees(exe, feeds, lambda x, z: x @ z) > 50


def test_three_operands_and_ranks(workers: Workers) -> None:
    exe = made(
        workers,
        "g (float[a, b] x, float[c] z, float[d, 1] w) => (float[e, f] y) { s = Greater(x, w) y = Where(s, x, z) }",
    )
    assert (
        agrees(exe, ({**f, "w": f["w"][:, None]} for f in pairs("ab", "c", "d")), lambda x, z, w: np.where(x > w, x, z))
        > 50
    )


def test_expand_to_open_extents(workers: Workers) -> None:
    exe = made(workers, "g (float[a, b] x, float[c, d] z) => (float[e, f] y) { s = Shape(z) y = Expand(x, s) }")
    assert agrees(exe, pairs("ab", "cd"), lambda x, z: np.broadcast_arrays(x, z)[0]) > 50


def test_an_open_axis_beside_a_fixed_one(workers: Workers) -> None:
    exe = made(workers, "g (float[a, b] x, float[4] z) => (float[a, 4] y) { y = Add(x, z) }")
    feeds = ({"x": normal(a, b), "z": normal(4)} for a, b in itertools.product((0, 1, 4, 5), repeat=2))
    assert agrees(exe, feeds, lambda x, z: x + z) == 8


def test_masks_of_other_names_in_attention(workers: Workers) -> None:
    """A mask of one row or one sample; what it is added to goes on into a product that needs equal extents."""
    text = """g (float[n, h, q, 16] x, float[p, h, k, 16] z, float[m, 1, o, t] w) => (float[n, h, q, 16] y) {
        zt = Transpose<perm = [0, 1, 3, 2]>(z)
        s = MatMul(x, zt)
        masked = Add(s, w)
        a = Softmax(masked)
        y = MatMul(a, z)
    }"""

    def expected(x: np.ndarray, z: np.ndarray, w: np.ndarray) -> np.ndarray:
        s = x @ z.transpose(0, 1, 3, 2) + w
        s = np.exp(s - s.max(axis=-1, keepdims=True))
        return np.asarray(s / s.sum(axis=-1, keepdims=True) @ z, np.float32)

    feeds = [
        {"x": normal(n, 2, q, 16), "z": normal(p, 2, k, 16), "w": normal(m, 1, o, t)}
        for n, q, p, k, m, o, t in itertools.product((1, 3), (1, 5), (1, 3), (1, 7), (1, 3), (1, 5), (1, 7))
    ]
    assert agrees(made(workers, text), feeds, expected) > 60


def test_the_usual_case_is_one_flat_loop(workers: Workers) -> None:
    """Where the extents are equal, the kernel is that of equal names: it joins both axes into one."""
    same = made(workers, "g (float[a, b] x, float[a, b] z) => (float[a, b] y) { y = Add(x, z) }")
    other = made(workers, "g (float[a, b] x, float[c, d] z) => (float[e, f] y) { y = Add(x, z) }")
    assert same.program.functions() == other.program.functions()[:1]
    assert len(other.program.functions()) == 2


def test_equal_names_stay_one_kernel(workers: Workers) -> None:
    exe = made(
        workers, "g (float[a, b] x, float[a, 1] z, float[b] w) => (float[a, b] y) { s = Add(x, z) y = Mul(s, w) }"
    )
    assert len(exe.program.functions()) == 1
    assert not exe.program.checks


def test_saved_and_loaded(workers: Workers, tmp_path: Any) -> None:
    exe = made(workers, "g (float[a, b] x, float[c, d] z) => (float[e, f] y) { y = Add(x, z) }")
    exe.save(tmp_path / "add.mapsto")
    assert agrees(mapsto.load(tmp_path / "add.mapsto", threads=2), pairs("ab", "cd"), lambda x, z: x + z) > 50


def test_sizes_that_do_not_fit_are_named(workers: Workers) -> None:
    exe = made(workers, "g (float[a] x, float[c] z) => (float[e] y) { y = Add(x, z) }")
    with pytest.raises(ExecutionError, match="Add_0: the sizes a and c must be equal, or one of them 1"):
        exe.run({"x": normal(2), "z": normal(3)})


def test_a_gradient_that_only_a_run_could_know_is_refused() -> None:
    b = Builder("g")
    x, z = (b.input(n, DType.F32, [sym(d)]) for n, d in (("x", "a"), ("z", "c")))
    loss = b.one("reduce", [b.one("mul", [x, z])], kind="sum", axes=(0,), keepdims=False)
    with pytest.raises(ShapeError, match="only a run knows"):
        gradient(b.finish([loss]), loss.name, ["x"])
