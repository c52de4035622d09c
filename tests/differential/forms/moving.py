"""Ops that only say where elements lie: every bit of them stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import Draw, dtype_of
from tests.differential.form import Form

Maker = Callable[[Draw], Form]
I64 = np.int64


def exact(
    op: str, feed: Any, inputs: tuple[str, ...], attributes: Any = None, constants: Any = None, **more: Any
) -> Form:
    return Form(op, feed, inputs, attributes or {}, constants or {}, rule="exact", wide=False, **more)


def parameter(d: Draw, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an op works by, each as a constant of the model or as an input: (constants, inputs)."""
    constants: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name, value in values.items():
        (constants if d.chance(0.5) or not value.size else inputs)[name] = value
    return constants, inputs


def reshape(d: Draw) -> Form:
    opset = d.opset("Reshape")
    kind, rank = d.kind("Reshape", opset), d.integer(0, 4)
    zero = {"allowzero": 1} if opset >= 14 and d.chance(0.2) else {}
    count = d.integer(1, 5)
    guessed = d.integer(-1, count - 1)

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(count, 0 if zero else 1, 5000))
        whole = list(shape)
        source = f.rng.permutation(whole) if rank >= count else np.array(whole)
        old = [1] * max(0, rank - count) + [int(e) for e in source]
        while len(old) > rank:
            old[-2:] = [old[-2] * old[-1]] if rank else old[-2:]
            if not rank:
                old = []
        if not rank:
            whole = [1] * count
        if guessed >= 0 and 0 not in whole:
            whole[guessed] = -1
        return {"x": f.values(old, kind), "shape": np.array(whole, I64)}

    return exact("Reshape", feed, ("x", "shape"), zero, opset=opset)


def transpose(d: Draw) -> Form:
    opset = d.opset("Transpose")
    kind, rank = d.kind("Transpose", opset), d.integer(0, 5)
    order = {"perm": [int(k) for k in d.rng.permutation(rank)]} if d.chance(0.8) and rank else {}
    return exact("Transpose", lambda f: {"x": f.values(f.shape(rank), kind)}, ("x",), order, opset=opset)


def squeeze(d: Draw) -> Form:
    opset = d.opset("Squeeze")
    kind, rank = d.kind("Squeeze", opset), d.integer(0, 4)
    chosen = d.several(range(rank))
    named = bool(chosen) and d.chance(0.8)
    axes = [a - rank if opset >= 11 and d.chance(0.3) else a for a in chosen]
    constants, given = parameter(d, axes=np.array(axes, I64)) if opset >= 13 and named else ({}, {})

    attributes = {"axes": axes} if named and opset < 13 else {}
    inputs = ("x", "axes") if named and opset >= 13 else ("x",)
    whole = d.shape(rank, 2, 500)

    def feed(f: Draw) -> dict[str, Any]:
        # where no axes are named every extent of 1 goes, so that the rank hangs on the extents
        shape = f.shape(rank) if named else whole
        return {"x": f.values([1 if k in chosen else e for k, e in enumerate(shape)], kind), **given}

    pinned = {} if named else {"x": range(rank)}
    return exact("Squeeze", feed, inputs, attributes, constants, opset=opset, pinned=pinned)


def unsqueeze(d: Draw) -> Form:
    opset = d.opset("Unsqueeze")
    kind, rank, count = d.kind("Unsqueeze", opset), d.integer(0, 3), d.integer(1, 3)
    places = d.rng.permutation(rank + count)[:count]
    axes = [int(a) - (rank + count if opset >= 11 and d.chance(0.3) else 0) for a in places]
    constants, given = parameter(d, axes=np.array(axes, I64)) if opset >= 13 else ({}, {})
    attributes = {} if opset >= 13 else {"axes": axes}
    inputs = ("x", "axes") if opset >= 13 else ("x",)
    feed = lambda f: {"x": f.values(f.shape(rank), kind), **given}  # noqa: E731
    return exact("Unsqueeze", feed, inputs, attributes, constants, opset=opset)


def flatten(d: Draw) -> Form:
    opset = d.opset("Flatten")
    kind, rank = d.kind("Flatten", opset), d.integer(0, 4)
    axis = {"axis": d.integer(-rank if opset >= 11 else 0, rank)}
    return exact("Flatten", lambda f: {"x": f.values(f.shape(rank), kind)}, ("x",), axis, opset=opset)


def expand(d: Draw) -> Form:
    opset = d.opset("Expand", 8)
    kind, rank, count = d.kind("Expand", opset), d.integer(0, 3), d.integer(1, 4)
    ones = [d.chance(0.5) for _ in range(rank)]

    def feed(f: Draw) -> dict[str, Any]:
        whole = f.shape(max(rank, count))
        own = [1 if one else e for one, e in zip(ones, whole[len(whole) - rank :], strict=True)]
        asked = [1 if f.chance(0.2) else e for e in whole[len(whole) - count :]]
        return {"x": f.values(own, kind), "shape": np.array(asked, I64)}

    return exact("Expand", feed, ("x", "shape"), opset=opset)


