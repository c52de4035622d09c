"""Exit codes of the `mapsto` command."""

from __future__ import annotations

CHECK_FAILED = 1
USER_ERROR = 2
OUR_ERROR = 3
INTERRUPTED = 130
