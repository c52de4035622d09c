"""The contraction template against the peak of one core: `python -m benchmarks.contraction`."""
