"""Powers of two that make channels alike: what they do to errors, and that they do nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.formats.chosen import ChosenFormat, chosen
from mapsto.formats.equalise import FARTHEST, ReadingWeights, factors_tried, powers_of
from mapsto.formats.format import FORMATS, Quantisation, WantedFormats
from mapsto.formats.integers import integer_weights
from mapsto.formats.ranges import SeenRange, SeenValue, seen_range
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.session.calibration import Calibration, ranges_of
from mapsto.session.formed import narrowed

RNG = np.random.default_rng(4)
CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def seen_of(x: np.ndarray, axis: int, *readers: ReadingWeights) -> SeenRange:
    seen = SeenValue(axis)
    seen.widen(x)
    seen.equalise(readers)
    seen.count(x)
    return seen_range(seen)


def product(x: np.ndarray, w: np.ndarray, by: Quantisation) -> np.ndarray:
    """As it is computed in bytes, in f64."""
    factors = np.exp2(np.asarray(by.powers or [0] * w.shape[0], np.float64))
    whole = np.clip(np.rint(x / factors / by.scale) + by.zero, 0, 255) - by.zero
    weights, scales = integer_weights("matmul", ReadingWeights("matmul", w).scaled(by.powers), None)
    return np.asarray(whole @ weights.astype(np.float64) * scales * by.scale)


def off(made: np.ndarray, x: np.ndarray, w: np.ndarray) -> float:
    exact = x.astype(np.float64) @ w
    return float(np.sqrt(np.mean((made - exact) ** 2) / np.mean(exact**2)))


def test_one_channel_that_reaches_far_leaves_others_their_steps() -> None:
    """What layer normalisation makes in transformers: a few channels of a hundred times the others' size."""
    x, w = drawn(256, 64), drawn(64, 32)
    x[:, 7] *= 100
    w[7] /= 100
    with_powers = seen_of(x, 1, ReadingWeights("matmul", w)).bytes
    plain = Quantisation(seen_of(x, 1).bytes.scale, seen_of(x, 1).bytes.zero)
    assert with_powers.powers[7] - int(np.median(with_powers.powers)) >= 4
    assert off(product(x, w, with_powers), x, w) < off(product(x, w, plain), x, w) / 5


def test_channels_that_are_alike_are_left_alone() -> None:
    assert seen_of(drawn(512, 16), 1, ReadingWeights("matmul", drawn(16, 8))).bytes.powers == ()


@given(seed=st.integers(0, 10**6), spread=st.floats(0, 4), channels=st.integers(8, 40))
def test_what_is_chosen_is_hardly_ever_worse(seed: int, spread: float, channels: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((512, channels)) * np.exp(spread * rng.standard_normal(channels))).astype(np.float32)
    w = (rng.standard_normal((channels, 24)) * np.exp(rng.standard_normal((channels, 1)))).astype(np.float32)
    by = seen_of(x, 1, ReadingWeights("matmul", w)).bytes
    plain = seen_of(x, 1).bytes
    assert all(abs(power) <= FARTHEST for power in by.powers)
    assert off(product(x, w, by), x, w) <= 1.15 * off(product(x, w, plain), x, w)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_weights_of_groups_are_multiplied_by_the_powers_of_what_they_read(groups: int) -> None:
    w = drawn(16, 8 // groups, 3, 3)
    powers = tuple(range(-4, 4))
    made = ReadingWeights("conv", w, groups).scaled(powers)
    for out in range(16):
        first = out // (16 // groups) * (8 // groups)
        factors = np.exp2(powers[first : first + 8 // groups])[:, None, None]
        np.testing.assert_array_equal(made[out], w[out] * factors)
    assert ReadingWeights("conv", w, groups).channels == 8


def test_of_a_depthwise_convolution_reach_is_the_weights_alone() -> None:
    """Each channel's weights have a scale of their own: all of the reach may go to them."""
    x = drawn(4, 8, 6, 6) * np.float32(2) ** np.arange(8, dtype=np.float32).reshape(8, 1, 1)
    by = seen_of(x, 1, ReadingWeights("conv", drawn(8, 1, 3, 3), 8)).bytes
    assert by.powers[-1] - by.powers[0] == pytest.approx(7, abs=1)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 3)), np.full((4, 3), np.nan), np.full((4, 3), 1e-40), np.full((4, 3), 3e38), np.zeros((0, 3))],
)
def test_odd_values_have_no_powers(array: np.ndarray) -> None:
    found = seen_of(array.astype(np.float32), 1, ReadingWeights("matmul", drawn(3, 5)))
    assert found.bytes.powers == () and np.isfinite(found.bytes.scale)


@pytest.mark.parametrize("w", [np.zeros((3, 5)), np.full((3, 5), np.inf), np.full((3, 5), np.nan), np.zeros((3, 0))])
def test_odd_weights_have_no_powers(w: np.ndarray) -> None:
    x = drawn(64, 3) * np.float32([1, 10, 100])
    assert seen_of(x, 1, ReadingWeights("matmul", w.astype(np.float32))).bytes.powers == ()


def test_the_first_row_tried_is_of_ones() -> None:
    readers = [ReadingWeights("matmul", drawn(5, 4))]
    tried = factors_tried(np.float64([1, 2, 4, 8, 16]), np.ones(5), readers)
    assert (tried[0] == 1).all() and len(tried) > 1 and (np.log2(tried) % 1 == 0).all()
    assert powers_of(tried, np.full(tried.shape, np.inf), np.ones(5), readers) == ()


