"""Attention and what goes with it; regions, deformed windows, unpooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import Draw
from tests.differential.form import Form

Maker = Callable[[Draw], Form]


def attention(d: Draw) -> Form:
    """Of 4 axes, with masks that leave every row something."""
    kind = d.one_of(["float32", "float32", "float64", "float16"])
    heads, groups = d.one_of([1, 2, 3]), d.one_of([1, 1, 2, 4])
    size, other = d.one_of([1, 4, 8, 17]), d.one_of([1, 4, 8, 17])
    attributes: dict[str, Any] = {"is_causal": 1} if d.chance(0.4) else {}
    attributes |= {"scale": 0.25} if d.chance(0.4) else {}
    attributes |= {"softcap": 2.0} if d.chance(0.3) else {}
    mask = d.one_of(["", "", "bool", "float"]) if not attributes.get("is_causal") else ""
    names = ("q", "key", "value", *(["m"] if mask else []))

    def feed(f: Draw) -> dict[str, Any]:
        batch, rows, columns = f.integer(1, 3), f.integer(1, 9), f.integer(1, 9)
        found = {
            "q": f.values((batch, heads * groups, rows, size), kind, tame=True),
            "key": f.values((batch, heads, columns, size), kind, tame=True),
            "value": f.values((batch, heads, columns, other), kind, tame=True),
        }
        if mask == "bool":
            found["m"] = f.values((rows, columns), "bool")
            found["m"][:, 0] = True
        elif mask:
            found["m"] = f.values((rows, columns), kind, tame=True)
        return found

    kept = {"q": [1, 3], "key": [1, 3], "value": [1, 3]}
    return Form("Attention", feed, names, attributes, opset=d.one_of([23, 24]), rule="norm", pinned=kept)


def rotary_embedding(d: Draw) -> Form:
    kind = d.one_of(["float32", "float16"])
    heads, half = d.one_of([1, 3]), d.one_of([1, 4, 8])
    attributes = {"interleaved": d.integer(0, 1)} if d.chance(0.6) else {}
    placed = d.chance(0.5)

    def feed(f: Draw) -> dict[str, Any]:
        batch, steps, most = f.integer(1, 3), f.integer(1, 6), 9
        found = {"x": f.values((batch, heads, steps, 2 * half), kind, tame=True)}
        shape = (most, half) if placed else (batch, steps, half)
        found |= {name: f.values(shape, kind, tame=True) for name in ("c", "s")}
        return {**found, **({"p": f.rng.integers(0, most, (batch, steps))} if placed else {})}

    names = ("x", "c", "s", *(["p"] if placed else []))
    kept = {"x": [1, 3], "c": [1 if placed else 2], "s": [1 if placed else 2]}
    return Form("RotaryEmbedding", feed, names, attributes, opset=23, rule="whole", pinned=kept)


def tensor_scatter(d: Draw) -> Form:
    kind, rank = d.kind("TensorScatter", 24), d.integer(3, 4)
    axis = d.integer(1, rank - 1) - (rank if d.chance(0.3) else 0)
    mode = d.one_of(["linear", "circular"])

    def feed(f: Draw) -> dict[str, Any]:
        shape = [f.integer(1, 5) for _ in range(rank)]
        shape[axis] = f.integer(2, 9)
        part = list(shape)
        part[axis] = f.integer(1, shape[axis])
        most = shape[axis] - (part[axis] if mode == "linear" else 1)
        return {"x": f.values(shape, kind), "u": f.values(part, kind), "w": f.rng.integers(0, most + 1, (shape[0],))}

    return Form(
        "TensorScatter", feed, ("x", "u", "w"), {"axis": axis, "mode": mode}, opset=24, rule="exact", wide=False
    )


def roi_align(d: Draw) -> Form:
    opset = d.one_of([10, 16, 22])
    attributes: dict[str, Any] = {
        "mode": "avg",  # of the largest the oracles take weighted corners, as old versions did
        "output_height": d.integer(1, 3),
        "output_width": d.integer(1, 3),
        "sampling_ratio": d.integer(1, 3),
        "spatial_scale": d.one_of([1.0, 0.5]),
    }
    if opset >= 16:
        attributes["coordinate_transformation_mode"] = d.one_of(["half_pixel", "output_half_pixel"])
    channels = d.integer(1, 3)

    def feed(f: Draw) -> dict[str, Any]:
        batch, count = f.integer(1, 2), f.integer(0, 4)
        corner = f.rng.uniform(0, 5, (count, 2))
        rois = np.concatenate([corner, corner + f.rng.uniform(0.5, 4, (count, 2))], 1).astype(np.float32)
        return {
            "x": f.values((batch, channels, f.integer(6, 9), f.integer(6, 9)), "float32", tame=True),
            "r": rois,
            "b": f.rng.integers(0, batch, (count,)),
        }

    return Form("RoiAlign", feed, ("x", "r", "b"), attributes, opset=opset, rule="norm", pinned={"x": [1], "r": [1]})


def deform_conv(d: Draw) -> Form:
    opset = d.one_of([19, 22])
    kernel = [d.integer(1, 3), d.integer(1, 3)]
    channels, maps = d.integer(1, 4), d.integer(1, 4)
    attributes = {"kernel_shape": kernel, "pads": [d.integer(0, 1) for _ in range(4)]}
    weights = d.values((maps, channels, *kernel), "float32", tame=True)
    taps = kernel[0] * kernel[1]
    pads = attributes["pads"]

    def feed(f: Draw) -> dict[str, Any]:
        batch, h, w = f.integer(1, 2), f.integer(3, 6), f.integer(3, 6)
        out = (h + pads[0] + pads[2] - kernel[0] + 1, w + pads[1] + pads[3] - kernel[1] + 1)
        offsets = f.rng.uniform(-1, 1, (batch, 2 * taps, *out)).astype(np.float32)
        return {"x": f.values((batch, channels, h, w), "float32", tame=True), "o": offsets}

    return Form(
        "DeformConv", feed, ("x", "w", "o"), attributes, {"w": weights}, opset=opset, rule="norm",
        pinned={"x": [1], "o": [1]},
    )  # fmt: skip


def max_unpool(d: Draw) -> Form:
    """Of places that a pool of 2 by 2 found."""
    channels = d.integer(1, 3)

    def feed(f: Draw) -> dict[str, Any]:
        h, w = f.integer(1, 4), f.integer(1, 4)
        x = f.values((1, channels, h, w), "float32", tame=True)
        rows, columns = (2 * np.arange(e) for e in (h, w))
        base = rows[:, None] * 2 * w + columns + f.rng.integers(0, 2, (h, w)) + 2 * w * f.rng.integers(0, 2, (h, w))
        places = base[None, None] + 4 * h * w * np.arange(channels)[None, :, None, None]
        return {"x": x, "i": places}

    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return Form("MaxUnpool", feed, ("x", "i"), attributes, opset=11, rule="exact", wide=False, pinned={"x": [1]})


def window(op: str) -> Maker:
    def make(d: Draw) -> Form:
        attributes = {"periodic": d.integer(0, 1)} if d.chance(0.7) else {}
        return Form(
            op, lambda f: {"n": np.array(f.integer(3, 40))}, ("n",), attributes, opset=17, rule="whole", wide=False
        )

    return make


FORMS: dict[str, Maker] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
    "TensorScatter": tensor_scatter,
    "RoiAlign": roi_align,
    "DeformConv": deform_conv,
    "MaxUnpool": max_unpool,
    **{op: window(op) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")},
}
