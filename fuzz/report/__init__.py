"""What a run leaves for people: one page that opens from disk, and what a CI shows beside the code."""
