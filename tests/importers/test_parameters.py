"""What an op works by (axes, steps, widths, sizes) as data of a run: against numpy, and the same as constants."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from onnx.reference import ReferenceEvaluator
from tests.importers.models import ints, model, node, port

from mapsto.errors import ExecutionError, MapstoError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import run_passes

I64 = np.int64
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5]), min_size=3, max_size=3)
OPEN = ("a", "b", "c")


@functools.cache
def graph_of(
    op: str, *parameters: tuple[str, tuple[Any, ...]], opset: int = 20, kind: Any = I64, **attributes: Any
) -> Any:
    """The graph of one node of x[a, b, c] and these parameters, by name and shape ("" where one is left out)."""
    ports = [port("x", OPEN), *(port(name, shape, kind) for name, shape in parameters if name)]
    outputs = ("y", "i") if op == "TopK" else ("y",)
    nodes = [node(op, ["x", *(name for name, _ in parameters)], outputs, name="it", **attributes)]
    graph = run_passes(load(model(nodes, ports, opset=opset)))
    verify_graph(graph)
    return graph


def run(graph: Any, **feed: np.ndarray) -> np.ndarray:
    return run_graph(graph, feed)["y"]


def tensor(shape: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def axes(rank: int, least: int = 0) -> Any:
    """Different axes, counted from either end."""
    chosen = st.lists(st.integers(0, rank - 1), unique=True, min_size=least, max_size=rank)
    return chosen.flatmap(lambda found: st.tuples(*(st.sampled_from([axis, axis - rank]) for axis in found)))


@given(shapes, axes(3), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_sums_over_axes_of_the_run(shape: list[int], chosen: tuple[int, ...], keepdims: bool, counted: bool) -> None:
    x, keepdims = tensor(shape), keepdims or not chosen
    count: Any = "k" if keepdims and counted else len(chosen)
    graph = graph_of("ReduceSum", ("k_axes", (count,)), keepdims=int(keepdims))
    over = tuple(sorted(axis % 3 for axis in chosen)) or (0, 1, 2)
    found = run(graph, x=x, k_axes=np.array(chosen, I64))
    np.testing.assert_allclose(found, x.sum(axis=over, keepdims=keepdims), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"])
@pytest.mark.parametrize("noop", [0, 1])
def test_each_reduction_by_axes_of_the_run_is_that_by_constants(op: str, noop: int) -> None:
    op, x = f"Reduce{op}", np.abs(tensor((2, 3, 4))) + 1
    for keepdims in (0, 1):
        attributes = {"keepdims": keepdims, "noop_with_empty_axes": noop}
        for chosen in ((0,), (-1,), (1, 0), (0, 1, 2)) + (((),) if keepdims else ()):
            fixed = load(
                model([node(op, ["x", "k"], **attributes)], {"x": x.shape}, constants={"k": ints(*chosen)}, opset=20)
            )
            graph = graph_of(op, ("k", ("n" if keepdims else len(chosen),)), **attributes)
            np.testing.assert_allclose(run(graph, x=x, k=ints(*chosen)), run(fixed, x=x), rtol=1e-6)


@given(shapes, st.integers(-3, 2), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_sums_along_an_axis_of_the_run(shape: list[int], axis: int, exclusive: bool, reverse: bool) -> None:
    x = tensor(shape)
    graph = graph_of("CumSum", ("axis", ()), exclusive=int(exclusive), reverse=int(reverse))
    turned = np.flip(x, axis) if reverse else x
    expected = np.cumsum(turned, axis=axis, dtype=np.float64) - (turned if exclusive else 0)
    expected = np.flip(expected, axis) if reverse else expected
    np.testing.assert_allclose(run(graph, x=x, axis=np.array(axis)), expected, rtol=1e-4, atol=1e-5)


@given(shapes, axes(3, 1))
@settings(max_examples=40)
def test_squeezed_axes_of_the_run(shape: list[int], chosen: tuple[int, ...]) -> None:
    for axis in chosen:
        shape[axis] = 1
    x = tensor(shape)
    found = run(graph_of("Squeeze", ("k", (len(chosen),))), x=x, k=np.array(chosen, I64))
    assert found.shape == np.squeeze(x, chosen).shape and (found.ravel() == x.ravel()).all()


@given(shapes, st.integers(1, 3).flatmap(lambda count: axes(3 + count).filter(lambda found: len(found) == count)))
@settings(max_examples=40)
def test_new_axes_of_the_run(shape: list[int], chosen: tuple[int, ...]) -> None:
    x = tensor(shape)
    found = run(graph_of("Unsqueeze", ("k", (len(chosen),))), x=x, k=np.array(chosen, I64))
    assert found.shape == np.expand_dims(x, chosen).shape and (found.ravel() == x.ravel()).all()


ends = st.sampled_from([-(2**63), -7, -3, -1, 0, 1, 2, 4, 9, 2**63 - 1])
steps = st.sampled_from([-(2**63), -3, -2, -1, 1, 2, 5, 2**63 - 1])


@given(shapes, st.data(), st.sampled_from(["axes and steps", "steps", "axes", "neither"]))
@settings(max_examples=120)
def test_slices_along_axes_of_the_run(shape: list[int], data: st.DataObject, given_: str) -> None:
    """Against the slice with all of it constant, which `test_slices` holds against numpy."""
    x = tensor(shape)
    chosen = data.draw(axes(3)) if "axes" in given_ else tuple(range(data.draw(st.integers(0, 3))))
    count = len(chosen)
    parameters = {name: data.draw(st.tuples(*[ends] * count)) for name in ("s", "e")}
    parameters |= {"k": chosen} if "axes" in given_ else {}
    parameters |= {"t": data.draw(st.tuples(*[steps] * count))} if "steps" in given_ else {}
    arrays = {name: np.array(values, I64) for name, values in parameters.items()}
    names = [name if name in arrays else "" for name in "sekt"]
    fixed = load(model([node("Slice", ["x", *names])], {"x": OPEN}, constants=arrays))
    graph = graph_of("Slice", *((name, ("n",)) for name in names))
    np.testing.assert_array_equal(run(graph, x=x, **arrays), run(fixed, x=x))


@given(shapes, axes(3), st.data(), st.sampled_from(["constant", "edge", "reflect", "wrap"]))
@settings(max_examples=80)
def test_pads_of_axes_of_the_run(shape: list[int], chosen: tuple[int, ...], data: st.DataObject, mode: str) -> None:
    x = tensor([max(d, 1) for d in shape])
    widths = np.array([data.draw(st.integers(0, 4)) for _ in range(2 * len(chosen))], I64)
    pairs = [(0, 0)] * 3
    for axis, before, after in zip(chosen, widths, widths[len(chosen) :], strict=False):
        pairs[axis] = (before, after)
    graph = graph_of("Pad", ("p", ("twice",)), ("", ()), ("k", ("n",)), mode=mode)
    found = run(graph, x=x, p=widths, k=np.array(chosen, I64))
    np.testing.assert_array_equal(found, np.pad(x, pairs, mode=mode))  # type: ignore[call-overload]


def test_pads_of_the_run_cut_off_elements_where_they_are_negative() -> None:
    x = tensor((4, 3, 2))
    graph = graph_of("Pad", ("p", (4,)), ("", ()), ("k", (2,)))
    found = run(graph, x=x, p=ints(-1, 2, -1, -1), k=ints(0, 1))
    np.testing.assert_array_equal(found, np.pad(x[1:3, :2], ((0, 0), (2, 0), (0, 0))))
    with pytest.raises(ExecutionError, match="the pads cut off more than"):
        run(graph, x=x, p=ints(-3, 2, -2, 0), k=ints(0, 1))


MODES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
scales = st.sampled_from([0.3, 0.5, 0.7, 0.999, 1.0, 1.0, 1.5, 2.0, 2.2857142857, 3.0, 7.77])


@given(st.lists(st.sampled_from([1, 2, 3, 7]), min_size=3, max_size=3), st.lists(scales, min_size=3, max_size=3),
       st.sampled_from(["nearest", "linear", "cubic"]), st.sampled_from(MODES))  # fmt: skip
@settings(max_examples=60)
def test_scales_of_the_run_resize_as_constants_do(shape: list[int], factors: list[float], mode: str, by: str) -> None:
    x, s = tensor(shape), np.array(factors, np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": by}
    fixed = load(model([node("Resize", ["x", "", "s"], **attributes)], {"x": shape}, constants={"s": s}, opset=20))
    graph = graph_of("Resize", ("", ()), ("s", (3,)), kind=np.float32, **attributes)
    np.testing.assert_allclose(run(graph, x=x, s=s), run(fixed, x=x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_scales_of_the_run_before_opset_11(mode: str) -> None:
    """Nearest rounds up along an axis that shrinks, and down along one that grows."""
    x = tensor((2, 5, 6))
    graph = graph_of("Resize", ("s", (3,)), opset=10, kind=np.float32, mode=mode)
    for factors in ((1, 2, 3), (1, 0.5, 0.7), (0.5, 1.5, 1)):
        s = np.array(factors, np.float32)
        fixed = load(model([node("Resize", ["x", "s"], mode=mode)], {"x": x.shape}, constants={"s": s}, opset=10))
        np.testing.assert_allclose(run(graph, x=x, s=s), run(fixed, x=x), rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 7), min_size=3, max_size=3), st.tuples(st.integers(1, 9), st.integers(1, 9)),
       st.sampled_from(["not_larger", "not_smaller"]), st.sampled_from(["nearest", "linear"]))  # fmt: skip
@settings(max_examples=40)
def test_the_ratio_is_kept_of_open_extents(shape: list[int], sizes: tuple[int, int], policy: str, mode: str) -> None:
    x, attributes = tensor(shape), {"mode": mode, "axes": (0, 2), "keep_aspect_ratio_policy": policy}
    fixed = load(
        model([node("Resize", ["x", "", "", "s"], **attributes)], {"x": shape}, constants={"s": ints(*sizes)}, opset=20)
    )
    graph = graph_of("Resize", ("", ()), ("", ()), ("s", (2,)), **attributes)
    np.testing.assert_allclose(run(graph, x=x, s=ints(*sizes)), run(fixed, x=x), rtol=1e-5, atol=1e-6)


eighths = st.integers(-4, 12).map(lambda number: number / 8)


@given(
    st.lists(st.sampled_from([1, 2, 5, 8]), min_size=3, max_size=3),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.lists(eighths, min_size=6, max_size=6),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.booleans(),
)
@settings(max_examples=60)
def test_regions_of_the_run_are_cropped_as_the_standard_says(
    shape: list[int], sizes: list[int], region: list[float], mode: str, outside: bool
) -> None:
    x, r = tensor(shape), np.array(region, np.float32)
    attributes = {
        "mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0,
        "exclude_outside": int(outside and mode == "cubic"), "nearest_mode": "floor",
    }  # fmt: skip
    ports = [port("x", OPEN), port("r", (6,)), port("s", (3,), I64)]
    made = model([node("Resize", ["x", "r", "", "s"], **attributes)], ports, opset=20)
    feed = {"x": x, "r": r, "s": ints(*sizes)}
    (expected,) = ReferenceEvaluator(made).run(None, feed)
    np.testing.assert_allclose(run(load(made), **feed), expected, rtol=1e-4, atol=1e-4)


def test_a_region_that_is_no_number_is_outside() -> None:
    ports = [port("x", OPEN), port("r", (6,))]
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": -1.0}
    made = model([node("Resize", ["x", "r", "", "s"], **attributes)], ports, constants={"s": ints(2, 2, 2)})
    r = np.array([0, 0, np.nan, 1, 1, 1], np.float32)
    assert (run(load(made), x=tensor((3, 3, 3)), r=r) == -1).all()


# (op, parameters, attributes, inputs, what is said beside the node's name); x is 2 x 1 x 3
WRONG: dict[str, tuple[str, tuple[tuple[str, tuple[Any, ...]], ...], dict[str, Any], dict[str, Any], str]] = {
    "axis too large": ("ReduceSum", (("k", (1,)),), {}, {"k": [3]}, r"input 1 \(axes\): 3 does not exist"),
    "axis too small": ("ReduceMax", (("k", (1,)),), {}, {"k": [-4]}, r"input 1 \(axes\): -4 does not exist"),
    "axis twice": ("ReduceSum", (("k", (2,)),), {"keepdims": 0}, {"k": [0, -3]}, r"\(axes\) names an axis twice"),
    "squeezed axis twice": ("Squeeze", (("k", (2,)),), {}, {"k": [1, -2]}, r"\(axes\) names an axis twice"),
    "squeezed axis of 2": ("Squeeze", (("k", (1,)),), {}, {"k": [0]}, r"\(axes\) names an axis whose extent is not 1"),
    "new axis twice": ("Unsqueeze", (("k", (2,)),), {}, {"k": [4, -1]}, r"\(axes\) names an axis twice"),
    "new axis too large": ("Unsqueeze", (("k", (2,)),), {}, {"k": [0, 5]}, r"\(axes\): 5 does not exist"),
    "axis of sums": ("CumSum", (("k", ()),), {}, {"k": 3}, r"input 1 \(axis\): 3 does not exist"),
    "axis of a transform": ("DFT", (("", ()), ("k", ())), {}, {"k": 4}, r"input 2 \(axis\): 4 does not exist"),
    "axis of parts": ("DFT", (("", ()), ("k", ())), {}, {"k": 3}, r"input 2 \(axis\) must be one of the first"),
    "points": ("DFT", (("k", ()), ("", ())), {}, {"k": 0}, "there must be at least 1"),
    "step of 0": ("Slice", tuple((n, (1,)) for n in "sekt"), {}, {"s": [0], "e": [1], "k": [0], "t": [0]}, "step of 0"),
    "sliced axis": ("Slice", tuple((n, (1,)) for n in "sekt"), {}, {"s": [0], "e": [1], "k": [7], "t": [1]}, "7 does"),
    "padded axis": ("Pad", (("p", (2,)), ("", ()), ("k", (1,))), {}, {"p": [1, 1], "k": [-9]}, r"\(axes\): -9 does"),
    "repeats": ("Tile", (("k", (3,)),), {}, {"k": [1, -2, 1]}, r"input 1 \(repeats\): .* -2"),
    "shape": ("Expand", (("k", (3,)),), {}, {"k": [2, -1, 3]}, r"input 1 \(shape\): .* -1"),
    "target": ("Reshape", (("k", (2,)),), {}, {"k": [-1, -1]}, r"input 1 \(shape\) has .* more than one -1"),
    "negative target": ("Reshape", (("k", (2,)),), {}, {"k": [-2, 3]}, r"input 1 \(shape\) has an extent below -1"),
    "k": ("TopK", (("k", (1,)),), {}, {"k": [-1]}, r"input 1 \(K\): .* -1"),
    "size": ("Resize", (("", ()), ("", ()), ("k", (3,))), {}, {"k": [1, -1, 1]}, r"input 3 \(sizes\): .* -1"),
    "scale": ("Resize", (("", ()), ("k", (3,))), {"kind": np.float32}, {"k": [1, 0, 1]}, r"input 2 \(scales\) has"),
    "NaN scale": ("Resize", (("", ()), ("k", (3,))), {"kind": np.float32}, {"k": [1, np.nan, 1]}, "has a scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_stops_the_run(name: str) -> None:
    op, parameters, attributes, values, said = WRONG[name]
    x = np.ones((2, 1, 3), np.float32)
    if op == "DFT":
        ports = [port("x", ("a", "b", "c", 1)), *(port(n, s, I64) for n, s in parameters if n)]
        nodes = [node(op, ["x", *(n for n, _ in parameters)], name="it")]
        graph, x = run_passes(load(model(nodes, ports, opset=20))), x[..., None]
    else:
        graph = graph_of(op, *parameters, **attributes)
    feed = {n: np.array(v, attributes.get("kind", I64)) for n, v in values.items()}
    with pytest.raises(ExecutionError, match=f"node 'it'.*{said}"):
        run(graph, x=x, **feed)


# What makes the rank of the result hang on a value: (op, shapes of its parameters, attributes).
RANKS = {
    "reduced": ("ReduceSum", (("k", ("n",)),), {"keepdims": 0}),
    "squeezed": ("Squeeze", (("k", ("n",)),), {}),
    "unsqueezed": ("Unsqueeze", (("k", ("n",)),), {}),
    "reshaped": ("Reshape", (("k", ("n",)),), {}),
    "expanded": ("Expand", (("k", ("n",)),), {}),
}


@pytest.mark.parametrize("name", RANKS)
def test_a_rank_that_hangs_on_a_value_is_one_clear_error(name: str) -> None:
    op, parameters, attributes = RANKS[name]
    with pytest.raises(MapstoError, match="the rank of the result hangs on.*`shapes`"):
        graph_of(op, *parameters, **attributes)


def test_axes_that_are_left_out_or_constant_make_the_graphs_that_they_made() -> None:
    """Nothing of what a run decides stands where nothing is to be decided."""
    for chosen in ((), (1,), (-1, 0)):
        nodes = [node("ReduceSum", ["x", "k"], keepdims=0)]
        graph = run_passes(load(model(nodes, {"x": OPEN}, constants={"k": ints(*chosen)})))
        assert [n.op for n in graph.nodes] == ["reduce"]


def test_squeeze_without_axes_takes_open_axes_to_be_none_of_extent_1() -> None:
    graph = run_passes(load(model([node("Squeeze", ["x"], name="it")], {"x": ["a", 1, 3]}, opset=13)))
    for extent in (0, 2, 5):
        assert run(graph, x=tensor((extent, 1, 3))).shape == (extent, 3)
    with pytest.raises(ExecutionError, match="node 'it'.*axis 0 is 1 in this run"):
        run(graph, x=tensor((1, 1, 3)))


def test_parts_of_the_run_make_up_the_axis() -> None:
    ports = [port("x", ("a", "b")), port("s", (2,), I64)]
    graph = load(model([node("Split", ["x", "s"], ["y", "z"], name="it", axis=1)], ports, outputs=("y", "z")))
    x = tensor((2, 5))
    for sizes in ((2, 3), (0, 5), (5, 0)):
        y, z = run_graph(graph, {"x": x, "s": ints(*sizes)}).values()
        np.testing.assert_array_equal(np.concatenate([y, z], 1), x)
    with pytest.raises(ExecutionError, match="node 'it'.*do not make up axis 1"):
        run_graph(graph, {"x": x, "s": ints(2, 2)})


def test_a_grid_is_for_as_many_as_there_are_matrices() -> None:
    ports = [port("x", ("n", 2, 3)), port("s", (4,), I64)]
    graph = load(model([node("AffineGrid", ["x", "s"], name="it")], ports, opset=20))
    x = tensor((2, 2, 3))
    assert run(graph, x=x, s=ints(2, 1, 4, 0)).shape == (2, 4, 0, 2)
    with pytest.raises(ExecutionError, match=r"node 'it'.*input 1 \(size\) says"):
        run(graph, x=x, s=ints(3, 1, 4, 5))
