"""Which device each work runs on: the model of several devices at work at once, what assigns works to them, and how far
from the best an assignment may be. Nothing here knows what a work computes.
"""
