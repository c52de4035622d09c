"""Planes of values at points, one behind the other in scratch memory: a vector at all points goes to the same place of
each.
"""

from __future__ import annotations

LINE = 64  # bytes of the caches


def plane(elements: int, size: int) -> int:
    """Elements from a plane of so many to the next: an odd number of lines, so that as many planes in a row as a
    first-level cache has sets lie in different ones. size: bytes of an element.
    """
    lines = -(-elements * size // LINE)
    return (lines + 1 - lines % 2) * LINE // size
