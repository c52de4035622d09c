"""Indices that are data: each op in range, out of range, and over an axis without elements, known early or late."""

from __future__ import annotations

import numpy as np
import pytest
from tests.session.support import Feed, assert_close, assert_same_bits, by_onnxruntime, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, MapstoError, ModelError, ShapeError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Bounds
from mapsto.session.compile import build, prepared

# y from data d[E], indices i[M] and updates u[M]
_TUPLES = "l = Constant<value_ints = [-1]>() j = Unsqueeze(i, l)"
OPS = {
    "Gather": "y = Gather(d, i)",
    "GatherElements": "y = GatherElements(d, i)",
    "GatherND": f"{_TUPLES} y = GatherND(d, j)",
    "ScatterElements": "y = ScatterElements(d, i, u)",
    "ScatterElements added": 'y = ScatterElements<reduction = "add">(d, i, u)',
    "ScatterND": f"{_TUPLES} y = ScatterND(d, j, u)",
    "ScatterND added": f'{_TUPLES} y = ScatterND<reduction = "add">(d, j, u)',
}
WRONG = [3, -4, 99, -100, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]


def op_of(name: str) -> str:
    return name.split()[0]


def plain(name: str, extent: str = "E", number: str = "M") -> str:
    return f"g (float[{extent}] d, int64[{number}] i, float[{number}] u) => (float[?] y) {{ {OPS[name]} }}"


def bound(name: str) -> str:
    """The extent is how many elements of a mask hold: a size that the run itself finds."""
    return f"""g (bool[K] mask, int64[M] i, float[M] u) => (float[?] y) {{
        z = NonZero(mask) flat = Constant<value_ints = [-1]>() r = Reshape(z, flat) d = Cast<to = 1>(r)
        {OPS[name]}
    }}"""


def in_branch(name: str) -> str:
    return f"""g (float[E] d, int64[M] i, float[M] u, bool c) => (float s) {{
        s = If (c) <
            then_branch = t () => (float a) {{ {OPS[name]} a = ReduceSum<keepdims = 0>(y) }},
            else_branch = e () => (float b) {{ b = ReduceSum<keepdims = 0>(u) }}
        >
    }}"""


def bound_in_branch(name: str) -> str:
    return f"""g (bool[K] mask, int64[M] i, float[M] u, bool c) => (float s) {{
        s = If (c) <
            then_branch = t () => (float a) {{
                z = NonZero(mask) flat = Constant<value_ints = [-1]>() r = Reshape(z, flat) d = Cast<to = 1>(r)
                {OPS[name]} a = ReduceSum<keepdims = 0>(y)
            }},
            else_branch = e () => (float b) {{ b = ReduceSum<keepdims = 0>(u) }}
        >
    }}"""


def feed(extent: int, indices: list[int], **more: np.ndarray) -> Feed:
    updates = np.arange(100, 100 + len(indices), dtype=np.float32)
    return {"d": np.arange(extent, dtype=np.float32), "i": np.array(indices, np.int64), "u": updates, **more}


def masked(extent: int, indices: list[int], **more: np.ndarray) -> Feed:
    given = feed(extent, indices, **more)
    del given["d"]
    return {"mask": np.array([True] * extent + [False] * 3), **given}


def compiled(workers: Workers, text: str, threads: int = 1) -> Executable:
    return build(prepared(parse(text), None), workers, threads, None)


def refused(exe: Executable, text: str, given: Feed, *said: str) -> None:
    """One thread, two, and the reference say the same of the node, and the next run is right."""
    for engine in (exe, Executable(exe.program, exe.objects, 2)):
        with pytest.raises(ExecutionError) as caught:
            engine.run(given)
        assert all(part in str(caught.value) for part in said), str(caught.value)
    with pytest.raises(ExecutionError) as caught:
        run_graph(load(parse(text)), given)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def right(exe: Executable, text: str, given: Feed, onnxruntime: bool = True) -> None:
    found = exe.run(given)
    assert_close(found, run_graph(load(parse(text)), given))
    if onnxruntime:
        assert_close(found, by_onnxruntime(parse(text), given))
    assert_same_bits(Executable(exe.program, exe.objects, 2).run(given), found)
    exe.poison()
    assert_same_bits(exe.run(given), found)
    exe.poison(False)


