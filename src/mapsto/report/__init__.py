"""What is said about an executable: accuracy against references, speed beside other engines, times as predicted."""
