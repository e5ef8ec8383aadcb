"""Everything that touches Triton's internals; the rest of the executor goes through the names in here."""
