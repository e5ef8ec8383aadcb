"""What is under test, ready to be asked about cases, in this process or in one of its own."""
