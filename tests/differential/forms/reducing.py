"""Reductions, scans along an axis, and normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import FLOATS, Draw
from tests.differential.form import Form

Maker = Callable[[Draw], Form]
REDUCTIONS = [f"Reduce{n}" for n in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()]
# What of no elements is no number that a standard names.
NOT_OF_NOTHING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceLogSum", "ReduceLogSumExp")


def reduction(op: str) -> Maker:
    def make(d: Draw) -> Form:
        by_input = 13 if op == "ReduceSum" else 18
        opset = d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(0, 4)
        keepdims = d.integer(0, 1)
        axes = d.axes(rank)
        attributes: dict[str, Any] = {"keepdims": keepdims} if d.chance(0.8) or not keepdims else {}
        inputs: tuple[str, ...] = ("x",)
        fixed, given = {}, {}
        if opset >= by_input:
            if d.chance(0.3):
                attributes["noop_with_empty_axes"] = d.integer(0, 1)
            if axes or d.chance(0.5):
                inputs = ("x", "axes")
                (fixed if d.chance(0.5) or not axes else given)["axes"] = np.array(axes, np.int64)
        elif axes:
            attributes["axes"] = axes
        least = 1 if op in NOT_OF_NOTHING else 0
        exact = op in ("ReduceMax", "ReduceMin")

        def feed(f: Draw) -> dict[str, Any]:
            x = f.values(f.shape(rank, least), kind, tame=not exact)
            if op == "ReduceProd":
                x = np.clip(x, -2, 2).astype(x.dtype)
            if op in ("ReduceLogSum", "ReduceLogSumExp"):
                x = np.abs(x)
            return {"x": x, **given}

        rule = "equal" if exact else "sum" if op in ("ReduceSum", "ReduceMean") else "rounded"
        return Form(op, feed, inputs, attributes, fixed, opset=opset, rule=rule, wide=not exact)

    return make


def arg(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(1, 4)
        attributes: dict[str, Any] = {"axis": d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)}
        attributes |= {"keepdims": 0} if d.chance(0.5) else {}
        attributes |= {"select_last_index": 1} if opset >= 12 and d.chance(0.4) else {}
        return Form(
            op, lambda f: {"x": f.values(f.shape(rank, 1), kind, tame=True)}, ("x",), attributes, opset=opset,
            rule="exact", wide=False,
        )  # fmt: skip

    return make


def softmax(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(1, 4)
        axis = {"axis": d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)} if d.chance(0.8) else {}
        exact = op == "Hardmax"
        return Form(
            op, lambda f: {"x": f.values(f.shape(rank, int(exact)), kind, tame=True)}, ("x",), axis, opset=opset,
            rule="exact" if exact else "whole", wide=not exact,
        )  # fmt: skip

    return make


def cumulative(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = NEWEST_CUMPROD if op == "CumProd" else d.opset(op, 11)
        kind, rank = d.kind(op, opset), d.integer(1, 3)
        attributes = {n: 1 for n in ("exclusive", "reverse") if d.chance(0.4)}
        axis = {"axis": np.array(d.axis(rank), d.one_of([np.int32, np.int64]))}
        fixed = axis if d.chance(0.5) else {}

        def feed(f: Draw) -> dict[str, Any]:
            x = f.values(f.shape(rank), kind, tame=True)
            if op == "CumProd":
                x = np.clip(x, -1, 1).astype(x.dtype)
            return {"x": x, **({} if fixed else axis)}

        return Form(op, feed, ("x", "axis"), attributes, fixed, opset=opset, rule="sum")

    return make


NEWEST_CUMPROD = 26


def top_k(d: Draw) -> Form:
    opset = d.one_of([10, 11, 24])
    kind, rank = d.kind("TopK", opset), d.integer(1, 3)
    axis = d.axis(rank) if opset >= 11 else d.integer(0, rank - 1)
    attributes: dict[str, Any] = {"axis": axis}
    attributes |= {"largest": d.integer(0, 1)} if opset >= 11 else {}
    least = d.integer(0, 4)
    fixed = {"k": np.array([least], np.int64)} if d.chance(0.5) else {}

    def feed(f: Draw) -> dict[str, Any]:
        shape = list(f.shape(rank))
        shape[axis] = max(shape[axis], least)
        size = int(np.prod(shape))
        order = f.rng.permutation(size).reshape(shape)  # all different: which of two alike comes first is free
        small = {"int8": 7, "uint8": 8, "float16": 11, "bfloat16": 8}.get(kind, 30)
        if size > 1 << small:
            shape = [min(e, 2) for e in shape]
            shape[axis] = max(shape[axis], least)
            order = f.rng.permutation(int(np.prod(shape))).reshape(shape)
        x = (order - (0 if kind[0] == "u" else order.size // 2)).astype(f.values((), kind).dtype)
        k = {} if fixed else {"k": np.array([f.integer(0, shape[axis])], np.int64)}
        return {"x": x, **k}

    return Form("TopK", feed, ("x", "k"), attributes, fixed, outputs=2, opset=opset, rule="exact", wide=False)


def layer_normalization(d: Draw) -> Form:
    kind, rank = d.kind("LayerNormalization", 17), d.integer(1, 4)
    axis = d.axis(rank)
    bias = d.chance(0.6)
    attributes = {"axis": axis, "epsilon": d.one_of([1e-5, 1e-2, 1e-12])}

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, 1)
        tail = shape[axis:]
        found = {"x": f.values(shape, kind, tame=True), "s": f.values(tail, kind, tame=True)}
        return {**found, **({"b": f.values(tail, kind, tame=True)} if bias else {})}

    return Form("LayerNormalization", feed, ("x", "s", *(["b"] if bias else [])), attributes, opset=17, rule="norm")


def rms_normalization(d: Draw) -> Form:
    kind, rank = d.kind("RMSNormalization", 23), d.integer(1, 4)
    axis = d.axis(rank)

    def feed(f: Draw) -> dict[str, Any]:
        shape = f.shape(rank, 1)
        return {"x": f.values(shape, kind, tame=True), "s": f.values(shape[axis:], kind, tame=True)}

    return Form("RMSNormalization", feed, ("x", "s"), {"axis": axis, "epsilon": 1e-5}, opset=23, rule="norm")


def by_channel(op: str) -> Maker:
    """InstanceNormalization, GroupNormalization, BatchNormalization."""

    def make(d: Draw) -> Form:
        opset = 21 if op == "GroupNormalization" else d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(2 if op == "BatchNormalization" else 3, 5)
        groups = d.integer(1, 3)
        attributes: dict[str, Any] = {"epsilon": d.one_of([1e-5, 1e-2])}
        names = ["x", "s", "b"]
        if op == "GroupNormalization":
            attributes["num_groups"] = groups
        if op == "BatchNormalization":
            names += ["mean", "var"]

        def feed(f: Draw) -> dict[str, Any]:
            shape = list(f.shape(rank, 1, 4000))
            if op == "GroupNormalization":
                shape[1] = groups * f.integer(1, 4)
            found = {"x": f.values(shape, kind, tame=True)}
            found |= {n: f.values(shape[1:2], kind, tame=True) for n in names[1:]}
            if "var" in found:
                found["var"] = (np.abs(found["var"]) + np.array(0.1, found["var"].dtype)).astype(found["var"].dtype)
            return found

        return Form(op, feed, tuple(names), attributes, opset=opset, rule="norm")

    return make


def lrn(d: Draw) -> Form:
    opset = d.opset("LRN")
    kind, rank = d.kind("LRN", opset, among=FLOATS), d.integer(3, 4)
    attributes = {"size": d.one_of([1, 2, 3, 5, 9]), "alpha": 0.1, "beta": 0.75, "bias": 1.5}
    return Form(
        "LRN",
        lambda f: {"x": f.values(f.shape(rank, 1), kind, tame=True)},
        ("x",),
        attributes,
        opset=opset,
        rule="whole",
    )


def lp_normalization(d: Draw) -> Form:
    kind, rank = d.kind("LpNormalization", 22), d.integer(1, 4)
    attributes = {"axis": d.axis(rank), "p": d.integer(1, 2)}
    return Form(
        "LpNormalization", lambda f: {"x": f.values(f.shape(rank), kind, tame=True)}, ("x",), attributes, opset=22,
        rule="whole",
    )  # fmt: skip


def mvn(d: Draw) -> Form:
    opset = d.opset("MeanVarianceNormalization", 9)
    kind, rank = d.kind("MeanVarianceNormalization", opset), 4
    axes = {"axes": sorted(d.axes(rank, 1))} if d.chance(0.6) else {}
    return Form(
        "MeanVarianceNormalization", lambda f: {"x": f.values(f.shape(rank, 1), kind, tame=True)}, ("x",), axes,
        opset=opset, rule="norm",
    )  # fmt: skip


FORMS: dict[str, Maker] = {
    **{op: reduction(op) for op in REDUCTIONS},
    **{op: arg(op) for op in ("ArgMax", "ArgMin")},
    **{op: softmax(op) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{op: cumulative(op) for op in ("CumSum", "CumProd")},
    "TopK": top_k,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    **{op: by_channel(op) for op in ("InstanceNormalization", "GroupNormalization", "BatchNormalization")},
    "LRN": lrn,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mvn,
}
