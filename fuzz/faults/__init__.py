"""Planted bugs, as data."""
