"""Resize against the standard's formulas in exact fractions: ties are ties, whatever the sizes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from tests.ops.support import check

from mapsto.ops.resize import COORDINATES, NEAREST, axis_table

SIZES = [1, 2, 3, 4, 5, 7, 8, 10, 13, 14, 16, 19, 20, 24, 26, 28, 32, 40, 52, 56, 64, 100]


def coordinate(mode: str, at: int, extent: int, size: int, scale: Fraction) -> Fraction:
    """ONNX, Resize, attribute coordinate_transformation_mode."""
    half = Fraction(1, 2)
    if mode == "align_corners":
        return Fraction(0) if size == 1 else Fraction(at * (extent - 1), size - 1)
    if mode == "asymmetric":
        return at / scale
    if mode == "tf_half_pixel_for_nn":
        return (at + half) / scale
    if mode == "pytorch_half_pixel":
        return (at + half) / scale - half if size > 1 else Fraction(0)
    if mode == "half_pixel_symmetric":
        adjustment = Fraction(size) / (scale * extent)
        return Fraction(extent, 2) * (1 - adjustment) + (at + half) / scale - half
    return (at + half) / scale - half


def nearest(mode: str, x: Fraction, shrinks: bool) -> int:
    whole, rest = math.floor(x), x - math.floor(x)
    if mode == "floor" or (mode == "simple" and not shrinks):
        return whole
    if mode in ("ceil", "simple"):
        return math.ceil(x)
    if rest == Fraction(1, 2):
        return whole + (mode == "round_prefer_ceil")
    return whole + (rest > Fraction(1, 2))


@pytest.mark.parametrize("mode", COORDINATES)
def test_nearest_of_every_pair_of_sizes(mode: str) -> None:
    for extent in SIZES:
        for size in SIZES:
            scale = Fraction(size, extent)
            for rounding in NEAREST:
                attrs = {"mode": "nearest", "coordinate_mode": mode, "nearest_mode": rounding}
                found = axis_table(attrs, extent, size, None)[0][:, 0].tolist()
                exact = [coordinate(mode, i, extent, size, scale) for i in range(size)]
                places = [nearest(rounding, x, size < extent) for x in exact]
                assert found == [min(max(p, 0), extent - 1) for p in places], (extent, size, rounding)


@pytest.mark.parametrize("mode", COORDINATES)
def test_nearest_of_scales_as_a_file_holds_them(mode: str) -> None:
    """A scale is the f32 number that it is: 0.6 is a little more than 3/5."""
    for extent in (5, 10, 20, 52):
        for number in (0.1, 0.25, 0.3, 0.6, 0.7, 1.1, 1.3, 1.5, 2.6, 3.0):
            scale = float(np.float32(number))
            size = math.floor(np.float32(extent) * np.float32(scale))
            for rounding in NEAREST:
                attrs = {"mode": "nearest", "coordinate_mode": mode, "nearest_mode": rounding}
                found = axis_table(attrs, extent, size, scale)[0][:, 0].tolist()
                exact = Fraction(scale)
                places = [nearest(rounding, coordinate(mode, i, extent, size, exact), exact < 1) for i in range(size)]
                assert found == [min(max(p, 0), extent - 1) for p in places], (extent, number, rounding)


@pytest.mark.parametrize("mode", COORDINATES)
def test_weights_are_the_distance_to_the_neighbours(mode: str) -> None:
    for extent, size in ((14, 19), (20, 26), (7, 3), (1, 4), (4, 1), (1000, 1999)):
        places, weights = axis_table({"mode": "linear", "coordinate_mode": mode}, extent, size, None)
        for at in range(size):
            x = min(max(coordinate(mode, at, extent, size, Fraction(size, extent)), Fraction(0)), Fraction(extent - 1))
            assert places[at, 0] == math.floor(x)
            assert weights[at, 1] == np.float32(float(x - math.floor(x)))


def weight(mode: str, x: Fraction) -> Fraction:
    """The filters of linear and cubic interpolation (Keys 1981, a = -3/4) at a distance."""
    x, a = abs(x), Fraction(-3, 4)
    if mode == "linear":
        return max(1 - x, Fraction(0))
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else Fraction(0)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_a_filter_is_stretched_where_an_axis_shrinks(mode: str, coordinates: str, outside: bool) -> None:
    """What each element of the axis weighs in each result, those past the ends counted to the last."""
    for extent, size in ((12, 5), (16, 7), (20, 2), (9, 1), (5, 8), (1, 3), (30, 29)):
        attrs = {"mode": mode, "coordinate_mode": coordinates, "antialias": True, "exclude_outside": outside}
        places, weights = axis_table(attrs, extent, size, None)
        for at in range(size):
            x = coordinate(coordinates, at, extent, size, Fraction(size, extent))
            shorter = min(Fraction(size, extent), Fraction(1))
            every = {p: weight(mode, (p - x) * shorter) for p in range(-3 * extent, 4 * extent)}
            exact = [Fraction(0)] * extent
            for place, w in every.items():
                if not outside or 0 <= place < extent:
                    exact[min(max(place, 0), extent - 1)] += w
            found = np.zeros(extent)
            np.add.at(found, places[at], weights[at])
            np.testing.assert_allclose(found, np.array([float(w / sum(exact)) for w in exact]), atol=1e-6)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_the_lowering_is_the_reference(mode: str, coordinates: str, symbolic: bool) -> None:
    """Fixed sizes, sizes of a run, and scales."""
    rng = np.random.default_rng(0)
    for extent, size, scale in ((14, 19, None), (5, 3, float(np.float32(0.6))), (20, 26, (13, 10)), (4, 12, 3.0)):
        x = rng.standard_normal((2, extent)).astype(np.float32)
        for rounding in NEAREST if mode == "nearest" else ("floor",):
            for outside in (False, True) if mode == "cubic" else (False,):
                attrs = {
                    "sizes": (2, size), "scales": None if scale is None else (1.0, scale), "mode": mode,
                    "coordinate_mode": coordinates, "nearest_mode": rounding, "exclude_outside": outside,
                }  # fmt: skip
                check("resize", [x], attrs, frozenset({extent}) if symbolic else frozenset(), 1e-6)
                if mode != "nearest":
                    filtered = {**attrs, "antialias": True}
                    check("resize", [x], filtered, frozenset({extent}) if symbolic else frozenset(), 1e-6)
