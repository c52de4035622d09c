"""Fits the minimax polynomials of `mapsto.loop.math` and prints their coefficients: run it to see where they come from.

    python scripts/fit_polynomials.py

Remez' exchange in 50 digits (needs mpmath): sum of c_k x^k closest to f(x) on [low, high] in the weighted maximum norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpmath import cos, erf, erfc, exp, expm1, log, lu_solve, matrix, mp, mpf, nstr, pi, sqrt

Function = Callable[[mpf], mpf]
_GRID = 400
_ROUNDS = 12


@dataclass(frozen=True)
class Fit:
    """What to approximate, and where the result is used."""

    name: str
    f: Function
    weight: Function
    degree: int
    low: mpf
    high: mpf


def remez(fit: Fit) -> tuple[list[mpf], mpf]:
    """(coefficients, largest weighted error). Chebyshev's points first, then those where the error peaks."""
    count = fit.degree + 2
    middle, half = (fit.low + fit.high) / 2, (fit.high - fit.low) / 2
    points = [middle - half * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    grid = [fit.low + (fit.high - fit.low) * (1 - cos(pi * mpf(i) / _GRID)) / 2 for i in range(_GRID + 1)]
    coefficients: list[mpf] = []
    errors: list[mpf] = []
    for _ in range(_ROUNDS):
        coefficients = _alternating(fit, points)
        errors = [_error(fit, coefficients, x) for x in grid]
        peaks = _peaks(errors)
        while len(peaks) > count:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < count:
            break
        points = [grid[k] for k in peaks]
        sizes = [abs(errors[k]) for k in peaks]
        if max(sizes) < 1.01 * min(sizes):
            break
    return coefficients, max(abs(e) for e in errors)


def _alternating(fit: Fit, points: list[mpf]) -> list[mpf]:
    """The polynomial whose weighted error at the points alternates in sign and is equal in size."""
    n = len(points)
    system, values = matrix(n, n), matrix(n, 1)
    for i, x in enumerate(points):
        for k in range(n - 1):
            system[i, k] = x**k
        system[i, n - 1] = (-1) ** i / fit.weight(x)
        values[i] = fit.f(x)
    solution = lu_solve(system, values)
    return [solution[k] for k in range(n - 1)]


def _error(fit: Fit, coefficients: list[mpf], x: mpf) -> mpf:
    return (sum(c * x**k for k, c in enumerate(coefficients)) - fit.f(x)) * fit.weight(x)


def _peaks(errors: list[mpf]) -> list[int]:
    """Where the error is largest in each run of one sign."""
    peaks, start = [], 0
    for i in range(1, len(errors) + 1):
        if i == len(errors) or (errors[i] > 0) != (errors[start] > 0):
            peaks.append(max(range(start, i), key=lambda k: abs(errors[k])))
            start = i
    return peaks


def fits() -> list[Fit]:
    """Weights make the error relative to the function that the polynomial is a part of."""
    ln2 = log(mpf(2)) / 2 * mpf("1.0001")
    above = ln2 * mpf("1.0013")  # off the middle, so that no point is 0, where the weight vanishes
    s = (sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)

    def exp_tail(x: mpf) -> mpf:
        return (expm1(x) - x) / x**2 if abs(x) > 1e-12 else mpf(1) / 2 + x / 6

    def erf_near(z: mpf) -> mpf:
        return erf(sqrt(z)) / sqrt(z) - 1 if z > 1e-20 else 2 / sqrt(pi) - 1

    def erfc_scaled(t: mpf) -> mpf:
        x = 2 * (1 + t) / (1 - t)
        return exp(x**2) * erfc(x)

    def log_tail(z: mpf) -> mpf:
        r = sqrt(z)
        return (log((1 + r) / (1 - r)) / r - 2 - 2 * z / 3) / z**2

    unit = (mpf(-1) / 3, mpf(1) / 2)  # x in [1, 6]
    return [
        Fit("exp, f64: (exp(r) - 1 - r)/r^2", exp_tail, lambda x: x * x / exp(x), 10, -ln2, above),
        Fit("expm1, f32: (exp(r) - 1 - r)/r^2", exp_tail, lambda x: x * x / expm1(x), 5, -ln2, above),
        Fit("erf, f64: erf(x)/x - 1 in z = x^2", erf_near, lambda z: 1 / (1 + erf_near(z)), 11, mpf(0), mpf(1)),
        Fit("erf, f64: exp(x^2) erfc(x) in t = (x-2)/(x+2)", erfc_scaled, lambda t: 1 / erfc_scaled(t), 16, *unit),
        Fit("pow, f64: tail of log((1+s)/(1-s)) in z = s^2", log_tail, lambda z: z * z, 7, mpf("1e-9"), s * s * 1.001),
    ]


def main() -> None:
    mp.dps = 50
    for fit in fits():
        coefficients, error = remez(fit)
        print(f"{fit.name}: weighted error 2^{nstr(log(error, 2), 4)}")
        for c in coefficients:
            print(f"    {float(c)!r},")


if __name__ == "__main__":
    main()