# ---- out of range ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("extent", ["3", "E"])
def test_an_index_out_of_range(name: str, extent: str, workers: Workers) -> None:
    text = plain(name, extent)
    exe = compiled(workers, text)
    for index in WRONG:
        said = f"index {index} is outside of axis 0, which has 3 elements (allowed: -3 to 2)"
        refused(exe, text, feed(3, [0, index, 1]), f"({op_of(name)})", said)
        right(exe, text, feed(3, [0, 2, 1]))
    right(exe, text, feed(3, [-3, -1, -2]))
    right(exe, text, feed(3, []))


@pytest.mark.parametrize("name", OPS)
def test_an_index_out_of_a_bound_axis(name: str, workers: Workers) -> None:
    text = bound(name)
    exe = compiled(workers, text)
    for index in WRONG:
        refused(exe, text, masked(3, [index, 1]), f"({op_of(name)})", f"index {index} ", "3 elements")
        right(exe, text, masked(3, [-3, 2]))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("make", [in_branch, bound_in_branch])
def test_an_index_of_a_branch_is_only_looked_at_there(name: str, make, workers: Workers) -> None:
    text, given = make(name), feed if make is in_branch else masked
    exe = compiled(workers, text)
    yes, no = np.array(True), np.array(False)
    for index in WRONG:
        refused(exe, text, given(3, [0, index], c=yes), f"({op_of(name)})", f"index {index} ", "axis 0")
        right(exe, text, given(3, [0, index], c=no))
    right(exe, text, given(3, [-3, 2], c=yes))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("wrong", [4999, 2500, 0])
def test_one_wrong_index_among_many(dtype: str, wrong: int, workers: Workers) -> None:
    """Vectors, tails and shares: wherever it stands, the one is found."""
    text = f"g (float[E, 8] d, {dtype}[M] i) => (float[M, 8] y) {{ y = Gather(d, i) }}"
    exe = compiled(workers, text)
    data = np.arange(7 * 8, dtype=np.float32).reshape(7, 8)
    indices = np.random.default_rng(0).integers(-7, 7, 5000).astype(dtype)
    right(exe, text, {"d": data, "i": indices})
    for index in (7, -8, np.iinfo(dtype).max, np.iinfo(dtype).min):
        bad = indices.copy()
        bad[wrong] = index
        refused(exe, text, {"d": data, "i": bad}, f"index {index} ", "7 elements")


def test_each_column_has_its_own_axis(workers: Workers) -> None:
    text = "g (float[A, B, C] d, int64[M, 3] i) => (float[M] y) { y = GatherND(d, i) }"
    exe = compiled(workers, text)
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    good = np.array([[1, 2, 3], [-2, -3, -4], [0, 0, 0]])
    right(exe, text, {"d": data, "i": good})
    for column, extent in enumerate(data.shape):
        for index in (extent, -extent - 1):
            bad = good.copy()
            bad[1, column] = index
            refused(exe, text, {"d": data, "i": bad}, f"index {index} is outside of axis {column}, which has {extent}")


def test_columns_come_after_the_batch_axes(workers: Workers) -> None:
    text = "g (float[2, 3, 4] d, int64[2, M, 1] i) => (float[2, M, 4] y) { y = GatherND<batch_dims = 1>(d, i) }"
    exe = compiled(workers, text)
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    right(exe, text, {"d": data, "i": np.array([[[2], [-3]], [[0], [1]]])})
    refused(exe, text, {"d": data, "i": np.array([[[3]], [[0]]])}, "index 3 is outside of axis 1, which has 3")


@pytest.mark.parametrize("name", OPS)
def test_constants_are_looked_at_when_compiling(name: str, workers: Workers) -> None:
    for index in (3, -4):
        text = f"g (float[3] d, float[1] u) => (float[?] y) {{ i = Constant<value_ints = [{index}]>() {OPS[name]} }}"
        with pytest.raises((ShapeError, ModelError), match=rf"{op_of(name)}.*index {index} is outside of axis 0"):
            prepared(parse(text), None)


