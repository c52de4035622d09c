"""Readers of model files: each gives a graph of the intermediate representation."""