def tile(d: Draw) -> Form:
    opset = d.opset("Tile")
    kind, rank = d.kind("Tile", opset), d.integer(0, 4)
    repeats = np.array([d.integer(0, 3) for _ in range(rank)], I64)
    constants, given = parameter(d, repeats=repeats)

    def feed(f: Draw) -> dict[str, Any]:
        found = {"x": f.values(f.shape(rank, 0, 2000), kind)}
        return {**found, **({"repeats": np.array([f.integer(0, 3) for _ in range(rank)], I64)} if given else {})}

    return exact("Tile", feed, ("x", "repeats"), {}, constants, opset=opset)


def concat(d: Draw) -> Form:
    opset = d.opset("Concat")
    kind, rank, count = d.kind("Concat", opset), d.integer(1, 4), d.integer(1, 4)
    axis = d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)
    names = tuple(f"x{k}" for k in range(count))

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank))
        found = {}
        for name in names:
            shape[axis] = f.extent(0, 9)
            found[name] = f.values(shape, kind)
        return found

    return exact("Concat", feed, names, {"axis": axis}, opset=opset)


def split(d: Draw) -> Form:
    opset = d.opset("Split")
    kind, rank, count = d.kind("Split", opset), d.integer(1, 4), d.integer(1, 4)
    axis = d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)
    sizes = [d.integer(0, 6) for _ in range(count)]
    by = d.one_of(["sizes", "parts"])
    attributes: dict[str, Any] = {"axis": axis}
    constants, given = {}, {}
    if by == "sizes" and opset < 13:
        attributes["split"] = sizes
    elif by == "sizes":
        constants, given = parameter(d, split=np.array(sizes, I64))
    elif opset >= 18:
        attributes["num_outputs"] = count

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank))
        some = f.integer(1, 5)
        shape[axis] = sum(sizes) if by == "sizes" else some * count
        if by == "parts" and opset >= 18 and count > 1 and some >= count:
            shape[axis] -= f.integer(0, count - 1)  # the last part is what is left
        return {"x": f.values(shape, kind), **given}

    inputs = ("x", "split") if by == "sizes" and opset >= 13 else ("x",)
    return exact("Split", feed, inputs, attributes, constants, outputs=count, opset=opset)


def slice_(d: Draw) -> Form:
    opset = d.opset("Slice")
    kind, rank = d.kind("Slice", opset), d.integer(1, 4)
    chosen = d.several(range(rank), 1)
    if d.chance(0.3):
        chosen = list(range(len(chosen)))
    ends = [-(2**63), -7, -3, -1, 0, 1, 2, 4, 9, 2**63 - 1]
    kinds = d.one_of([np.int64, np.int32])
    least, most = np.iinfo(kinds).min, np.iinfo(kinds).max
    starts, stops = ([int(np.clip(d.one_of(ends), least, most)) for _ in chosen] for _ in range(2))
    default = chosen == list(range(len(chosen))) and d.chance(0.5)
    axes = [a - rank if opset >= 10 and d.chance(0.3) else a for a in chosen]
    if opset < 10:
        attributes = {"starts": starts, "ends": stops} | ({} if default else {"axes": axes})
        return exact("Slice", lambda f: {"x": f.values(f.shape(rank), kind)}, ("x",), attributes, opset=opset)
    values = {"starts": starts, "ends": stops}
    inputs = ["x", "starts", "ends"]
    stepped = d.chance(0.6)
    if not default or stepped:
        inputs.append("" if default else "axes")
        values |= {} if default else {"axes": axes}
    if stepped:
        inputs.append("steps")
        values["steps"] = [d.one_of([-3, -2, -1, 1, 1, 2, 5]) for _ in chosen]
    constants, given = parameter(d, **{n: np.array(v, kinds) for n, v in values.items()})
    return exact(
        "Slice", lambda f: {"x": f.values(f.shape(rank), kind), **given}, tuple(inputs), {}, constants, opset=opset
    )