@pytest.mark.parametrize("name", OPS)
def test_a_constant_over_an_open_axis_is_a_condition_on_sizes(name: str, workers: Workers) -> None:
    text = f"g (float[E] d, float[2] u) => (float[?] y) {{ i = Constant<value_ints = [2, -2]>() {OPS[name]} }}"
    exe = compiled(workers, text)
    assert not any(isinstance(step, Bounds) for step in exe.program.steps)
    given = feed(3, [0, 0])
    del given["i"]
    right(exe, text, given)
    given["d"] = given["d"][:2]
    refused(exe, text, given, f"({op_of(name)})", "index 2 is outside of axis 0")


# ---- an axis without elements ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_a_fixed_axis_without_elements(name: str, workers: Workers) -> None:
    with pytest.raises((ShapeError, ModelError), match=f"{op_of(name)}.*axis 0 has no element to index"):
        prepared(parse(plain(name, "E", "2")), {"d": [0]})
    text = plain(name)
    exe = build(prepared(parse(text), {"d": [0]}), workers, 1, None)
    refused(exe, text, feed(0, [0, 0]), f"({op_of(name)})", "axis 0 has no element to index")
    right(exe, text, feed(0, []), onnxruntime=False)


@pytest.mark.parametrize("name", OPS)
def test_an_axis_that_a_run_finds_empty(name: str, workers: Workers) -> None:
    for text, given in ((plain(name), feed), (bound(name), masked)):
        exe = compiled(workers, text)
        for indices in ([0], [0, 0], [-1], [2**63 - 1], [0] * 100):
            refused(exe, text, given(0, indices), f"({op_of(name)})", "axis 0 has no element to index")
            right(exe, text, given(2, [0, -1]))
        right(exe, text, given(0, []), onnxruntime=False)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("make", [in_branch, bound_in_branch])
def test_an_empty_axis_in_a_branch(name: str, make, workers: Workers) -> None:
    """The condition comes before the kernels that it guards; where the branch is not taken, it is not asked."""
    text, given = make(name), feed if make is in_branch else masked
    exe = compiled(workers, text)
    yes, no = np.array(True), np.array(False)
    refused(exe, text, given(0, [0, 0], c=yes), f"({op_of(name)})", "axis 0 has no element to index")
    right(exe, text, given(0, [0, 0], c=no), onnxruntime=False)
    right(exe, text, given(0, [], c=yes), onnxruntime=False)
    right(exe, text, given(2, [1, -2], c=yes))


def test_a_constant_index_into_a_bound_axis(workers: Workers) -> None:
    """No output has the bound size, so only the operand speaks of it: the condition stands all the same."""
    text = """g (bool[K] mask) => (int64[1] y) {
        z = NonZero(mask) flat = Constant<value_ints = [-1]>() d = Reshape(z, flat)
        i = Constant<value_ints = [0]>() y = Gather(d, i)
    }"""
    exe = compiled(workers, text)
    right(exe, text, {"mask": np.array([False, True])})
    with pytest.raises(MapstoError, match="axis 0|element"):
        exe.run({"mask": np.array([False, False])})


# ---- what else takes indices or lengths ------------------------------------------------------------------------------


def test_compress_with_a_condition_too_long(workers: Workers) -> None:
    with pytest.raises((ShapeError, ModelError), match="Compress.*condition has 5 elements, axis 0 has 3"):
        prepared(parse("g (float[3] x, bool[5] c) => (float[?] y) { y = Compress<axis = 0>(x, c) }"), None)
    text = "g (float[E, 2] x, bool[L] c) => (float[?, 2] y) { y = Compress<axis = 0>(x, c) }"
    exe = compiled(workers, text)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    for length in (0, 1, 3, 4):
        right(exe, text, {"x": x, "c": np.arange(length) % 2 == 0})
    refused(exe, text, {"x": x, "c": np.zeros(5, bool)}, "(Compress)", "must not be longer")
    refused(exe, text, {"x": x[:0], "c": np.ones(1, bool)}, "(Compress)", "must not be longer")


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_outside_of_the_classes(op: str, weighted: bool, workers: Workers) -> None:
    weight = ", w" if weighted else ""
    text = f"g (float[N, C] x, int64[N] t, float[C] w) => (float y) {{ y = {op}(x, t{weight}) }}"
    ignoring = text.replace(f"{op}(", f"{op}<ignore_index = 99>(")
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    w = np.ones(4, np.float32)
    for case, extra in ((text, []), (ignoring, [99])):
        exe = compiled(workers, case)
        right(exe, case, {"x": x, "t": np.array([0, 3, *(extra or [1])]), "w": w}, onnxruntime=weighted)
        for target in (4, -1, 2**63 - 1, -(2**63)):
            said = f"target {target} is outside of axis 1, which has 4 elements (allowed: 0 to 3)"
            refused(exe, case, {"x": x, "t": np.array([0, target, 1]), "w": w}, f"({op})", said)


