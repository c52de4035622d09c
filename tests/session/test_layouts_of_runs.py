"""One executable after runs of other sizes: what is remembered of one run's memory is not taken for another's."""

from __future__ import annotations

import itertools

import numpy as np
from tests.session.support import Feed, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build, prepared


def right(exe: Executable, graph: object, feed: Feed) -> None:
    expected = run_graph(graph, feed)  # type: ignore[arg-type]
    for name, array in exe.run(feed).items():
        assert array.shape == expected[name].shape, name
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_sizes_that_change_places(workers: Workers) -> None:
    """3 by 5, then 5 by 3: as many elements, and other rows."""
    graph = prepared(
        parse("""g (float[H, W] x) => (float[W, W] y, float[W, H] z) {
            s = Softmax(x)
            z = Transpose<perm = [1, 0]>(s)
            y = MatMul(z, s)
        }"""),
        None,
    )
    exe = build(graph, workers, 2, None)
    for shape in ((3, 5), (5, 3), (3, 5), (1, 15), (15, 1), (5, 3)):
        right(exe, graph, {"x": normal(*shape)})


def test_a_size_that_either_branch_binds(workers: Workers) -> None:
    """Equal numbers of elements, found by one branch and then by the other."""
    graph = prepared(
        parse("""g (float[N, 4] x, bool c) => (float y) {
            y = If (c) <
                then_branch = t () => (float a) {
                    i = NonZero(x)
                    f = Cast<to = 1>(i)
                    e = Exp(f)
                    a = ReduceSum<keepdims = 0>(e)
                },
                else_branch = e () => (float b) {
                    k = Floor(x)
                    i = NonZero(k)
                    f = Cast<to = 1>(i)
                    p = Transpose<perm = [1, 0]>(f)
                    s = Softmax(p)
                    q = Tanh(s)
                    b = ReduceSum<keepdims = 0>(q)
                }
            >
        }"""),
        None,
    )
    exe = build(graph, workers, 2, None)
    x = np.zeros((6, 4), np.float32)
    x[:3, 1], x[4, 2] = 2, 5
    other = np.where(normal(6, 4) > 0, 1, 0).astype(np.float32)
    for values, way in itertools.product((x, other, x), (True, False)):
        right(exe, graph, {"x": values, "c": np.array(way)})


def test_a_part_that_begins_where_a_run_finds(workers: Workers) -> None:
    """The second part of what is joined lies behind as many rows as there are elements."""
    graph = prepared(
        parse("""g (float[N, 4] x, float[K, 2] z, float[2, 24] w) => (float[R, 24] y) {
            i = NonZero(x)
            f = Cast<to = 1>(i)
            t = Transpose<perm = [1, 0]>(f)
            a = MatMul(t, w)
            b = MatMul(z, w)
            y = Concat<axis = 0>(a, b)
        }"""),
        None,
    )
    exe = build(graph, workers, 2, None)
    for seed, rows in itertools.product(range(4), (3, 1)):
        x = np.where(normal(5, 4, seed=seed) > 0.3, 1, 0).astype(np.float32)
        right(exe, graph, {"x": x, "z": normal(rows, 2, seed=seed), "w": normal(2, 24, seed=9)})
