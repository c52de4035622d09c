"""Generic lowering: any kernel to the loop language, on any device that has pointers and vectors."""