def test_lengths_of_sequences(workers: Workers) -> None:
    text = "g (float[T, B] x, int64[B] n) => (float[T, B] y) { y = ReverseSequence(x, n) }"
    exe = compiled(workers, text)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    right(exe, text, {"x": x, "n": np.array([4, 1, 3])})
    assert sum(isinstance(step, Bounds) for step in exe.program.steps) == 1  # of the lengths, not of every element
    for length in (5, -1, 2**63 - 1):
        said = f"sequence length {length} is outside of axis 0, which has 4 elements (allowed: 0 to 4)"
        refused(exe, text, {"x": x, "n": np.array([4, length, 1])}, "(ReverseSequence)", said)


@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_lengths_of_recurrent_sequences(op: str, gates: int, workers: Workers) -> None:
    text = f"""g (float[T, B, 2] x, float[1, {3 * gates}, 2] w, float[1, {3 * gates}, 3] r, int32[B] n)
        => (float[T, 1, B, 3] y) {{ y = {op}<hidden_size = 3>(x, w, r, , n) }}"""
    exe = compiled(workers, text)
    rng = np.random.default_rng(0)
    shapes = {"x": (4, 2, 2), "w": (1, 3 * gates, 2), "r": (1, 3 * gates, 3)}
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    right(exe, text, {**given, "n": np.array([4, 2], np.int32)})
    for length in (5, -1):
        said = f"sequence length {length} is outside of axis 0, which has 4 elements (allowed: 0 to 4)"
        refused(exe, text, {**given, "n": np.array([length, 2], np.int32)}, f"({op})", said)


def test_places_to_unpool(workers: Workers) -> None:
    text = """g (float[1, 1, H, W] x, int64[1, 1, H, W] i) => (float[1, 1, ?, ?] y) {
        y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i)
    }"""
    exe = compiled(workers, text)
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2) + 1
    right(exe, text, {"x": x, "i": np.array([0, 3, 8, 15]).reshape(x.shape)})
    for place in (16, -1, 2**63 - 1):
        refused(
            exe, text, {"x": x, "i": np.array([0, place, 8, 15]).reshape(x.shape)}, "(MaxUnpool)", f"index {place} "
        )


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_places_in_a_cache(mode: str, workers: Workers) -> None:
    text = f"""g (float[B, S, 2] c, float[B, N, 2] u, int64[B] w) => (float[B, S, 2] y) {{
        y = TensorScatter<axis = 1, mode = "{mode}">(c, u, w)
    }}"""
    graph = parse(text, opset=24)
    exe = build(prepared(graph, None), workers, 1, None)
    rng = np.random.default_rng(0)
    given = {"c": rng.normal(size=(2, 5, 2)).astype(np.float32), "u": rng.normal(size=(2, 2, 2)).astype(np.float32)}
    for starts in ([0, 3], [3, 4], [9, 1], [2**40, 0]):
        outside = mode == "linear" and max(starts) > 3
        feeds = {**given, "w": np.array(starts)}
        if outside:
            with pytest.raises(ExecutionError, match=r"\(TensorScatter\): index .* is outside of axis 1, which has 5"):
                exe.run(feeds)
            continue
        assert_close(exe.run(feeds), run_graph(load(graph), feeds))
    with pytest.raises(ExecutionError, match=r"\(TensorScatter\): axis 1 has no element to index"):
        exe.run({"c": given["c"][:, :0], "u": given["u"], "w": np.array([0, 0])})