# -- the graph ---------------------------------------------------------------------------------------------------------


def by_bytes(value: str, powers: tuple[int, ...], bytes: DType, after: int) -> ChosenFormat:
    return ChosenFormat(value, (value,), FORMATS["int8"], "", Quantisation(0.05, 128, None, powers), bytes, after)


def near(graph: Graph, formats: tuple[ChosenFormat, ...], feed: dict[str, np.ndarray], within: float) -> Graph:
    made = narrowed(graph, formats)
    for name, exact in run_graph(graph, feed).items():
        assert np.abs(run_graph(made, feed)[name] - exact).max() <= within * np.abs(exact).max()
    return made


@pytest.mark.parametrize("bytes", [DType.U8, DType.I16])
@pytest.mark.parametrize("op", ["conv", "matmul"])
def test_channels_are_quantised_by_scales_of_their_own(op: str, bytes: DType) -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (2, 4, 6, 6) if op == "conv" else (3, 4))
    scales = np.float32([0.25, 1, 2, 8]).reshape((4, 1, 1) if op == "conv" else (4,))
    value = b.one("mul", [b.one("tanh", [x]), b.constant(scales, "s")])
    if op == "conv":
        z = b.one("conv", [value, b.constant(drawn(5, 4, 3, 3), "w")], group=1, **CONV)
    else:
        z = b.one("matmul", [value, b.constant(drawn(4, 5), "w")])
    graph = b.finish([z, b.one("add", [value, value])])
    after = 2 if op == "conv" else 0
    formats = (by_bytes(z.name, (-4, -2, -1, 1), bytes, after),)
    feed = {"x": drawn(*(2, 4, 6, 6) if op == "conv" else (3, 4))}
    made = near(graph, formats, feed, 0.03)
    assert any(node.op == op and made.values()[node.inputs[0]].dtype is bytes for node in made.nodes)


def test_a_concatenation_is_of_channels_that_have_their_own_scales() -> None:
    """Its operands are quantised by their part of them; pooling by maxima moves such bytes, a transpose does not."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 2, 6, 6))
    parts = [b.one(op, [x]) for op in ("tanh", "abs")]
    both = b.one("concat", parts, axis=1)
    pooled = b.one("max_pool", [both], kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))
    w = b.constant(drawn(3, 4, 1, 1), "w")
    z = b.one("conv", [pooled, w], group=1, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))
    turned = b.one("conv", [b.one("transpose", [both], perm=(0, 1, 3, 2)), w], group=1, **{**CONV, "pads": (0,) * 4})
    graph = b.finish([z, turned])
    formats = tuple(by_bytes(each.name, (-2, -1, 0, -1), DType.U8, 2) for each in (z, turned))
    made = near(graph, formats, {"x": drawn(1, 2, 6, 6)}, 0.05)
    of: dict[str, list[Value]] = {}
    for node in made.nodes:
        of.setdefault(node.op, []).extend(made.values()[name] for name in node.inputs)
    assert all(value.dtype is DType.U8 for value in of["max_pool"])
    assert all(value.dtype is DType.F32 for value in of["transpose"])


def test_powers_of_other_channels_than_there_are() -> None:
    from mapsto.errors import ArgumentError

    b = Builder("g")
    z = b.one("matmul", [b.input("x", DType.F32, (3, 4)), b.constant(drawn(4, 5), "w")])
    known = ((z.name, Quantisation(0.1, 0, None, (1, 2, 3))),)
    with pytest.raises(ArgumentError, match="3 powers, but it reads 4 channels"):
        chosen(b.finish([z]), WantedFormats((("*", "int8"),), known))


# -- which channels ----------------------------------------------------------------------------------------------------


def read_by(*ops: str, shape: tuple[int, ...] = (1, 4, 6, 4), weights: tuple[int, ...] = (4, 5)) -> SeenRange:
    """What is seen of a value that these products read, in order; "scores": by a value of the run."""
    b = Builder("g")
    x = b.input("x", DType.F32, shape)
    others = {"scores": b.input("m", DType.F32, (1, 4, 4, 4)), "matmul": b.constant(drawn(*weights), "v")}
    conv = {"group": 1, "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    w = b.constant(drawn(5, 4, 1, 1), "w")
    makers = {"conv": lambda: b.one("conv", [x, w], **conv)}
    graph = b.finish([makers[op]() if op in makers else b.one("matmul", [x, others[op]]) for op in ops])
    size = np.float32(4) ** np.arange(4, dtype=np.float32)
    by_channel = size.reshape(4, 1, 1) if len(shape) == 4 else np.float32(1)
    feeds = [{"x": drawn(*shape) * by_channel, "m": drawn(1, 4, 4, 4)} for _ in range(4)]

    def never(_: Graph) -> Executable:
        raise AssertionError("inputs are seen as they are given")

    return ranges_of(graph, Calibration(feeds), never)["x"]


@pytest.mark.parametrize("ops", [("conv",), ("scores", "conv"), ("conv", "scores")])
def test_channels_are_those_that_constant_weights_are_multiplied_by(ops: tuple[str, ...]) -> None:
    powers = read_by(*ops).bytes.powers
    assert list(powers) == sorted(powers) and len(powers) == 4 and powers[-1] > powers[0]


def test_a_value_that_is_read_along_two_axes_has_one_scale() -> None:
    assert read_by("conv", "matmul").bytes.powers == read_by("matmul", "conv").bytes.powers == ()


def test_no_channels_at_all() -> None:
    assert read_by("matmul", shape=(3, 0), weights=(0, 5)).bytes.powers == ()
