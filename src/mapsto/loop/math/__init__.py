"""Vector mathematics written in the loop language: range reduction, polynomials, exact special values."""
