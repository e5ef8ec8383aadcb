"""Kept cases: what an entry is, and the folder of files that holds them."""
