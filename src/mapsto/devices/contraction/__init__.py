"""The contraction template: convolutions, matrix products and their kin in the loop language, for any device that says
what a unit of it can do.
"""
