"""Pools, samples and resizes of pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import Draw
from tests.differential.form import Form
from tests.differential.forms.moving import parameter
from tests.differential.forms.products import spatial_of, windows_of

Maker = Callable[[Draw], Form]


def pool(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        spatial = d.integer(1, 3)
        kind = d.kind(op, opset)
        since = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]
        attributes = windows_of(d, spatial, dilated=opset >= since)
        if "auto_pad" in attributes:  # the reference counts these without dilations
            attributes.pop("dilations", None)
        if (
            opset >= {"MaxPool": 10, "AveragePool": 10, "LpPool": 18}[op]
            and d.chance(0.3)
            and "auto_pad" not in attributes
        ):
            attributes["ceil_mode"] = 1
        if op == "AveragePool":
            attributes |= {"count_include_pad": d.integer(0, 1)} if d.chance(0.6) else {}
        if op == "LpPool":  # of a window that is cut the reference takes the mean, times a whole one's size
            attributes.pop("ceil_mode", None)
            attributes["p"] = d.integer(1, 3)
        indices = op == "MaxPool" and opset >= 8 and d.chance(0.3)
        if indices and d.chance(0.3):
            attributes["storage_order"] = 1

        def feed(f: Draw) -> dict[str, Any]:
            shape = (f.integer(0, 2), f.integer(1, 9), *spatial_of(f, attributes))
            if indices:  # all different, as which of two alike is the first depends on the order
                shape = (
                    (1, 1, *(min(e, 6) for e in shape[2:]))
                    if kind in ("int8", "uint8", "float16", "bfloat16")
                    else shape
                )
                if min(shape[2:]) < max(attributes["kernel_shape"]):
                    shape = (1, 1, *spatial_of(f, attributes))
            return {"x": f.values(shape, kind, tame=True)}

        largest = op == "MaxPool"
        return Form(
            op, feed, ("x",), attributes, outputs=1 + indices, opset=opset, rule="equal" if largest else "whole",
            wide=not largest,
        )  # fmt: skip

    return make


def whole_pool(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset, rank = d.opset(op), d.integer(3, 5)
        kind = d.kind(op, opset)
        rule = "equal" if op == "GlobalMaxPool" else "whole"
        return Form(
            op, lambda f: {"x": f.values(f.shape(rank, 1), kind, tame=True)}, ("x",), opset=opset, rule=rule,
            wide=op != "GlobalMaxPool",
        )  # fmt: skip

    return make


def resize(d: Draw) -> Form:
    opset = d.one_of([13, 18, 19])
    kind = d.one_of(["float32", "float32", "float64", "float16", "uint8", "int8"])
    mode = d.one_of(["nearest", "linear", "cubic"]) if kind not in ("uint8", "int8") else "nearest"
    attributes: dict[str, Any] = {"mode": mode}
    ways = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
    if kind == "float64":  # for one element the reference begins elsewhere, and ONNX Runtime has no f64
        ways.remove("pytorch_half_pixel")
    if opset >= 19 and mode != "nearest":  # where rounding decides, the reference's f64 misses exact ties
        ways.append("half_pixel_symmetric")
    attributes["coordinate_transformation_mode"] = d.one_of(ways)
    if mode == "nearest":
        attributes["nearest_mode"] = d.one_of(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes |= {"exclude_outside": d.integer(0, 1), "cubic_coeff_a": d.one_of([-0.75, -0.5])}
    if opset >= 18 and mode != "nearest" and d.chance(0.3):
        attributes["antialias"] = 1
    by = d.one_of(["scales", "sizes"])
    if by == "scales":
        # with these the reference counts with a size before it is rounded
        whole = attributes["coordinate_transformation_mode"] in ("align_corners", "pytorch_half_pixel")
        some = [1.0, 2.0, 3.0] if whole else [0.5, 1.0, 2.0, 3.0, 1.5, 0.75]
        values = np.array([1, 1, *(d.one_of(some) for _ in range(2))], np.float32)
    else:
        values = np.array([0, 0, d.integer(1, 9), d.integer(1, 9)], np.int64)
    constants, given = parameter(d, **{by: values})
    inputs = ("x", "", "scales") if by == "scales" else ("x", "", "", "sizes")
    n, c = d.integer(1, 2), d.integer(1, 3)

    def feed(f: Draw) -> dict[str, Any]:
        shape = (n, c, f.integer(2, 9), f.integer(2, 9))
        found = {"x": f.values(shape, kind, tame=True), **given}
        return found

    if by == "sizes":
        values[:2] = n, c
    return Form(
        "Resize", feed, inputs, attributes, constants, opset=opset, rule="norm" if mode != "nearest" else "equal",
        wide=mode != "nearest", pinned={"x": [0, 1]},
    )  # fmt: skip


def grid_sample(d: Draw) -> Form:
    opset = d.one_of([16, 20, 22])
    spatial = 2 if opset < 20 else d.integer(2, 3)
    modes = (
        ["bilinear", "nearest", "bicubic"]
        if opset < 20
        else ["linear", "nearest", *(["cubic"] if spatial == 2 else [])]
    )
    attributes = {
        "mode": d.one_of(modes),
        "padding_mode": d.one_of(["zeros", "border", "reflection"]),
        "align_corners": d.integer(0, 1),
    }
    kind = d.one_of(["float32", "float64"])
    n, c = d.integer(1, 2), d.integer(1, 3)

    def feed(f: Draw) -> dict[str, Any]:
        x = f.values((n, c, *(f.integer(2, 6) for _ in range(spatial))), kind, tame=True)
        grid = f.rng.uniform(-1.2, 1.2, (n, *(f.integer(1, 5) for _ in range(spatial)), spatial)).astype(kind)
        return {"x": x, "g": grid}

    return Form(
        "GridSample", feed, ("x", "g"), attributes, opset=opset, rule="norm", wide=attributes["mode"] != "nearest",
        pinned={"x": [0, 1], "g": [0, spatial + 1]},
    )  # fmt: skip


def affine_grid(d: Draw) -> Form:
    spatial = d.integer(2, 3)
    n = d.integer(1, 2)
    size = np.array([n, d.integer(1, 3), *(d.integer(1, 6) for _ in range(spatial))], np.int64)
    theta = lambda f: {"t": f.values((n, spatial, spatial + 1), "float32", tame=True)}  # noqa: E731
    return Form(
        "AffineGrid", theta, ("t", "size"), {"align_corners": d.integer(0, 1)}, {"size": size}, opset=20, rule="whole",
        pinned={"t": range(3)},
    )  # fmt: skip


def col2im(d: Draw) -> Form:
    kind = d.one_of(["float32", "float64", "float16"])
    block = [d.integer(1, 3) for _ in range(2)]
    image = [d.integer(4, 8) for _ in range(2)]
    attributes = {"strides": [d.integer(1, 2) for _ in range(2)], "pads": [d.integer(0, 1) for _ in range(4)]}
    pads, strides = attributes["pads"], attributes["strides"]
    counts = [(image[k] + pads[k] + pads[k + 2] - block[k]) // strides[k] + 1 for k in range(2)]
    constants, given = parameter(d, shape=np.array(image, np.int64), sizes=np.array(block, np.int64))

    def feed(f: Draw) -> dict[str, Any]:
        c = f.integer(1, 4)
        x = f.values((f.integer(1, 2), c * block[0] * block[1], counts[0] * counts[1]), kind, tame=True)
        return {"x": x, **given}

    return Form("Col2Im", feed, ("x", "shape", "sizes"), attributes, constants, opset=18, rule="whole")


FORMS: dict[str, Maker] = {
    **{op: pool(op) for op in ("MaxPool", "AveragePool", "LpPool")},
    **{op: whole_pool(op) for op in ("GlobalMaxPool", "GlobalAveragePool")},
    "Resize": resize,
    "GridSample": grid_sample,
    "AffineGrid": affine_grid,
    "Col2Im": col2im,
}
