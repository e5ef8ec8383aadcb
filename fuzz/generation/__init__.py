"""Which cases to draw, and how to bring one inside a contract."""
