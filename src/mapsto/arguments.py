"""Arguments of public functions, looked at before any work is done: of the right kind and in range, or an error that
names them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mapsto.errors import ArgumentError, MapstoError, ShapeError

LARGEST_EXTENT = 1 << 40  # of an axis
_BRIEF = 60  # characters

Progress = Callable[[int, int, str], None]
Shapes = Mapping[str, Sequence[int | str | None]]


def brief(value: Any) -> str:
    """A value as a message may show it: short, whatever its `repr` does."""
    try:
        text = repr(value)
    except Exception:  # anybody's class may be here
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= _BRIEF else f"{text[:_BRIEF]}..."


def integer(value: Any) -> int | None:
    """The value where it is an integer (numpy's included), None where it is none; a bool is none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except Exception:  # anybody's class may be here
        return None


def real(value: Any) -> float | None:
    """The value where it is a real number (numpy's included), None where it is none; a bool or a text is none."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return float(value)
    except Exception:  # anybody's class may be here
        return None


def shapes_of(shapes: Any) -> Shapes:
    """Shapes by the name of an input: a dim is an extent, the name of a symbol, or None. None: no shapes.

    Raises ArgumentError for what is no mapping of names, ShapeError for what is no shape.
    """
    if shapes is None:
        return {}
    if not isinstance(shapes, Mapping):
        raise ArgumentError(f"shapes: expected a dict of shapes by the inputs' names, got {brief(shapes)}")
    found: dict[str, tuple[int | str | None, ...]] = {}
    for name, shape in shapes.items():
        if not isinstance(name, str):
            raise ArgumentError(f"shapes: {brief(name)} is no name of an input; names are strings")
        found[name] = tuple(_dim(name, axis, dim) for axis, dim in enumerate(_dims(name, shape)))
    return found


def _dims(name: str, shape: Any) -> Sequence[Any]:
    if isinstance(shape, (list, tuple)):
        return shape
    try:
        if isinstance(shape, (str, bytes, Mapping)):
            raise TypeError
        return list(shape)
    except Exception:  # anybody's class may be here
        raise ShapeError(
            f"input {name!r}: {brief(shape)} is no shape; give a list or tuple with an entry for each axis"
        ) from None


def _dim(name: str, axis: int, dim: Any) -> int | str | None:
    if dim is None or (isinstance(dim, str) and dim):
        return dim
    extent = integer(dim)
    if extent is None:
        raise ShapeError(
            f"input {name!r}: axis {axis}: {brief(dim)} is no integer, no symbol's name and not None, which "
            "leaves the axis open"
        )
    if extent < 0:
        raise ShapeError(f"input {name!r}: axis {axis}: extent {brief(extent)} is negative; None leaves it open")
    if extent > LARGEST_EXTENT:
        raise ShapeError(
            f"input {name!r}: axis {axis}: extent {brief(extent)} is more than {LARGEST_EXTENT}; sizes fit 64 bits"
        )
    return extent


def text_of(value: Any, what: str) -> str:
    """The value where it is a string. Raises ArgumentError."""
    if not isinstance(value, str):
        raise ArgumentError(f"{what}: expected a string, got {brief(value)}")
    return value


def flag_of(value: Any, what: str) -> bool:
    """Raises ArgumentError for what is neither True nor False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{what}: expected True or False, got {brief(value)}")
    return bool(value)


def names_of(values: Any, what: str) -> tuple[str, ...]:
    """Names, each once, in order; `what` they are for in the message of the ArgumentError."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(f"{what}: expected a list of names, got {brief(values)}")
    names = tuple(dict.fromkeys(values))
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ArgumentError(f"{what}: {brief(wrong)} is no name")
    return names


def pairs_of(values: Any, what: str) -> tuple[tuple[str, str], ...]:
    """Pairs of names, by the first of each; `what` they are for in the message of the ArgumentError. None: no pairs."""
    if values is None:
        return ()
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{what}: expected a dict of names, got {brief(values)}")
    for name in (*values.keys(), *values.values()):
        if not isinstance(name, str):
            raise ArgumentError(f"{what}: {brief(name)} is no name")
    return tuple(values.items())


def telling(progress: Any) -> Progress | None:
    """The caller's `progress`; what it raises becomes an ArgumentError with that as its cause.

    Raises ArgumentError where it cannot be called.
    """
    if progress is None:
        return None
    if not callable(progress):
        raise ArgumentError(f"progress: expected a function of (done, total, label), got {brief(progress)}")

    def tell(done: int, total: int, label: str) -> None:
        try:
            progress(done, total, label)
        except MapstoError:
            raise
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
            raise ArgumentError(f"progress({done}, {total}, {label!r}) raised {raised}") from error

    return tell
