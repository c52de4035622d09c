"""How: a small typed loop language. Printed to LLVM IR and to OpenCL C; an interpreter is its oracle."""
