"""Every op by itself against the standard's own reference: drawn attributes, types, sizes, values and parameters.

    python -m tests.differential --cases 200000
    python -m tests.differential --op Conv --seed 7 --cases 500
    python -m tests.differential --replay Conv:123

A form (`forms`) is one node with its attributes, types and ranks; it makes feeds of several sizes, and where its dims
are open one executable runs them all. A case is one such run. `onnx.reference` computes what is expected, in f64 where
the op has it; where it differs from mapsto or fails, ONNX Runtime is asked as well, and who is alone is wrong.
`corrected` has what both compute otherwise than the standard's text.
"""
