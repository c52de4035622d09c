"""In which forms loops are written, as far as both what makes them and what counts their work must agree on it.

These are choices of the method and bounds on how much code it makes, the same for every processor: where the order of
additions depends on one, results would else differ between processors of equal vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mapsto.ir.expr import Dim

# Rounds of a reduction that are written out, so that what they share with no outer loop is loaded once; and the most
# scalar operations that this may make: a bound on how much code one kernel is.
FEW_ROUNDS = 32
STRAIGHT_CODE = 128
# Terms of a sum that are added one after another; a sum of more is divided into blocks of some.
FEW_TERMS = 4096
BLOCK_TERMS = 1024
# The same of a contraction's products, where a block costs less beside its terms, and many layers follow one another:
# VGG19's error is 4 times ONNX Runtime's with one block, 1.3 times with these, and the time is the same.
FEW_PRODUCTS = 1024
BLOCK_PRODUCTS = 512
# Vectors of one operand that rows share and that are gathered once for all of them, and the fewest rows that must share
# it: fewer do not pay for the gathering. Each row walks over all of these vectors, so they must be few beside the rest.
MOST_STAGED = 64
FEWEST_ROWS = 4
# Rows of a tile that is transposed in registers, at most: what is loaded stays there beside what is made of it.
MOST_TILE_ROWS = 16


def sum_division(
    extents: Sequence[Dim], inside: int = 1, few: int = FEW_TERMS, block: int = BLOCK_TERMS
) -> tuple[int, int] | None:
    """Where a sum of floats over some loops, the innermost last, is divided: which loop, and how many of its rounds a
    block takes. In blocks its error grows with the terms of one and with the number of blocks, not with the product of
    both (pairwise summation, in two levels: Higham, SIAM J. Sci. Comput. 14, 1993). None: it has few terms.

    inside: terms of one round of the innermost loop. few: terms that are not divided. block: of a block, about.
    """
    if inside == 0 or 0 in extents:
        return None
    rounds = [float(e) if isinstance(e, int) else math.inf for e in extents]
    if math.prod(rounds) * inside <= few:
        return None
    terms = inside
    for place, extent in reversed(list(enumerate(extents))):
        if not isinstance(extent, int) or terms * extent > block:
            return place, max(block // terms, 1)
        terms *= extent
    return None


def lanes_for(extent: Dim, lanes: int) -> int:
    """No more lanes than a power of two that holds the extent."""
    if not isinstance(extent, int) or extent >= lanes:
        return lanes
    return 1 << max(extent - 1, 0).bit_length()


def shuffles(count: int) -> int:
    """Shuffles of two vectors for each of `count` vectors that change rows for columns, or are put together to a stream
    of single elements, or taken apart: one for each factor of 2, and one less than the odd factor that is left.
    """
    found = 0
    while count > 1 and count % 2 == 0:
        count, found = count // 2, found + 1
    return found + count - 1


def accumulators(rounds: int | float) -> int:
    """How many sums of one reduction take turns, so that an addition need not wait for the one before it: one of less
    than three rounds each waits no longer for them than for their being added up. (Which additions come first depends
    on it.)
    """
    return 4 if rounds >= 16 else 2 if rounds >= 6 else 1
