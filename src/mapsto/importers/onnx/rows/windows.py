"""What convolutions and pools share: strides, dilations, pads, automatic padding, pads of open extents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.importers.onnx.rows.movement import crop
from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.expr import Dim, ceildiv
from mapsto.ir.graph import Value
from mapsto.ops.shapes import dim_max


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes; `pads` are those before each axis, then those after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[Dim, ...]

    @property
    def before(self) -> tuple[Dim, ...]:
        return self.pads[: len(self.kernel)]

    @property
    def after(self) -> tuple[Dim, ...]:
        return self.pads[len(self.kernel) :]

    def fixed(self) -> bool:
        return all(isinstance(p, int) and p >= 0 for p in self.pads)


def per_axis(call: NodeCall, name: str, rank: int, default: int) -> tuple[int, ...]:
    values = call.integers(name)
    if not values:
        return (default,) * rank
    if len(values) != rank:
        raise call.wrong(f"attribute {name} has {len(values)} numbers for {rank} spatial axes")
    return tuple(values)


def window_of(call: NodeCall, space: Sequence[Dim], kernel: Sequence[Dim]) -> Window:
    """The node's window over spatial extents. Raises where an attribute is out of range."""
    rank = len(space)
    if not all(isinstance(k, int) for k in kernel):
        raise call.unsupported(
            f"a window of open extents {list(kernel)} is not supported; fix them by `shapes`", kernel
        )
    sizes = tuple(k for k in kernel if isinstance(k, int))
    strides, dilations = per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1)
    if any(v < 1 for v in (*strides, *dilations)) or any(k < 0 for k in sizes):
        raise call.wrong(f"strides {strides}, dilations {dilations} and window {sizes} must be positive")
    mode = call.one_of("auto_pad", "NOTSET", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    if mode == "NOTSET":
        pads = call.integers("pads")
        if pads and len(pads) != 2 * rank:
            raise call.wrong(f"attribute pads has {len(pads)} numbers for {rank} spatial axes")
        return Window(sizes, strides, dilations, tuple(pads or (0,) * (2 * rank)))
    if mode == "VALID":
        return Window(sizes, strides, dilations, (0,) * (2 * rank))
    totals = [
        dim_max((ceildiv(d, s) - 1) * s + (k - 1) * e + 1 - d, 0)
        for d, s, k, e in zip(space, strides, sizes, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(sizes, strides, dilations, (*before, *after))


def with_fixed_pads(call: NodeCall, x: Value, window: Window, value: float) -> tuple[Value, Window]:
    """Pads that depend on open extents become a `pad` node of their own; the window is then without."""
    if window.fixed():
        return x, window
    rank = len(window.kernel)
    before, after = (0, 0, *window.before), (0, 0, *window.after)
    x, front, back = crop(call.builder, x, before, after)
    padded = call.builder.one("pad", [x], before=tuple(front), after=tuple(back), mode="constant", value=value)
    return padded, Window(window.kernel, window.strides, window.dilations, (0,) * (2 * rank))
