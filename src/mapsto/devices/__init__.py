"""Devices: one folder each; how code is made for it and run on it."""
