"""The graph under construction: drawing sizes, picking operands, adding nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

MOST_ELEMENTS = 6000
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)

F32, F64, I32, I64, BOOL = (np.dtype(t) for t in (np.float32, np.float64, np.int32, np.int64, np.bool_))


@dataclass(frozen=True)
class Val:
    """A value of the graph under construction."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    exact: bool

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass
class Maker:
    """The graph under construction."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    values: list[Val] = field(default_factory=list)
    inputs: list[Val] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    # ---- drawing

    def choose(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) >= 100 - percent  # shrinks towards no

    def shape(self, low: int = 0, high: int = 4) -> tuple[int, ...]:
        rank = self.integer(low, high)
        dims: list[int] = []
        for _ in range(rank):
            extent = 0 if self.chance(2) else self.choose(EXTENTS)
            fits = np.prod([d or 1 for d in dims], dtype=np.int64) * extent <= MOST_ELEMENTS
            dims.append(extent if fits else 1)
        return tuple(dims)

    # ---- values

    def name(self, prefix: str) -> str:
        return f"{prefix}{len(self.values) + len(self.constants) + len(self.nodes)}"

    def add_input(self, dtype: np.dtype, shape: tuple[int, ...]) -> Val:
        value = Val(self.name("in"), dtype, shape, True)
        self.values.append(value)
        self.inputs.append(value)
        return value

    def constant(self, array: np.ndarray) -> str:
        name = self.name("c")
        self.constants[name] = array
        return name

    def add_constant(self, dtype: np.dtype, shape: tuple[int, ...]) -> Val:
        array = data(dtype, shape, self.integer(0, 1000))
        return Val(self.constant(array), dtype, shape, True)

    def fresh(self, dtype: np.dtype, shape: tuple[int, ...]) -> Val:
        return self.add_constant(dtype, shape) if self.chance(40) else self.add_input(dtype, shape)

    def pick(
        self,
        dtypes: Sequence[np.dtype] = (F32,),
        where: Callable[[Val], bool] = lambda value: True,
        make: Callable[[], tuple[int, ...]] | None = None,
    ) -> Val:
        """A value that will do, most often the newest, or a new input of a shape that does."""
        found = [value for value in self.values if value.dtype in dtypes and where(value)]
        if found and not self.chance(15):
            return found[-1 - min(len(found) - 1, self.integer(0, 3))]
        return self.add_input(self.choose(dtypes), make() if make else self.shape())

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        dtype: np.dtype,
        shape: Sequence[int],
        exact: bool,
        outputs: int = 1,
        **attributes: Any,
    ) -> list[Val]:
        return self.node_of(op, inputs, [(dtype, shape)] * outputs, exact, **attributes)

    def node_of(
        self,
        op: str,
        inputs: Sequence[str],
        results: Sequence[tuple[np.dtype, Sequence[int]]],
        exact: bool,
        **attributes: Any,
    ) -> list[Val]:
        base = self.name("v")
        made = [Val(f"{base}_{i}", d, tuple(int(x) for x in s), exact) for i, (d, s) in enumerate(results)]
        self.nodes.append(
            helper.make_node(op, list(inputs), [v.name for v in made], name=f"n{len(self.nodes)}", **attributes)
        )
        self.values.extend(made)
        return made

    # ---- shapes that fit

    def broadcastable(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts with this one, without growing it past the budget."""
        kept = list(shape[self.integer(0, len(shape)) :])
        kept = [1 if self.chance(25) else extent for extent in kept]
        if len(kept) == len(shape) and len(shape) < 4 and self.chance(10) and np.prod(shape) * 3 <= MOST_ELEMENTS:
            kept = [self.choose((1, 2, 3)), *kept]
        return tuple(kept)

    def partner(self, value: Val, dtypes: Sequence[np.dtype] | None = None) -> Val:
        """Another operand for an elementwise op: one that is there and broadcasts, or a new one."""
        dtypes = dtypes or (value.dtype,)
        fits = [v for v in self.values if v.dtype in dtypes and broadcast(value.shape, v.shape) is not None]
        if fits and self.chance(60):
            return self.choose(fits[-4:])
        return self.fresh(self.choose(dtypes), self.broadcastable(value.shape))


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        found = np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    return found if np.prod(found, dtype=np.int64) <= MOST_ELEMENTS else None


def data(dtype: np.dtype, shape: tuple[int, ...], seed: int, spice: str = "") -> np.ndarray:
    """Numbers of moderate size; integers from -4 to 4; `spice` puts some NaN or infinities among the floats."""
    random = np.random.default_rng(seed)
    if dtype == BOOL:
        return np.asarray(random.integers(0, 2, shape).astype(bool))
    if dtype.kind == "i":
        return np.asarray(random.integers(-4, 5, shape), dtype)
    array = np.asarray(random.standard_normal(shape) * random.choice([0.5, 1, 3]), dtype)
    if spice:
        special = {"nan": [np.nan], "inf": [np.inf, -np.inf]}[spice]
        mask = random.random(shape) < 0.05
        array = np.asarray(np.where(mask, random.choice(special, shape), array), dtype)
    return array
