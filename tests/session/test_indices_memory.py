"""No index leaves its tensor: inputs lie between pages that nobody may touch; one access outside ends the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.session.support import Feed, assert_close, parse
from tests.session.test_indices import OPS, bound, compiled, feed, in_branch, masked, plain

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError
from mapsto.importers.onnx import load
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes.checks import unchecked
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Bounds, Require, Run
from mapsto.session.compile import build, prepared

PAGE = mmap.PAGESIZE
WILD = [99, -100, 2**31, -(2**31), 2**40, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]


class Fence:
    """Arrays at the very start or end of pages with forbidden ones on both sides."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.maps: list[mmap.mmap] = []
        self.libc = ctypes.CDLL(None, use_errno=True)

    def array(self, given: np.ndarray) -> np.ndarray:
        pages = max(1, -(-given.nbytes // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        self.maps.append(memory)
        start = PAGE + (pages * PAGE - given.nbytes if self.at_end else 0)
        made = np.ndarray(given.shape, given.dtype, memory, start)
        made[...] = given
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (0, pages + 1):
            assert self.libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0) == 0
        return made

    def feed(self, given: Feed) -> Feed:
        return {name: self.array(array) for name, array in given.items()}


@pytest.fixture(params=[False, True], ids=["at the start", "at the end"])
def fence(request: Any) -> Iterator[Fence]:
    yield Fence(request.param)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("number", [1, 7, 1000])
def test_wild_indices_without_checks(name: str, number: int, fence: Fence, workers: Workers) -> None:
    exe = build(unchecked(prepared(parse(plain(name)), None)), workers, 1, None)
    indices = [WILD[k % len(WILD)] for k in range(number)]
    for extent in (1, 3, 1000):
        given = fence.feed(feed(extent, indices))
        for engine in (exe, Executable(exe.program, exe.objects, 2)):
            found = engine.run(given)["y"]
            assert found.shape == (extent if "Scatter" in name else number,)


@pytest.mark.parametrize("name", OPS)
def test_an_empty_axis_is_not_touched(name: str, fence: Fence, workers: Workers) -> None:
    """The data's address is that of a forbidden page, or of one byte before it."""
    for text, given in ((plain(name), feed), (bound(name), masked), (in_branch(name), feed)):
        exe = compiled(workers, text)
        loose = build(unchecked(prepared(parse(text), None)), workers, 1, None)
        for engine in (exe, loose, Executable(exe.program, exe.objects, 2)):
            for indices in ([0], [-1, 0], [5] * 100):
                more = {"c": np.array(True)} if text.find("bool c") >= 0 else {}
                with pytest.raises(ExecutionError, match="axis 0 has no element to index"):
                    engine.run(fence.feed(given(0, indices, **more)))


def in_place(reduction: str) -> Graph:
    b = Builder("g")
    n, m = sym("E"), sym("M")
    with b.source("s"):
        d, i = b.input("d", DType.F32, (n,)), b.input("i", DType.I64, (m, 1))
        u = b.input("u", DType.F32, (m,))
        y = b.one("scatter_nd", [d, i, u], reduction=reduction)
    return b.finish([y], [("d", "y")], names=["y"])


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatters_in_place(reduction: str, fence: Fence, workers: Workers) -> None:
    """The caller's own array is written: beside it nothing is, and where the run is refused neither is the array."""
    checked = build(prepared(in_place(reduction), None), workers, 1, None)
    loose = build(unchecked(prepared(in_place(reduction), None)), workers, 1, None)
    for number in (1, 9, 500):
        given = feed(5, [WILD[k % len(WILD)] for k in range(number)])
        given["i"] = given["i"].reshape(-1, 1)
        loose.run(fence.feed(given))
        fenced = fence.feed(given)
        with pytest.raises(ExecutionError, match="index .* is outside of axis 0, which has 5 elements"):
            checked.run(fenced)
        assert np.array_equal(fenced["d"], given["d"])
    with pytest.raises(ExecutionError, match="no element to index"):
        checked.run(fence.feed({"d": given["d"][:0], "i": np.zeros((1, 1), np.int64), "u": np.ones(1, np.float32)}))


@pytest.mark.parametrize("name", OPS)
def test_what_is_asked_stands_before_what_it_guards(name: str, workers: Workers) -> None:
    for text in (plain(name), bound(name), in_branch(name)):
        steps = compiled(workers, text).program.steps
        op = name.split()[0].lower()
        guarded = [k for k, s in enumerate(steps) if isinstance(s, Run) and op in s.label.replace("_", "")]
        asking = [k for k, s in enumerate(steps) if isinstance(s, (Bounds, Require))]
        assert guarded and asking and max(asking) < min(guarded)


# ---- padding and resizing an empty axis ------------------------------------------------------------------------------

BORDERS = {
    **{
        mode: f'p = Constant<value_ints = [1, 2]>() y = Pad<mode = "{mode}">(d, p)'
        for mode in ("edge", "reflect", "wrap")
    },
    "nearest": "r = Constant<value_ints = [5]>() y = Resize(d, , , r)",
    "linear": 'r = Constant<value_ints = [5]>() y = Resize<mode = "linear">(d, , , r)',
}


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("branch", [False, True])
def test_a_border_needs_an_element(name: str, branch: bool, fence: Fence, workers: Workers) -> None:
    text = f"g (float[E] d) => (float[?] y) {{ {BORDERS[name]} }}"
    if branch:
        text = f"""g (float[E] d, bool c) => (float s) {{
            s = If (c) <
                then_branch = t () => (float a) {{ {BORDERS[name]} a = ReduceSum<keepdims = 0>(y) }},
                else_branch = e () => (float b) {{ b = ReduceSum<keepdims = 0>(d) }}
            >
        }}"""
    exe = build(prepared(parse(text, opset=19), None), workers, 1, None)
    more = {"c": np.array(True)} if branch else {}
    with pytest.raises(ExecutionError, match="axis 0 needs an element"):
        exe.run(fence.feed({"d": np.zeros(0, np.float32), **more}))
    given = fence.feed({"d": np.arange(4, dtype=np.float32), **more})
    assert_close(exe.run(given), run_graph(load(parse(text, opset=19)), given))


# ---- beside ONNX Runtime ---------------------------------------------------------------------------------------------

RANDOM = {
    "gather": ("float[A, B, C] d, int64[M, N] i", "y = Gather<axis = 1>(d, i)"),
    "elements": ("float[A, B, C] d, int64[A, N, C] i", "y = GatherElements<axis = 1>(d, i)"),
    "tuples": ("float[A, B, C] d, int64[M, 2] i", "y = GatherND(d, i)"),
    "batches": ("float[A, B, C] d, int64[A, N, 1] i", "y = GatherND<batch_dims = 1>(d, i)"),
    "put": (
        "float[A, B, C] d, int64[A, N, C] i, float[A, N, C] u",
        'y = ScatterElements<axis = 1, reduction = "add">(d, i, u)',
    ),
    "put tuples": ("float[A, B, C] d, int64[M, 2] i, float[M, C] u", 'y = ScatterND<reduction = "max">(d, i, u)'),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_indices_beside_onnxruntime(name: str, workers: Workers) -> None:
    """Hundreds of feeds an op, a third of them with an index out of range: the same elements, or an error in both."""
    import onnxruntime as ort

    ports, body = RANDOM[name]
    model = parse(f"g ({ports}) => (float[?] y) {{ {body} }}")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    exe = build(prepared(model, None), workers, 2, None)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    peer = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(len(name))
    wrong = 0
    for _ in range(400):
        given = _random_feed(exe, name, rng)
        try:
            expected = peer.run(None, given)[0]
        except Exception:
            wrong += 1
            with pytest.raises(ExecutionError, match=r"index -?\d+ is outside of axis \d, which has \d+ element"):
                exe.run(given)
            continue
        np.testing.assert_allclose(exe.run(given)["y"], expected, rtol=1e-6)
    assert 50 < wrong < 350


def _random_feed(exe: Executable, name: str, rng: np.random.Generator) -> Feed:
    sizes = {s: int(rng.integers(1, 6)) for s in "ABCMN"}
    given = {}
    for port in exe.program.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in port.shape]
        if port.name != "i":
            given[port.name] = rng.normal(size=shape).astype(np.float32)
            continue
        axes = {"tuples": "AB", "put tuples": "AB"}.get(name, "B")
        limits = np.array([sizes[a] for a in axes])
        spread = limits if len(axes) == shape[-1] else limits[0]
        indices = rng.integers(-spread, spread, shape)
        if rng.random() < 0.33:
            at = tuple(rng.integers(0, d) for d in shape)
            far = spread[at[-1]] if np.ndim(spread) else spread
            indices[at] = rng.choice([far, -far - 1, far + 1000, 2**63 - 1, -(2**63)])
        given[port.name] = indices
    return given
