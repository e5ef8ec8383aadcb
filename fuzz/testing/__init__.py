"""Pytest: the plugin, its options, and the fuzz targets."""
