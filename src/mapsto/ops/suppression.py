"""Non-maximum suppression: of boxes that overlap, the one of the highest score stays (ONNX NonMaxSuppression).

non_max_suppression(boxes f32[N, S, 4], scores f32[N, C, S], overlap f32?, least_score f32?)
    -> (indices i64[N*C*min(limit, S), 3], count i64[])

Rows (batch, class, box) by batch, class, falling score; the first `count` are valid, the rest is zero. A box is a
candidate where its score is above `least_score` (without one all are), and stays unless its intersection over union
with one that stayed is above `overlap` (without one 0). Boxes of one score come in order; NaN is the highest score.
attrs: limit (a dim: boxes that stay at most in a class), center (boxes are center x, center y, width, height; else two
opposite corners).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType
from mapsto.ops.registry import Inference, OpSpec, Shape, register
from mapsto.ops.shapes import describe, dim_min, require_dtype, require_rank


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    for i in range(len(inference.inputs)):
        if inference.inputs[i] is not None:
            require_dtype(inference, i, frozenset({DType.F32}))
            if i >= 2 and any(d != 1 for d in inference.value(i).shape):
                raise ShapeError(f"{describe(inference)}: input {i} should be one number")
    batch, count, corners = require_rank(inference, 0, 3).shape
    images, classes, boxes = require_rank(inference, 1, 3).shape
    inference.same(batch, images)
    inference.same(count, boxes)
    inference.same(corners, 4)
    inference.at_least(inference.attrs["limit"], 0, "the limit of boxes in a class")
    return [(DType.I64, (batch * classes * dim_min(inference.attrs["limit"], count), 3)), (DType.I64, ())]


def corners(boxes: Array, center: bool) -> Array:
    """Boxes [S, 4] as two low and two high edges, in float32 throughout; which axis comes first does not matter."""
    a, b = boxes[:, :2], boxes[:, 2:]
    if center:
        a, b = a - b / np.float32(2), a + b / np.float32(2)
        return np.concatenate([a, b], axis=1)
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1)


def _overlaps(box: Array, others: Array, most: np.float32) -> bool:
    """Whether the intersection over union with any of the others is above `most`."""
    if not len(others):
        return False
    side = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    area, areas = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    inside = np.prod(side, axis=1)
    union = area + areas - inside
    real = (side > 0).all(axis=1) & (inside > 0) & (area > 0) & (areas > 0) & (union > 0)
    return bool((real & (inside / union > most)).any())


def _stay(boxes: Array, scores: Array, limit: int, most: np.float32, least: Array | None) -> list[int]:
    chosen: list[int] = []
    falling = np.flip(len(scores) - 1 - np.argsort(np.flip(scores), kind="stable"))
    for i in falling.tolist():
        if len(chosen) >= limit:
            break
        if least is not None and not scores[i] > least:
            continue
        if not _overlaps(boxes[i], boxes[chosen], most):
            chosen.append(i)
    return chosen


def _reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    given = dict(enumerate(inputs))
    boxes, scores, overlap, least = inputs[0], inputs[1], given.get(2), given.get(3)
    most = np.float32(0 if overlap is None else overlap.reshape(()))
    least = None if least is None else least.reshape(())
    rows = []
    with np.errstate(all="ignore"):
        for n, c in np.ndindex(*scores.shape[:2]):
            placed = corners(boxes[n], attrs["center"])
            rows += [(n, c, i) for i in _stay(placed, scores[n, c], attrs["limit"], most, least)]
    indices = np.zeros(shapes[0], np.int64)
    indices[: len(rows)] = np.array(rows, np.int64).reshape(len(rows), 3)
    return [indices, np.asarray(len(rows), np.int64)]


register(OpSpec("non_max_suppression", "routine", _infer, _reference))
