"""The command line. Nothing heavy is imported before a command needs it: `mapsto --help` answers at once."""

from __future__ import annotations

from mapsto.cli.entry import main

__all__ = ["main"]
