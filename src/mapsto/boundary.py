"""The public surface: whatever goes wrong inside leaves as one of `mapsto.errors`.

A function that users call is marked `@public`. Errors that are the user's, or the system's, get the class that says so;
any other exception is a fault of ours and becomes an `InternalError`, with the exception as its cause. What is no
`Exception` (KeyboardInterrupt, SystemExit) passes.

The hot path of a run has its own `try` (which costs nothing until something is raised) instead of the wrapper.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mapsto.errors import ArgumentError, FileError, InternalError, MapstoError, ModelError, ResourceError

P = ParamSpec("P")
R = TypeVar("R")

_EXHAUSTED = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Marks a function of the public surface: nothing but `mapsto.errors` leaves it."""
    name = function.__qualname__

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MapstoError:
            raise
        except Exception as error:
            raise translated(error, name) from error

    return guarded


def translated(error: Exception, doing: str) -> MapstoError:
    """The error of ours for an exception that came out of `doing`; to be raised `from` it."""
    if isinstance(error, MapstoError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError(f"{doing}: no memory" + (f": {error}" if str(error) else ""))
    if isinstance(error, RecursionError):
        return ModelError(f"{doing}: nested too deep for the interpreter's stack; make the model or the input flatter")
    if isinstance(error, OSError) and error.errno is not None:
        kind = ResourceError if error.errno in _EXHAUSTED else FileError
        return kind(f"{doing}: {of_system(error)}")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return ResourceError(f"{doing}: the system grants no more threads; end other work, or raise the limit")
    if isinstance(error, TypeError) and _not_called_right(error):
        return ArgumentError(str(error))
    return InternalError(
        f"{type(error).__name__}: {error} (in {doing})\n"
        "This is a fault of mapsto. Please report it, with the model and the traceback that MAPSTO_DEBUG=1 shows."
    )


def of_system(error: OSError) -> str:
    """What the system says went wrong, and with which file."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename is not None else said


def _not_called_right(error: TypeError) -> bool:
    """Whether the call itself failed (a missing or unknown argument): then no frame below the wrapper was entered."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None
