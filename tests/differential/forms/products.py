"""Matrix products, convolutions, and their kin of integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import Draw
from tests.differential.form import Form

Maker = Callable[[Draw], Form]


def matmul(d: Draw) -> Form:
    opset = d.opset("MatMul")
    kind = d.kind("MatMul", opset)
    ranks = d.one_of([(2, 2), (2, 2), (1, 1), (1, 2), (2, 1), (3, 3), (3, 2), (2, 3), (4, 4), (4, 1), (1, 3)])
    rank = max(ranks) - 2
    ones = [[d.chance(0.25) for _ in range(max(0, r - 2))] for r in ranks]
    weight = d.chance(0.4)
    whole = d.values((d.extent(), d.extent()), kind, tame=True) if ranks[1] == 2 and weight else None

    def feed(f: Draw) -> dict[str, Any]:
        m, n, k = f.extent(), f.extent(), f.extent(0, 70)
        if whole is not None:
            k, n = whole.shape
        batch = f.shape(max(rank, 0), 0, 12)
        shapes = []
        for side, r in enumerate(ranks):
            own = [1 if one else e for one, e in zip(ones[side], batch[len(batch) - len(ones[side]) :], strict=True)]
            core = [k] if r == 1 else [m, k] if side == 0 else [k, n]
            shapes.append([*own, *core])
        found = {"a": f.values(shapes[0], kind, tame=True)}
        return {**found, **({} if whole is not None else {"b": f.values(shapes[1], kind, tame=True)})}

    return Form("MatMul", feed, ("a", "b"), {}, {} if whole is None else {"b": whole}, opset=opset, rule="sum")


def gemm(d: Draw) -> Form:
    opset = d.opset("Gemm")
    kind = d.kind("Gemm", opset)
    floats = kind in ("float32", "float64", "float16", "bfloat16")
    attributes: dict[str, Any] = {n: d.integer(0, 1) for n in ("transA", "transB")}
    if floats:
        attributes |= {n: d.one_of([0.5, -2.0, 0.0, 1.0]) for n in ("alpha", "beta") if d.chance(0.5)}
    bias = d.one_of(["mn", "n", "1n", "m1", "", "11", None] if opset >= 11 else ["mn", "n", "1n", "m1", ""])
    weight = d.values((d.extent(1), d.extent(1, 70)), kind, tame=True) if d.chance(0.4) else None

    def feed(f: Draw) -> dict[str, Any]:
        m, n, k = f.extent(), f.extent(), f.extent(0, 70)
        if weight is not None:
            n, k = weight.shape if attributes["transB"] else weight.shape[::-1]
        found = {"a": f.values((k, m) if attributes["transA"] else (m, k), kind, tame=True)}
        if weight is None:
            found["b"] = f.values((n, k) if attributes["transB"] else (k, n), kind, tame=True)
        if bias is not None:
            found["c"] = f.values([{"m": m, "n": n, "1": 1}[c] for c in bias], kind, tame=True)
        return found

    inputs = ("a", "b", *(["c"] if bias is not None else []))
    return Form("Gemm", feed, inputs, attributes, {} if weight is None else {"b": weight}, opset=opset, rule="whole")


EQUATIONS = (
    "ij,jk->ik ij,kj->ki bij,bjk->bik ij->ji ij-> ii->i ii-> i,j->ij bhid,bhjd->bhij ij,ij->ij ij,ij-> abc,cd->abd "
    "...ij,...jk->...ik bi,bj->bij ijk,jil->kl abcd->dbca"
).split()


def einsum(d: Draw) -> Form:
    equation = d.one_of(EQUATIONS)
    kind = d.kind("Einsum", 12, among=("float32", "float64", "int32", "float16"))
    terms = equation.split("->")[0].split(",")
    names = tuple(f"x{k}" for k in range(len(terms)))
    more = d.integer(0, 2)
    fixed = {c: d.extent(0, 9) for term in terms for c in term if term.count(c) > 1 and c != "."}

    def feed(f: Draw) -> dict[str, Any]:
        sizes = {c: fixed.get(c, f.extent(0, 9)) for c in "abcdhijkl"}
        lead = f.shape(more, 0, 6)
        found = {}
        for name, term in zip(names, terms, strict=True):
            shape = [*(lead if term.startswith("...") else ()), *(sizes[c] for c in term.removeprefix("..."))]
            found[name] = f.values(shape, kind, tame=True)
        return found

    repeated = {
        name: range(8)
        for name, term in zip(names, terms, strict=True)
        if len(set(term)) < len(term) - 3 * ("." in term)
    }
    return Form("Einsum", feed, names, {"equation": equation}, opset=12, rule="whole", pinned=repeated)


def windows_of(d: Draw, spatial: int, *, dilated: bool = True) -> dict[str, Any]:
    """Attributes of a window: kernel_shape, strides, dilations, pads or auto_pad; a part of them left out."""
    found: dict[str, Any] = {"kernel_shape": [d.one_of([1, 2, 3, 3, 4, 5]) for _ in range(spatial)]}
    if d.chance(0.6):
        found["strides"] = [d.integer(1, 3) for _ in range(spatial)]
    if dilated and d.chance(0.3):
        found["dilations"] = [d.integer(1, 3) for _ in range(spatial)]
    way = d.one_of(["pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if way == "pads":
        found["pads"] = [d.integer(0, k - 1) for k in (*found["kernel_shape"], *found["kernel_shape"])]
    elif way != "none":
        found["auto_pad"] = way
        if way != "VALID":  # about these together the oracles disagree
            found.pop("dilations", None)
            if "strides" in found:
                found["strides"] = [min(s, k) for s, k in zip(found["strides"], found["kernel_shape"], strict=True)]
    return found


def spatial_of(f: Draw, attributes: dict[str, Any]) -> list[int]:
    """Extents that a window fits into."""
    kernel = attributes["kernel_shape"]
    dilations = attributes.get("dilations", [1] * len(kernel))
    return [f.extent((k - 1) * w + 1, 20) for k, w in zip(kernel, dilations, strict=True)]


def conv(d: Draw) -> Form:
    opset, spatial = d.opset("Conv"), d.integer(1, 3)
    kind = d.kind("Conv", opset)
    attributes = windows_of(d, spatial)
    group = d.one_of([1, 1, 1, 2, 3, 8])
    each, per = d.one_of([1, 2, 3, 8, 16]), d.one_of([1, 1, 2, 3, 8])
    weights = d.values((group * per, each, *attributes["kernel_shape"]), kind, tame=True)
    bias = d.values((group * per,), kind, tame=True) if d.chance(0.5) else None
    if group > 1:
        attributes["group"] = group
    if d.chance(0.3):
        shown = attributes.pop("kernel_shape")
    else:
        shown = attributes["kernel_shape"]
    fixed = {"w": weights} | ({} if bias is None else {"b": bias})
    given = {} if d.chance(0.7) else fixed

    def feed(f: Draw) -> dict[str, Any]:
        space = spatial_of(f, {**attributes, "kernel_shape": shown})
        return {"x": f.values((f.integer(0, 3), group * each, *space), kind, tame=True), **given}

    inputs = ("x", "w", *(["b"] if bias is not None else []))
    channels = {"x": [1], "w": range(9), "b": [0]}
    return Form("Conv", feed, inputs, attributes, {} if given else fixed, opset=opset, rule="sum", pinned=channels)


def conv_transpose(d: Draw) -> Form:
    opset, spatial = d.opset("ConvTranspose"), d.integer(1, 2)
    kind = d.kind("ConvTranspose", opset)
    attributes = windows_of(d, spatial)
    attributes.pop("auto_pad", None)  # the reference reads these otherwise than the text
    strides = attributes.get("strides", [1] * spatial)
    if d.chance(0.4):
        attributes["output_padding"] = [d.integer(0, s - 1) for s in strides]
    group, each, per = d.one_of([1, 1, 2]), d.one_of([1, 3, 8]), d.one_of([1, 2, 5])
    if group > 1:  # the reference adds the first group's bias to all, and ONNX Runtime has f32 only
        kind = "float32"
        attributes["group"] = group
    weights = d.values((group * each, per, *attributes["kernel_shape"]), kind, tame=True)
    bias = d.values((group * per,), kind, tame=True) if d.chance(0.5) else None

    def feed(f: Draw) -> dict[str, Any]:
        space = [f.extent(3, 9) for _ in range(spatial)]
        return {"x": f.values((f.integer(1, 2), group * each, *space), kind, tame=True)}

    fixed = {"w": weights} | ({} if bias is None else {"b": bias})
    inputs = ("x", "w", *(["b"] if bias is not None else []))
    return Form("ConvTranspose", feed, inputs, attributes, fixed, opset=opset, rule="sum", pinned={"x": [1]})


BYTES = ("int8", "uint8")


def matmul_integer(d: Draw) -> Form:
    a, b = d.one_of(BYTES), d.one_of(BYTES)
    points = {n: d.values((), k, least=-128, most=255) for n, k in (("za", a), ("zb", b)) if d.chance(0.6)}
    inputs = ("a", "b", *(n if n in points else "" for n in ("za", "zb")))
    while inputs[-1] == "":
        inputs = inputs[:-1]
    weight = d.values((d.extent(1), d.extent(1)), b, least=-128, most=255) if d.chance(0.5) else None

    def feed(f: Draw) -> dict[str, Any]:
        k, n = weight.shape if weight is not None else (f.extent(0, 70), f.extent())
        found = {"a": f.values((f.extent(), k), a, least=-128, most=255)}
        return {**found, **({} if weight is not None else {"b": f.values((k, n), b, least=-128, most=255)})}

    fixed = points | ({} if weight is None else {"b": weight})
    return Form("MatMulInteger", feed, inputs, {}, fixed, opset=10, rule="exact", wide=False)


def conv_integer(d: Draw) -> Form:
    spatial = d.integer(1, 2)
    attributes = windows_of(d, spatial)
    attributes.pop("auto_pad", None)
    channels, maps = d.one_of([1, 3, 8]), d.one_of([1, 4, 9])
    a = "uint8"
    b = d.one_of(BYTES)
    point = d.values((), a, least=0, most=255)
    weights = d.values((maps, channels, *attributes["kernel_shape"]), b, least=-128, most=255)
    shift = d.values((), b, least=-3, most=3)

    def feed(f: Draw) -> dict[str, Any]:
        return {"x": f.values((f.integer(1, 2), channels, *spatial_of(f, attributes)), a, least=0, most=255)}

    constants = {"w": weights, "zx": point, "zw": shift}
    return Form(
        "ConvInteger", feed, ("x", "w", "zx", "zw"), attributes, constants, opset=10, rule="exact", wide=False,
        pinned={"x": [1]},
    )  # fmt: skip


def quantize(d: Draw) -> Form:
    opset = d.one_of([10, 13, 19, 21, 24])
    kind = d.one_of(["uint8", "int8"] if opset < 21 else ["uint8", "int8", "uint16", "int16"])
    source = d.one_of(["float32", "float16"] if opset >= 19 else ["float32"])
    rank = d.integer(1, 3)
    by_axis = opset >= 13 and d.chance(0.5)
    axis, size = d.axis(rank), d.integer(1, 6)
    shape = (size,) if by_axis else ()
    scale = (2.0 ** d.rng.integers(-5, 3, shape)).astype(source)
    zero = d.values(shape, kind, least=-100, most=100)
    inputs = ("x", "s", "z") if d.chance(0.8) or kind != "uint8" else ("x", "s")

    def feed(f: Draw) -> dict[str, Any]:
        x = list(f.shape(rank))
        x[axis] = size if by_axis else x[axis]
        return {"x": (f.rng.standard_normal(x) * 40).astype(source)}

    constants = {"s": np.asarray(scale), "z": np.asarray(zero)}
    constants = {n: a for n, a in constants.items() if n in inputs}
    return Form(
        "QuantizeLinear", feed, inputs, {"axis": axis} if by_axis else {}, constants, opset=opset, rule="exact",
        wide=False, pinned={"x": [axis % rank]} if by_axis else {},
    )  # fmt: skip


def dequantize(d: Draw) -> Form:
    opset = d.one_of([10, 13, 19, 21, 24])
    kind = d.one_of(["uint8", "int8", "int32"] if opset < 21 else ["uint8", "int8", "uint16", "int16", "int32"])
    rank = d.integer(1, 3)
    by_axis = opset >= 13 and d.chance(0.5)
    axis, size = d.axis(rank), d.integer(1, 6)
    shape = (size,) if by_axis else ()
    scale = np.asarray(np.abs(d.rng.standard_normal(shape)) + 0.01).astype(np.float32)
    inputs = ("x", "s", "z") if kind != "int32" and d.chance(0.8) else ("x", "s")
    constants = {
        "s": scale,
        **({"z": np.asarray(d.values(shape, kind, least=-100, most=100))} if "z" in inputs else {}),
    }

    def feed(f: Draw) -> dict[str, Any]:
        x = list(f.shape(rank))
        x[axis] = size if by_axis else x[axis]
        return {"x": f.values(x, kind)}

    return Form(
        "DequantizeLinear", feed, inputs, {"axis": axis} if by_axis else {}, constants, opset=opset, wide=False,
        pinned={"x": [axis % rank]} if by_axis else {},
    )  # fmt: skip


def dynamic_quantize(d: Draw) -> Form:
    rank = d.integer(1, 3)
    width = d.one_of([5, 5, 5, 0])  # of 0: data without a range
    feed = lambda f: {"x": (f.rng.standard_normal(f.shape(rank, 1)) * width).astype(np.float32)}  # noqa: E731
    return Form("DynamicQuantizeLinear", feed, ("x",), outputs=3, opset=11, rule="rounded", wide=False)


def qlinear_matmul(d: Draw) -> Form:
    a, b, y = (d.one_of(BYTES) for _ in range(3))
    scales = {n: np.array(2.0 ** d.integer(-6, -2), np.float32) for n in ("sa", "sb")}
    scales["sy"] = np.array(2.0 ** d.integer(-2, 3), np.float32)
    points = {n: np.asarray(d.values((), k, least=-100, most=100)) for n, k in (("za", a), ("zb", b), ("zy", y))}
    weight = d.values((d.extent(1), d.extent(1)), b, least=-128, most=255) if d.chance(0.5) else None

    def feed(f: Draw) -> dict[str, Any]:
        k, n = weight.shape if weight is not None else (f.extent(1, 70), f.extent(1))
        found = {"a": f.values((f.extent(1), k), a, least=-128, most=255)}
        return {**found, **({} if weight is not None else {"b": f.values((k, n), b, least=-128, most=255)})}

    fixed = {**scales, **points, **({} if weight is None else {"b": weight})}
    return Form(
        "QLinearMatMul", feed, ("a", "sa", "za", "b", "sb", "zb", "sy", "zy"), {}, fixed, opset=10, rule="rounded",
        wide=False,
    )  # fmt: skip


def qlinear_conv(d: Draw) -> Form:
    """Scales are powers of two, so only the result's rounding is free; each channel may have its own."""
    spatial = d.integer(1, 2)
    attributes = windows_of(d, spatial)
    attributes.pop("auto_pad", None)
    kind, w_kind = d.one_of([("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
    group = d.one_of([1, 1, 2, 4])
    each, maps = d.one_of([1, 3, 8]), group * d.one_of([1, 2, 5])
    if group > 1:
        attributes["group"] = group
    per = (maps,) if d.chance(0.5) else ()
    constants = {
        "sx": np.array(2.0 ** d.integer(-6, -2), np.float32),
        "zx": np.asarray(d.values((), kind, least=-128, most=255)),
        # without VNNI ONNX Runtime adds pairs of products with signed weights in 16 bits, which saturate
        "w": d.values(
            (maps, each, *attributes["kernel_shape"]), w_kind, least=-64, most=63 if w_kind == "int8" else 255
        ),
        "sw": np.asarray(2.0 ** d.rng.integers(-6, -2, per), np.float32),
        "zw": np.full(per, 0 if per and w_kind == "int8" else d.integer(0, 9), w_kind),
        "sy": np.array(2.0 ** d.integer(-2, 3), np.float32),
        "zy": np.asarray(d.values((), kind, least=-100, most=100)),
    }
    if d.chance(0.5):
        constants["b"] = d.values((maps,), "int32", least=-9999, most=9999)

    def feed(f: Draw) -> dict[str, Any]:
        space = spatial_of(f, attributes)
        return {"x": f.values((f.integer(0, 2), group * each, *space), kind, least=-128, most=255)}

    inputs = ("x", "sx", "zx", "w", "sw", "zw", "sy", "zy", *(["b"] if "b" in constants else []))
    return Form(
        "QLinearConv", feed, inputs, attributes, constants, opset=10, rule="rounded", wide=False, pinned={"x": [1]}
    )


def det(d: Draw) -> Form:
    rank = d.integer(2, 4)
    kind = d.kind("Det", 22, among=("float32", "float64"))

    n = d.integer(1, 5)

    def feed(f: Draw) -> dict[str, Any]:
        return {"x": f.values((*f.shape(rank - 2, 0, 20), n, n), kind, tame=True)}

    return Form("Det", feed, ("x",), opset=22, rule="norm", pinned={"x": [rank - 1, rank - 2]})


FORMS: dict[str, Maker] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MatMulInteger": matmul_integer,
    "ConvInteger": conv_integer,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": dynamic_quantize,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "Det": det,
}
