"""Every error that mapsto raises for its user, as one family.

A message says what was wrong, where (node, op, line, file) and what to do.
`assert` is for our own invariants; these classes are for what a user can act on.
"""

from __future__ import annotations


class MapstoError(Exception):
    """Base of every error meant for the user."""


class ModelError(MapstoError):
    """A model file is malformed, inconsistent, or (BudgetError) outside its budget."""


class BudgetError(ModelError):
    """A compile asks for more than its budget allows; names the meter, what is needed, what is allowed, how to raise
    it.
    """


class UnsupportedError(MapstoError):
    """A model uses something that mapsto cannot do; lists every such place."""


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
