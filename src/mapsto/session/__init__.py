"""Compile, run, load: what stands on top of all the rooms."""