def pad(d: Draw) -> Form:
    opset = d.one_of([11, 13, 18, 19, 21, 24])
    kind, rank = d.kind("Pad", opset), d.integer(1, 4)
    mode = d.one_of(["constant", "constant", "reflect", "edge", *(["wrap"] if opset >= 19 else [])])
    chosen = d.several(range(rank), 1) if opset >= 18 and d.chance(0.4) else None
    count = rank if chosen is None else len(chosen)
    least = -1 if mode == "constant" else 0
    amounts = np.array([d.integer(least, 3) for _ in range(2 * count)], I64)
    values: dict[str, Any] = {"pads": amounts}
    inputs = ["x", "pads"]
    if (mode == "constant" and d.chance(0.6)) or chosen is not None:
        filled = mode == "constant" and d.chance(0.7)
        inputs.append("value" if filled else "")
        values |= {"value": d.values((), kind)} if filled else {}
    if chosen is not None:
        inputs.append("axes")
        values["axes"] = np.array([a - rank if d.chance(0.3) else a for a in chosen], I64)
    constants, given = parameter(d, **values)
    size = 0 if mode == "constant" else 5

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, max(size, 0))
        if mode == "constant":
            shape = tuple(max(e, 2) for e in shape)
        return {"x": f.values(shape, kind), **given}

    return exact("Pad", feed, tuple(inputs), {"mode": mode}, constants, opset=opset)


def by_blocks(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, size = d.kind(op, opset), d.integer(1, 3)
        attributes: dict[str, Any] = {"blocksize": size}
        if op == "DepthToSpace" and opset >= 11 and d.chance(0.6):
            attributes["mode"] = d.one_of(["DCR", "CRD"])

        def feed(f: Draw) -> dict[str, Any]:
            n, c, h, w = f.shape(4, 1, 2000)
            shape = (n, c * size * size, h, w) if op == "DepthToSpace" else (n, c, h * size, w * size)
            return {"x": f.values(shape, kind)}

        return exact(op, feed, ("x",), attributes, opset=opset)

    return make


def trilu(d: Draw) -> Form:
    kind, rank = d.kind("Trilu", 14), d.integer(2, 4)
    upper = {"upper": d.integer(0, 1)} if d.chance(0.8) else {}
    shift = d.one_of([-40, -3, -1, 0, 1, 2, 40])
    constants, given = parameter(d, k=np.array(shift, I64)) if d.chance(0.7) else ({}, {})
    inputs = ("x", "k") if constants or given else ("x",)
    return exact("Trilu", lambda f: {"x": f.values(f.shape(rank), kind), **given}, inputs, upper, constants)


def eye_like(d: Draw) -> Form:
    kind = d.kind("EyeLike", 22)
    attributes = {"k": d.integer(-5, 5)} if d.chance(0.6) else {}
    return exact("EyeLike", lambda f: {"x": f.values(f.shape(2), kind)}, ("x",), attributes)


def sizes(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(0, 5)
        ends: dict[str, Any] = {}
        if op == "Shape" and opset >= 15:
            ends = {name: d.integer(-6, 6) for name in ("start", "end") if d.chance(0.5)}
        return exact(op, lambda f: {"x": f.values(f.shape(rank), kind)}, ("x",), ends, opset=opset)

    return make


def range_(d: Draw) -> Form:
    kind = d.kind("Range", 11)
    step = dtype_of(kind).type(d.one_of([1, 2, -1, 3] if kind[0] == "i" else [1, 0.5, -0.25, 2]))

    def feed(f: Draw) -> dict[str, Any]:
        first = f.integer(-9, 9)
        return {"a": np.array(first, kind), "b": np.array(first + f.integer(-20, 20), kind), "s": np.array(step, kind)}

    return exact("Range", feed, ("a", "b", "s"))


def constant_of_shape(d: Draw) -> Form:
    from onnx import numpy_helper

    rank, opset = d.integer(1, 4), d.opset("ConstantOfShape", 9)
    kind = d.one_of(["float32", "float64", "float16", "int64", "int32", "uint8", "bool", "int16"])
    value = {"value": numpy_helper.from_array(np.asarray(d.values((1,), kind)))} if d.chance(0.8) else {}
    return exact("ConstantOfShape", lambda f: {"shape": np.array(f.shape(rank), I64)}, ("shape",), value, opset=opset)


def center_crop_pad(d: Draw) -> Form:
    kind, rank = d.kind("CenterCropPad", 18), d.integer(1, 4)
    chosen = d.several(range(rank), 1) if d.chance(0.5) else list(range(rank))
    axes = {"axes": chosen} if chosen != list(range(rank)) else {}
    target = np.array([d.integer(1, 9) for _ in chosen], I64)
    return exact(
        "CenterCropPad", lambda f: {"x": f.values(f.shape(rank, 1), kind)}, ("x", "shape"), axes, {"shape": target}
    )


FORMS: dict[str, Maker] = {
    "Reshape": reshape,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Flatten": flatten,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "DepthToSpace": by_blocks("DepthToSpace"),
    "SpaceToDepth": by_blocks("SpaceToDepth"),
    "Trilu": trilu,
    "EyeLike": eye_like,
    "Shape": sizes("Shape"),
    "Size": sizes("Size"),
    "Range": range_,
    "ConstantOfShape": constant_of_shape,
    "CenterCropPad": center_crop_pad,
}
