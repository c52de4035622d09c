"""What earlier versions of mapsto wrote, and that this one still reads it."""
