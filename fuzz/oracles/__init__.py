"""What is asked about a case, and which of it is wrong."""
