"""Ops that work by indices, conditions and lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.differential.drawing import Draw
from tests.differential.form import Form
from tests.differential.forms.moving import exact, parameter

Maker = Callable[[Draw], Form]
I64 = np.int64
# How near the results of scatters must be, by their reduction.
RULES = {"none": "exact", "max": "equal", "min": "equal", "add": "whole", "mul": "whole"}


def indices(f: Draw, shape: Sequence[int], extent: int, kind: Any = I64) -> Any:
    """Of an axis, from either end."""
    return f.rng.integers(-extent, extent, shape).astype(kind)


def gather(d: Draw) -> Form:
    opset = d.opset("Gather")
    kind, rank, other = d.kind("Gather", opset), d.integer(1, 4), d.integer(0, 3)
    axis = d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)
    index = d.one_of([np.int32, np.int64])

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank, 0, 3000))
        shape[axis] = max(1, shape[axis])
        return {"x": f.values(shape, kind), "i": indices(f, f.shape(other, 0, 40), shape[axis], index)}

    return exact("Gather", feed, ("x", "i"), {"axis": axis}, opset=opset)


def gather_elements(d: Draw) -> Form:
    opset = d.opset("GatherElements", 11)
    kind, rank = d.kind("GatherElements", opset), d.integer(1, 4)
    axis = d.axis(rank)
    index = d.one_of([np.int32, np.int64])

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank, 1))
        other = [f.integer(0, e) for e in shape]
        other[axis] = f.extent(0, 9)
        return {"x": f.values(shape, kind), "i": indices(f, other, shape[axis], index)}

    return exact("GatherElements", feed, ("x", "i"), {"axis": axis}, opset=opset)


def scatter_elements(d: Draw) -> Form:
    opset = d.opset("ScatterElements", 11)
    kind, rank = d.kind("ScatterElements", opset), d.integer(1, 4)
    axis = d.axis(rank)
    ways = ["none"] + (["add", "mul"] if opset >= 16 else []) + (["max", "min"] if opset >= 18 else [])
    way = d.one_of(ways) if kind != "bool" else "none"

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank, 1, 3000))
        other = [f.integer(0, e) for e in shape]
        if way == "none":  # twice at one place: which stays is free
            order = f.rng.permuted(
                np.broadcast_to(
                    np.arange(shape[axis]), np.moveaxis(np.empty(other), axis, -1).shape[:-1] + (shape[axis],)
                ),
                axis=-1,
            )
            found = np.moveaxis(order[..., : other[axis]], -1, axis).astype(I64)
            found = np.where(f.rng.random(found.shape) < 0.3, found - shape[axis], found)
        else:
            other[axis] = f.extent(0, 7)
            found = indices(f, other, shape[axis])
        tame = way != "none"
        return {"x": f.values(shape, kind, tame=tame), "i": found, "u": f.values(found.shape, kind, tame=tame)}

    attributes: dict[str, Any] = {"axis": axis} | ({} if way == "none" else {"reduction": way})
    return Form(
        "ScatterElements", feed, ("x", "i", "u"), attributes, opset=opset, wide=way in ("add", "mul"), rule=RULES[way],
    )  # fmt: skip


def gather_nd(d: Draw) -> Form:
    opset = d.opset("GatherND", 11)
    kind, rank = d.kind("GatherND", opset), d.integer(1, 4)
    batch = d.integer(0, rank - 1) if opset >= 12 and d.chance(0.4) else 0
    width, more = d.integer(1, rank - batch), d.integer(0, 2)

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, 1, 3000)
        lead = (*shape[:batch], *f.shape(more, 0, 30))
        parts = [indices(f, lead, e) for e in shape[batch : batch + width]]
        return {"x": f.values(shape, kind), "i": np.stack(parts, -1)}

    return exact(
        "GatherND", feed, ("x", "i"), {"batch_dims": batch} if batch else {}, opset=opset, pinned={"i": [batch + more]}
    )


def scatter_nd(d: Draw) -> Form:
    opset = d.opset("ScatterND", 11)
    kind, rank = d.kind("ScatterND", opset), d.integer(1, 4)
    width = d.integer(1, rank)
    ways = ["none"] + (["add", "mul"] if opset >= 16 else []) + (["max", "min"] if opset >= 18 else [])
    way = d.one_of(ways) if kind != "bool" else "none"

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, 1, 3000)
        total = int(np.prod(shape[:width]))
        flat = (
            f.rng.permutation(total)[: f.integer(0, min(total, 30))]
            if way == "none"
            else f.rng.integers(0, total, f.integer(0, 20))
        )
        found = np.stack(np.unravel_index(flat, shape[:width]), -1).astype(I64)
        found = np.where(f.rng.random(found.shape) < 0.3, found - np.array(shape[:width]), found)
        tame = way != "none"
        return {
            "x": f.values(shape, kind, tame=tame),
            "i": found,
            "u": f.values((len(found), *shape[width:]), kind, tame=tame),
        }

    return Form(
        "ScatterND", feed, ("x", "i", "u"), {} if way == "none" else {"reduction": way}, opset=opset,
        wide=way in ("add", "mul"), rule=RULES[way], pinned={"i": [1]},
    )  # fmt: skip


def one_hot(d: Draw) -> Form:
    opset = d.opset("OneHot", 9)
    kind, rank = d.kind("OneHot", opset, 2), d.integer(0, 3)
    axis = d.integer(-rank - 1, rank)
    index = d.one_of([np.int64, np.int32])
    constants, given = parameter(d, depth=np.array(d.integer(1, 9), d.one_of([np.int64, np.int32])))
    values = d.values((2,), kind)

    def feed(f: Draw) -> dict[str, Any]:
        deep = {"depth": np.array(f.integer(1, 9), given["depth"].dtype)} if given else {}
        depth = int({**constants, **deep}["depth"])
        return {"i": indices(f, f.shape(rank), depth, index), **deep, "v": values}

    return exact("OneHot", feed, ("i", "depth", "v"), {"axis": axis}, constants, opset=opset)


def non_zero(d: Draw) -> Form:
    kind, rank = d.kind("NonZero", 13), d.integer(1, 4)

    def feed(f: Draw) -> dict[str, Any]:
        x = f.values(f.shape(rank), kind)
        return {"x": np.where(f.rng.random(x.shape) < 0.4, np.zeros((), x.dtype), x).astype(x.dtype)}

    return exact("NonZero", feed, ("x",))


def compress(d: Draw) -> Form:
    opset = d.opset("Compress", 9)
    kind, rank = d.kind("Compress", opset), d.integer(1, 4)
    axis = d.axis(rank) if d.chance(0.7) else None

    def feed(f: Draw) -> dict[str, Any]:
        x = f.values(f.shape(rank, 1), kind)
        most = x.size if axis is None else x.shape[axis]
        return {"x": x, "c": f.values((f.integer(0, most),), "bool")}

    return exact("Compress", feed, ("x", "c"), {} if axis is None else {"axis": axis}, opset=opset)


def unique(d: Draw) -> Form:
    rank = d.integer(1, 3)
    attributes: dict[str, Any] = {"axis": d.axis(rank)} if d.chance(0.5) else {}
    attributes |= {"sorted": d.integer(0, 1)} if d.chance(0.7) else {}
    # along an axis and unsorted only ONNX Runtime is right, which has these types
    odd = len(attributes) == 2 and not attributes["sorted"]
    kind = d.one_of(["float32", "int64"]) if odd else d.kind("Unique", 11)

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, 1, 300)
        return {"x": f.rng.integers(0, 3, shape).astype(f.values((), kind).dtype)}

    return exact("Unique", feed, ("x",), attributes, outputs=4)


def reverse_sequence(d: Draw) -> Form:
    kind, rank = d.kind("ReverseSequence", 10), d.integer(2, 4)
    turned = d.chance(0.5)
    attributes = {"batch_axis": int(turned), "time_axis": int(not turned)}

    def feed(f: Draw) -> dict[str, Any]:
        x = f.values(f.shape(rank, 1), kind)
        batch, time = x.shape[int(turned)], x.shape[int(not turned)]
        return {"x": x, "l": f.rng.integers(1, time + 1, (batch,))}

    return exact("ReverseSequence", feed, ("x", "l"), attributes)


FORMS: dict[str, Maker] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "OneHot": one_hot,
    "NonZero": non_zero,
    "Compress": compress,
    "Unique": unique,
    "ReverseSequence": reverse_sequence,
}
