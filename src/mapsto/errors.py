"""Every error that mapsto raises for its user, as one family.

A message says what was wrong, where (node, op, line, file) and what to do.
`assert` is for our own invariants; these classes are for what a user can act on.
"""

from __future__ import annotations


class MapstoError(Exception):
    """Base of every error meant for the user. `placed`: the message names the node of the model that it is about.

    sizes: open sizes by their symbols that it hangs on: with these fixed it may not arise. axes: (input, axis) of each
    of them that an input of the model has. Both are empty where fixing sizes does not help.
    """

    placed = False
    sizes: frozenset[str] = frozenset()
    axes: tuple[tuple[str, int], ...] = ()


class ModelError(MapstoError):
    """A model file is malformed, inconsistent, or (BudgetError) outside its budget."""


class BudgetError(ModelError):
    """A compile asks for more than its budget allows; names the meter, what is needed, what is allowed, how to raise
    it.
    """


class UnsupportedError(MapstoError):
    """A model uses something that mapsto cannot do; lists every such place. `faults`: one message a place."""

    faults: tuple[str, ...] = ()


class ShapeError(MapstoError):
    """Shapes or dtypes do not fit, at compile time or in a call."""


class VerifyError(MapstoError):
    """The intermediate representation is inconsistent; points at the fault."""


class ParseError(MapstoError):
    """A text form (graph, plan, expression) cannot be read; names line and column."""


class CompileError(MapstoError):
    """Native code for a kernel could not be made; names the kernel."""


class ExecutionError(MapstoError):
    """A run failed: wrong input, a size that came out negative or absurd, a lost worker."""


class ArgumentError(MapstoError):
    """An argument is of a wrong type or out of range; names it and what it may be."""


class FileError(MapstoError):
    """A file cannot be written, or reached; names it and the reason."""


class ResourceError(MapstoError):
    """The system grants no more memory, threads, processes, open files or room on a disk."""


class InternalError(MapstoError):
    """A fault of mapsto, not of its user. `__cause__` is what went wrong; the message says how to report it."""
