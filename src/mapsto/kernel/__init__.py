"""What is computed, element by element: index maps, scalar expressions, statements; printed as mathematics."""
