"""How many operations an op's numpy reference takes, said from shapes before it is run: what folding is charged.

A count of elements made, moved, multiplied or compared, good to a small factor. An op that is not in the table does a
few things to each element that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Arrays = Sequence[Any]
Attrs = Mapping[str, Any]
FixedShapes = Sequence[tuple[int, ...]]

# A call of numpy, in operations.
_CALL = 1000


@dataclass(frozen=True)
class Hollow:
    """An operand that is known by its shape alone."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)


def operations(op: str, inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    """About how many operations the reference of `op` takes for these operands (arrays or `Hollow`; None: absent)."""
    touched = sum(math.prod(shape) for shape in shapes) + sum(int(a.size) for a in inputs if a is not None)
    own = _WORK.get(op)
    return touched if own is None else touched + own(inputs, attrs, shapes)


def _matmul(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    return math.prod(shapes[0]) * int(inputs[0].shape[-1])


def _padded(x: Any, attrs: Attrs) -> int:
    rank = x.ndim - 2
    pads = attrs["pads"]
    space = (d + pads[k] + pads[rank + k] for k, d in enumerate(x.shape[2:]))
    return int(math.prod(x.shape[:2]) * math.prod(space))


def _conv(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    w = inputs[1]
    calls = _CALL * int(attrs["group"]) * max(shapes[0][0], 1)
    return int(math.prod(shapes[0]) * math.prod(w.shape[1:])) + _padded(inputs[0], attrs) + calls


def _conv_transpose(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    x, w = inputs[0], inputs[1]
    rank, pads = x.ndim - 2, attrs["pads"]
    whole = math.prod(shapes[0][:2]) * math.prod(d + pads[k] + pads[rank + k] for k, d in enumerate(shapes[0][2:]))
    calls = _CALL * math.prod(w.shape[2:]) * int(attrs["group"])
    return int(x.size * math.prod(w.shape[1:]) + whole + calls)


def _pool(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    return int(math.prod(shapes[0]) * math.prod(attrs["kernel"])) + _padded(inputs[0], attrs)


def _spread(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    """Some passes over all places."""
    return 8 * math.prod(shapes[0]) + _CALL * math.prod(attrs["kernel"])


def _suppression(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    """Each box is compared with all that stayed."""
    batch, classes, boxes = inputs[1].shape
    return int(batch * classes * boxes * (_CALL + 20 * min(int(attrs["limit"]), boxes)))


def _recurrent(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    x, r = inputs[:2]
    of_x = int(inputs[6].size) if len(inputs) > 6 else 0
    return int(x.shape[0] * (x.shape[1] * (r.size + of_x) + 20 * _CALL * r.shape[0]))


def _sorted(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    return int(inputs[0].size) * 4 * max(int(inputs[0].size).bit_length(), 1)


def _grid(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    """Places are computed axis by axis for each element."""
    return 8 * max(len(shapes[0]), 1) * sum(math.prod(shape) for shape in shapes)


def _along_axes(inputs: Arrays, attrs: Attrs, shapes: FixedShapes) -> int:
    """Axis after axis is made longer or shorter: what lies between may be larger than both ends."""
    before, after = inputs[0].shape, shapes[0]
    return 8 * math.prod(max(a, b) for a, b in zip(before, after, strict=True))


_WORK: dict[str, Callable[[Arrays, Attrs, FixedShapes], int]] = {
    "matmul": _matmul,
    "block_matmul": _matmul,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _pool,
    "max_pool_indices": _pool,
    "max_pool_gradient": _spread,
    "avg_pool": _pool,
    "non_max_suppression": _suppression,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
    "topk": _sorted,
    "resize": _along_axes,
    "pad": _along_axes,
    "gather_nd": _grid,
    "gather_elements": _grid,
    "scatter_nd": _grid,
    "scatter_elements": _grid,
}
