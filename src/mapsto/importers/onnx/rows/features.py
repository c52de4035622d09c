"""Rows of `ai.onnx.ml` that scale, select or repair features in front of a network, and its linear regression.

Trees, texts and dictionaries of that domain have none.
"""

from __future__ import annotations

import math

import numpy as np

from mapsto.importers.onnx.rows.indexing import as_index
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape
from mapsto.ops.bounds import check_inside

DOMAIN = "ai.onnx.ml"


def _as_float(call: NodeCall) -> Value:
    """Input 0 as f32, in which these ops compute."""
    x = call.input()
    return x if x.dtype is DType.F32 else call.builder.one("cast", [x], to=DType.F32)


def _for_each_feature(call: NodeCall, x: Value, numbers: list[float] | list[int], name: str) -> Value:
    """One number for all features, or one for each along the last axis, in the type of x."""
    features = x.shape[-1] if x.rank else 1
    if len(numbers) != 1 and not (isinstance(features, int) and len(numbers) == features):
        raise call.wrong(f"{name} has {len(numbers)} numbers, where {x} has {features} features")
    array = np.array(numbers).astype(x.dtype.numpy)
    return call.builder.constant(array.reshape(()) if len(numbers) == 1 else array, name)


@row("Scaler", domain=DOMAIN)
def _scaler(call: NodeCall) -> Result:
    """(x - offset) * scale."""
    b, x = call.builder, _as_float(call)
    offset, scale = call.numbers("offset") or [0.0], call.numbers("scale") or [1.0]
    less = b.one("sub", [x, _for_each_feature(call, x, offset, "offset")])
    return b.one("mul", [less, _for_each_feature(call, x, scale, "scale")])


@row("Normalizer", domain=DOMAIN)
def _normalizer(call: NodeCall) -> Result:
    """Each row by its largest element, by the sum of its absolute ones, or by its length; one of 0 stays."""
    b, x = call.builder, _as_float(call)
    norm = call.one_of("norm", "MAX", ("MAX", "L1", "L2"))
    if not 1 <= x.rank <= 2:
        raise call.wrong(f"{x} has {x.rank} axes, not 1 or 2")
    along = (x.rank - 1,)
    if norm == "MAX":
        by = composite.reduce(b, x, "max", along)
    elif norm == "L1":
        by = composite.reduce(b, b.one("abs", [x]), "sum", along)
    else:
        by = b.one("sqrt", [composite.reduce(b, b.one("mul", [x, x]), "sum", along)])
    is_zero = b.one("eq", [by, call.scalar(0, by)])
    return b.one("div", [x, b.one("select", [is_zero, call.scalar(1, by), by])])


@row("Binarizer", domain=DOMAIN)
def _binarizer(call: NodeCall) -> Result:
    """1 where an element is above the threshold, else 0."""
    b, x = call.builder, call.input()
    wide = x if x.dtype.is_float else b.one("cast", [x], to=DType.F64)
    is_above = b.one("gt", [wide, call.scalar(call.number("threshold", 0.0), wide)])
    return b.one("cast", [is_above], to=x.dtype)


@row("Imputer", domain=DOMAIN)
def _imputer(call: NodeCall) -> Result:
    """Elements that equal a value, which may be NaN, replaced by what is given for their feature."""
    b, x = call.builder, call.input()
    replaced: float | int
    if x.dtype.is_float:
        imputed: list[float] | list[int] | None = call.numbers("imputed_value_floats")
        replaced = call.number("replaced_value_float", 0.0)
    else:
        imputed = call.integers("imputed_value_int64s")
        replaced = call.integer("replaced_value_int64", 0)
    if not imputed:
        raise call.wrong(f"it does not say what takes the place of {replaced} in {x}")
    if isinstance(replaced, float) and math.isnan(replaced):
        is_missing = b.one("isnan", [x])
    else:
        is_missing = b.one("eq", [x, call.scalar(replaced, x)])
    return b.one("select", [is_missing, _for_each_feature(call, x, imputed, "imputed values"), x])


@row("ArrayFeatureExtractor", domain=DOMAIN)
def _extractor(call: NodeCall) -> Result:
    """Features by their places along the last axis; a vector is one row of them."""
    b, x, places = call.builder, call.input(), call.input(1)
    if not x.rank:
        raise call.wrong(f"{x} has no axis of features")
    features = x.shape[-1]
    flat = reshape(b, places, (product(places.shape),)) if places.rank != 1 else places
    rows = reshape(b, x, (1, features)) if x.rank == 1 else x
    check_inside(b, flat, Allowed((0,), (features,), "place", "feature"), call.place(1))
    return b.one("gather", [rows, as_index(b, flat)], axis=rows.rank - 1)


@row("LinearRegressor", domain=DOMAIN)
def _linear_regressor(call: NodeCall) -> Result:
    """x · coefficients + intercepts, for each target."""
    b, x = call.builder, _as_float(call)
    targets = call.integer("targets", 1)
    call.one_of("post_transform", "NONE", ("NONE",))
    coefficients = call.numbers("coefficients") or []
    x = reshape(b, x, (1, x.shape[0])) if x.rank == 1 else x
    features = x.shape[-1]
    if x.rank != 2 or not isinstance(features, int) or targets < 1 or len(coefficients) != targets * features:
        raise call.wrong(f"{len(coefficients)} coefficients for {targets} targets do not fit {x}")
    weights = np.array(coefficients, np.float32).reshape(targets, features).T
    y = b.one("matmul", [x, b.constant(weights, "coefficients")])
    intercepts = call.numbers("intercepts")
    if not intercepts:
        return y
    if len(intercepts) != targets:
        raise call.wrong(f"{len(intercepts)} intercepts for {targets} targets")
    return b.one("add", [y, b.constant(np.array(intercepts, np.float32), "intercepts")])
