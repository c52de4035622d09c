"""What was found, written for other programs."""