def test_one_hot_has_no_wrong_index(workers: Workers) -> None:
    text = """g (int64[N] i, float[2] v) => (float[N, 3] y) { d = Constant<value_int = 3>() y = OneHot(i, d, v) }"""
    exe = compiled(workers, text)
    right(exe, text, {"i": np.array([0, 2, -1, -3, 3, -4, 99, 2**63 - 1]), "v": np.array([5, 7], np.float32)})


def test_more_than_the_axis_has(workers: Workers) -> None:
    text = "g (float[N] x, int64[1] k) => (float[?] y, int64[?] i) { y, i = TopK(x, k) }"
    exe = compiled(workers, text)
    x = np.array([3, 1, 2], np.float32)
    right(exe, text, {"x": x, "k": np.array([2])})
    refused(exe, text, {"x": x, "k": np.array([4])}, "topk of axis 0")


# ---- what costs nothing ----------------------------------------------------------------------------------------------

PROVED = {
    "the place of the largest": "g (float[N, 4] x, float[4, 2] d) => (float[?, 2] y) {"
    " i = ArgMax<axis = 1, keepdims = 0>(x) y = Gather(d, i) }",
    "of an open axis": "g (float[N, C] x, float[C, 2] d) => (float[?, 2] y) { i = ArgMin<axis = 1, keepdims = 0>(x)"
    " y = Gather(d, i) }",
    "what holds": "g (bool[5] m, float[5] d) => (float[?] y) { z = NonZero(m) l = Constant<value_ints = [-1]>()"
    " i = Reshape(z, l) y = Gather(d, i) }",
    "what holds in a matrix": "g (bool[A, B] m, float[A, B] d) => (float[?] y) { z = NonZero(m)"
    " i = Transpose<perm = [1, 0]>(z) y = GatherND(d, i) }",
    "the highest few": "g (float[9] x, float[9, 3] d) => (float[4, 3] y) { k = Constant<value_ints = [4]>()"
    " v, i = TopK(x, k) y = Gather(d, i) }",
    "clipped": "g (int64[N] j, float[6] d) => (float[N] y) {"
    " a = Constant<value_int = -6>() b = Constant<value_int = 5>() i = Clip(j, a, b) y = Gather(d, i) }",
    "a remainder": "g (int64[N] j, float[6] d) => (float[N] y) { b = Constant<value_int = 6>() i = Mod(j, b)"
    " y = Gather(d, i) }",
    "bytes": "g (uint8[N] j, float[256] d) => (float[N] y) { i = Cast<to = 7>(j) y = Gather(d, i) }",
    "checked before": "g (int64[N] i, float[6] d, float[6] e) => (float[?] y) { y = Gather(d, i) z = Gather(e, i)"
    " l = Constant<value_ints = [-1]>() j = Unsqueeze(i, l) w = GatherND(d, j) }",
    "pixels of a grid": "g (float[1, 1, H, W] d, float[1, 3, 3, 2] x) => (float[1, 1, 3, 3] y) {"
    " y = GridSample(d, x) }",
    "frames": "g (float[1, 40, 1] x) => (float[1, ?, 5, 2] y) {"
    " s = Constant<value_int = 4>() n = Constant<value_int = 8>() y = STFT(x, s, , n) }",
}


@pytest.mark.parametrize("name", PROVED)
def test_indices_that_cannot_be_wrong_are_not_looked_at(name: str, workers: Workers) -> None:
    graph = prepared(parse(PROVED[name], opset=20), None)
    checks = [node for node in graph.nodes if node.op == "bounds_check"]
    assert len(checks) == (name == "checked before")


def test_unchecked(workers: Workers) -> None:
    from mapsto.session.entry import compile_model

    exe = compile_model(parse(plain("Gather")), check_indices=False, threads=1)
    assert not any(isinstance(step, Bounds) for step in exe.program.steps) and len(exe.program.steps) == 1
    given = feed(4, [99, -5, 2**63 - 1])
    assert np.isin(exe.run(given)["y"], given["d"]).all()  # some element of the axis, whichever
    with pytest.raises(ExecutionError, match="axis 0 has no element to index"):
        exe.run(feed(0, [0]))
