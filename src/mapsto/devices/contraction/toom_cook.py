"""Short convolutions with few products, and their matrices.

m results of a window of r taps, from m + r - 1 products instead of m * r:

    y = A^T ((G g) * (B^T d))        d: m + r - 1 inputs, g: r taps; * is element by element

Both polynomials are evaluated at m + r - 2 points and at infinity, multiplied there, and the product is interpolated
(Toom and Cook; S. Winograd, "Arithmetic Complexity of Computations", 1980); by transposition that gives a convolution.
In two dimensions the matrices work on rows, then on columns (A. Lavin, S. Gray, "Fast Algorithms for Convolutional
Neural Networks", 2015).

The points decide how far roundings grow: 0, 1, -1, 1/2, -2 is the best set of five that is known for floats
(B. Barabasz, A. Anderson, K. Soodhalter, D. Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution",
2020).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mapsto.loop import ast as loop

Matrix = tuple[tuple[Fraction, ...], ...]

_POINTS = tuple(Fraction(*p) for p in ((0, 1), (1, 1), (-1, 1), (1, 2), (-2, 1)))


@dataclass(frozen=True)
class ShortConvolution:
    """The matrices for m results of r taps: `inputs` is B^T, `taps` is G, `results` is A^T."""

    inputs: Matrix
    taps: Matrix
    results: Matrix

    @property
    def products(self) -> int:
        """In one dimension."""
        return len(self.inputs)


@functools.cache
def short_convolution(m: int, r: int) -> ShortConvolution:
    """Of m results and r taps; m + r - 2 of the points are used."""
    count = m + r - 1
    points = _POINTS[: count - 1]
    assert len(points) == count - 1, "there are not as many points"
    inputs, taps = [], []
    for point in points:
        others = [p for p in points if p != point]
        scale = functools.reduce(lambda total, p: total * (point - p), others, Fraction(1))
        inputs.append(_with_roots(others, count))
        taps.append(tuple(point**k / scale for k in range(r)))
    inputs.append(_with_roots(points, count))
    taps.append(tuple(Fraction(k == r - 1) for k in range(r)))
    results = [(*(p**k for p in points), Fraction(k == m - 1)) for k in range(m)]
    return ShortConvolution(tuple(inputs), tuple(taps), tuple(results))


def _with_roots(roots: Sequence[Fraction], count: int) -> tuple[Fraction, ...]:
    """The coefficients of the product of all (x - root), from the lowest on."""
    found = [Fraction(1)]
    for root in roots:
        found = [a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found + [Fraction(0)] * (count - len(found)))


def as_floats(matrix: Matrix) -> np.ndarray:
    """In f64."""
    return np.array([[float(x) for x in row] for row in matrix])


Naming = Callable[[str, loop.Value], loop.Value]
"""(hint, value) -> the value under a name."""


def combined(matrix: Matrix, vectors: Sequence[loop.Value], name: Naming, fused: bool) -> list[loop.Value]:
    """matrix * vectors, where pairs of terms that several rows have in common are added once."""
    rows = [{k: c for k, c in enumerate(row) if c} for row in matrix]
    values = list(vectors)
    while (common := _common_pair(rows)) is not None:
        (k, j, ratio), made = common, len(values)
        values.append(name("pair", _plus(values[k], ratio, values[j], fused)))
        for row in rows:
            if k in row and j in row and row[j] == ratio * row[k]:
                row[made] = row.pop(k)
                del row[j]
    return [_sum(row, values, name, fused) for row in rows]


def twice(
    matrix: Matrix, column: Callable[[int], list[loop.Value]], out: list[loop.Statement], name: Naming, fused: bool
) -> Iterator[list[loop.Value]]:
    """The rows of matrix * D * matrix^T, one after the other. column: loads one of D's, by its number. name: adds
    what it names to `out`. Fences keep a column's loads there: registers hold few of them.
    """
    half = []
    for j in range(len(matrix[0])):
        half.append(combined(matrix, column(j), name, fused))
        out.append(loop.Fence())
    for row in zip(*half, strict=True):
        yield combined(matrix, list(row), name, fused)


def operations(matrix: Matrix) -> int:
    """How many `combined` does to a column of vectors, at most."""
    return sum(sum(c != 0 for c in row) - 1 for row in matrix)


def _common_pair(rows: Sequence[dict[int, Fraction]]) -> tuple[int, int, Fraction] | None:
    """(k, j, ratio) such that most rows, two at least, have c * (k + ratio * j); of several the first."""
    found = Counter(
        (k, j, row[j] / row[k]) for row in rows for k, j in itertools.permutations(sorted(row), 2) if abs(row[k]) == 1
    )
    best = max(found.items(), key=lambda item: item[1], default=None)
    return None if best is None or best[1] < 2 else best[0]


def _sum(row: dict[int, Fraction], values: Sequence[loop.Value], name: Naming, fused: bool) -> loop.Value:
    """Terms of 1 first: a factor is multiplied where it is added."""
    first, *rest = sorted(row.items(), key=lambda term: (term[1] != 1, -term[0]))
    total = values[first[0]]
    if first[1] != 1:
        total = loop.Binary("mul", total, loop.Const(float(first[1]), total.type))
    for k, factor in rest:
        total = name("sum", _plus(total, factor, values[k], fused))
    return total


def _plus(a: loop.Value, factor: Fraction, b: loop.Value, fused: bool) -> loop.Value:
    if factor in (1, -1):
        return loop.Binary("add" if factor == 1 else "sub", a, b)
    times = loop.Const(float(factor), b.type)
    return loop.Fma(times, b, a) if fused else loop.Binary("add", a, loop.Binary("mul", times, b))
