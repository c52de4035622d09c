"""The error of a command that is not called as it can be."""

from mapsto.errors import MapstoError


class UsageError(MapstoError):
    """An option of a command makes no sense; says which, and what would."""
