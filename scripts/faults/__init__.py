"""Faults that are put into copies of the tree, one at a time, to see whether a test notices."""
