"""Whole executables on disk, found by what they were made from ([docs/cache.md])."""
