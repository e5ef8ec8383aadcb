"""Loads the Hypothesis profiles of the fuzz targets; everything else is in the plugin, indexfuzz.plugin."""

from indexfuzz import profiles

pytest_plugins = ["pytester"]

profiles.register()
