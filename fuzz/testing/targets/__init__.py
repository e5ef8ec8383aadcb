"""The fuzz targets: `pytest fuzz` runs them."""
