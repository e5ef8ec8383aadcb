"""Loads the Hypothesis profiles of the fuzz targets; everything else is in the plugin, indexfuzz.testing.plugin."""

from indexfuzz.testing import profiles

pytest_plugins = ["pytester"]

profiles.register()
