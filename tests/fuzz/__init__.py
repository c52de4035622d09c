"""Damaged models, artifacts, plans and machine files: `python -m tests.fuzz` tries them until the time is up.

A *case* is a target, a seed and a number: the same case is the same file everywhere. A case is made from *seeds* (right
files) by one to eight mutations, and tried in a child process under limits of memory and processor time, with every
buffer of a run between pages that fault. What comes of it is an *outcome*; one that must not be is a *finding*.
"""
