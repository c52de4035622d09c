"""Models whose artifacts and plans are kept, a folder a version: MODEL.onnx, MODEL.npz (inputs and what was answered),
and for each instruction set MODEL.ISA.mapsto and MODEL.ISA.plan; one machine.json.

A folder is written once, when its version is released, by `python -m tests.compatibility.keep`, and never again: what
is in it was made by that version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.session.support import Feed, normal, parse

ROOT = Path(__file__).parent
INSTRUCTION_SETS = ("sse2", "avx2", "avx512")


@dataclass(frozen=True)
class Kept:
    """A model of a version, and the files about it."""

    folder: Path
    name: str

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    @property
    def answers(self) -> Path:
        return self.folder / f"{self.name}.npz"

    def artifact(self, isa: str) -> Path:
        return self.folder / f"{self.name}.{isa}.mapsto"

    def plan(self, isa: str) -> Path:
        return self.folder / f"{self.name}.{isa}.plan"


def kept() -> Iterator[Kept]:
    """All that any version has kept."""
    for answers in sorted(ROOT.glob("*/*.npz")):
        yield Kept(answers.parent, answers.stem)


def constant(name: str, array: np.ndarray) -> Any:
    return onnx.numpy_helper.from_array(array, name)


def model(text: str, opset: int = 18, **constants: np.ndarray) -> Any:
    """A model whose inputs of these names are initializers."""
    made = parse(text, opset)
    for entry in [e for e in made.graph.input if e.name in constants]:
        made.graph.input.remove(entry)
    made.graph.initializer.extend(constant(name, array) for name, array in constants.items())
    return made


def network() -> tuple[Any, Feed]:
    """Blocked layouts with borders, epilogues, a concatenation written in place, an open batch."""
    text = """network (float[N, 3, 14, 14] x, float[16, 3, 3, 3] v, float[16] a, float[16, 16, 3, 3] w, float[32, 10] m)
        => (float[N, 10] y) {
        p = Conv<pads = [1, 1, 1, 1]>(x, v, a)
        q = Relu(p)
        r = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q)
        s = Conv<pads = [1, 1, 1, 1]>(r, w)
        t = Sigmoid(s)
        u = Concat<axis = 1>(r, t)
        g = GlobalAveragePool(u)
        f = Flatten(g)
        l = MatMul(f, m)
        y = Softmax(l)
    }"""
    weights = {"v": normal(16, 3, 3, 3, seed=1) * 0.3, "a": normal(16, seed=2), "w": normal(16, 16, 3, 3, seed=3) * 0.1}
    return model(text, **weights, m=normal(32, 10, seed=4)), {"x": normal(3, 3, 14, 14)}


def sequence() -> tuple[Any, Feed]:
    """Recurrence over an open length, attention-like products of two run-time operands, a norm."""
    text = """sequence (float[T, 2, 12] x, float[1, 64, 12] w, float[1, 64, 16] r, float[16] s) => (float[2, T, 16] y) {
        h, last = LSTM<hidden_size = 16>(x, w, r)
        axis = Constant<value_ints = [1]>()
        o = Squeeze(h, axis)
        k = Transpose<perm = [1, 0, 2]>(o)
        n = LayerNormalization<axis = -1>(k, s)
        c = Transpose<perm = [0, 2, 1]>(n)
        a = MatMul(n, c)
        b = Softmax(a)
        y = MatMul(b, n)
    }"""
    weights = {"w": normal(1, 64, 12, seed=1) * 0.3, "r": normal(1, 64, 16, seed=2) * 0.3, "s": normal(16, seed=3)}
    return model(text, **weights), {"x": normal(7, 2, 12)}


def steered() -> tuple[Any, Feed]:
    """What data decide: a branch, sizes, indices that are checked, top-k."""
    text = """steered (float[N, 8] x, bool c, int64[3] i)
        => (float[3, 8] g, int64[2, M] z, float[N, 8] y, int64[N, 2] t) {
        y = If (c) <
            then_branch = a () => (float[N, 8] p) { p = Softmax(x) },
            else_branch = b () => (float[N, 8] q) { e = Exp(x) q = Neg(e) }
        >
        z = NonZero(x)
        k = Constant<value_ints = [2]>()
        v, t = TopK(x, k)
        g = Gather(y, i)
    }"""
    x = np.maximum(normal(5, 8), 0)
    return model(text), {"x": x, "c": np.array(False), "i": np.array([4, 0, -1])}


def integers() -> tuple[Any, Feed]:
    """Products of bytes with zero points, and half precision."""
    text = """integers (uint8[M, 40] a, float16[M, 40] h, int8[40, 24] b, uint8 za, int8 zb, float16[40, 24] f)
        => (int32[M, 24] p, float16[M, 24] q) {
        p = MatMulInteger(a, b, za, zb)
        d = MatMul(h, f)
        q = Relu(d)
    }"""
    draw = np.random.default_rng(7)
    weights = {"b": draw.integers(-128, 128, (40, 24)).astype(np.int8), "f": normal(40, 24, seed=1, dtype=np.float16)}
    points = {"za": np.array(131, np.uint8), "zb": np.array(-3, np.int8)}
    feed = {"a": draw.integers(0, 256, (9, 40)).astype(np.uint8), "h": normal(9, 40, seed=2, dtype=np.float16)}
    return model(text, **weights, **points), feed


MODELS = {"network": network, "sequence": sequence, "steered": steered, "integers": integers}
