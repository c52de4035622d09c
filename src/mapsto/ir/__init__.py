"""The network as plain data: dtypes, integer expressions, graph, text form, verifier, rewrite rules."""
