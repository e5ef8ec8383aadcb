"""What is noted while a launch goes on: running programs and lines, accesses, masks, violations, whose error it was."""
