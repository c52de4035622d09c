"""Runs a program: steps, buffers, threads, artifacts. Needs no importer, and no LLVM beyond loading object code."""
