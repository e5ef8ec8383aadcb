"""What a launch may not do: one checker a file."""
