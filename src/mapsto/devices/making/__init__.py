"""What makers of code have in common: one task into calls of functions, printed for whatever device it is."""
