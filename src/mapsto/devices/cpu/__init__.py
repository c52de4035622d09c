"""The CPU device: instruction sets as data, native code by LLVM in worker processes, the contraction template."""
