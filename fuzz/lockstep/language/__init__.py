"""The Python of a kernel: its source rewritten, its statements, operators and calls."""
