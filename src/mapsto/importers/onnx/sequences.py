"""Sequences of tensors, as far as a model's structure says them: no value of a graph is one, so an import takes them
apart. (Optional values are what they hold, or absent.)
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value


@dataclass(frozen=True)
class SequenceType:
    """The type of a sequence, named as the types of tensors are."""

    element: DType

    @property
    def value(self) -> str:
        return f"seq({self.element.value})"


@dataclass(frozen=True)
class TensorSequence:
    """Tensors of one element type: each by itself (`elements`), or, where they are of one shape, as the rows of a
    tensor along its axis 0, whose number only a run may know.

    is_growing: what a loop's body is given of a sequence, of which it cannot know the elements; it may add to it
    (`elements` then are what it added) and nothing else.
    """

    dtype: DType
    elements: tuple[Value, ...] = ()
    rows: Value | None = None
    is_growing: bool = False

    @property
    def parts(self) -> tuple[Value, ...]:
        """The values that it is made of."""
        return self.elements if self.rows is None else (self.rows,)

    def __str__(self) -> str:
        count = len(self.elements) if self.rows is None else self.rows.shape[0]
        return f"a sequence of {count} tensors of {self.dtype.value}"


TensorOrSequence = Value | TensorSequence


def type_of(operand: TensorOrSequence) -> DType | SequenceType:
    return SequenceType(operand.dtype) if isinstance(operand, TensorSequence) else operand.dtype
