"""Checks: pure functions that compare what a kernel produced with what it may produce."""
