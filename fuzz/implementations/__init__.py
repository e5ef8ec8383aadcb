"""Everything that can be put under test."""
