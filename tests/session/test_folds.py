"""Whole models with folds: places of extremes and long rows that are normalised, beside ONNX Runtime and the reference,
and of the same bits at 1 and 2 threads.
"""

from __future__ import annotations

import numpy as np
from tests.session.support import check, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers

NORMALISED = """g (float[32, 2048] x, float[2048] s, float[2048] b) => (float[32, 2048] y, int64[32] k) {
    y = LayerNormalization(x, s, b)
    k = ArgMax<axis = 1, keepdims = 0>(y)
}"""
SPELT_OUT = """g (float[2, 16, 40, 50] x) => (float[2, 16, 40, 50] y) {
    a = Constant<value_ints = [2, 3]>()
    e = Constant<value_float = 0.00001>()
    m = ReduceMean(x, a)
    c = Sub(x, m)
    q = Mul(c, c)
    v = ReduceMean(q, a)
    w = Add(v, e)
    d = Sqrt(w)
    y = Div(c, d)
}"""
PLACES = """g (float[N, C, T] x) => (int64[N, 1, T] first, int64[N, C] last, int64[C, T] least) {
    first = ArgMax<axis = 1>(x)
    last = ArgMax<axis = 2, keepdims = 0, select_last_index = 1>(x)
    least = ArgMin<axis = 0, keepdims = 0>(x)
}"""


def in_one_pass(exe: mapsto.Executable) -> int:
    return sum("in one pass" in line for line in exe.plan_text.splitlines() if line.startswith("  as "))


def test_layer_normalisation(workers: Workers) -> None:
    feed = {"x": normal(32, 2048) + 100, "s": normal(2048, seed=1), "b": normal(2048, seed=2)}
    assert in_one_pass(check(workers, parse(NORMALISED), feed)) == 1


def test_a_norm_spelt_out_in_single_nodes(workers: Workers) -> None:
    assert in_one_pass(check(workers, parse(SPELT_OUT), {"x": normal(2, 16, 40, 50)})) == 1


def test_places_of_open_sizes(workers: Workers) -> None:
    rng = np.random.default_rng(3)
    feeds = [{"x": rng.integers(-3, 3, shape).astype(np.float32)} for shape in ((2, 5, 70), (1, 1, 1), (3, 40, 16))]
    feeds[0]["x"][1, 2] = -np.inf
    check(workers, parse(PLACES), *feeds)


def test_what_is_not_finite_comes_out_as_it_does_in_two_passes() -> None:
    """A row with a NaN or an infinite element is NaN throughout, and no other row is."""
    exe = mapsto.compile(parse(NORMALISED), threads=1)
    feed = {"x": normal(32, 2048), "s": normal(2048, seed=1), "b": normal(2048, seed=2)}
    feed["x"][1, 7], feed["x"][2, 0], feed["x"][3, 2047] = np.nan, np.inf, -np.inf
    found = exe.run(feed)["y"]
    assert np.isnan(found[1:4]).all() and np.isfinite(found[[0, 4, 31]]).all()


def test_a_mean_of_values_that_drift_from_one_end_to_the_other() -> None:
    for extent in (4096, 50_176, 100_000, 262_144):
        row = f"float[2, {extent}]"
        text = f"g ({row} x, float[{extent}] s) => ({row} y) {{ y = LayerNormalization(x, s) }}"
        exe = mapsto.compile(parse(text), threads=1)
        ramp = np.linspace(0, 1, extent)
        x = np.stack([ramp, ramp[::-1]]).astype(np.float32)
        wide = x.astype(np.float64)
        right = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
        got = exe.run({"x": x, "s": np.ones(extent, np.float32)})["y"]
        assert np.abs(got - right).max() < 2e-6 * np.abs(right).max(), extent
