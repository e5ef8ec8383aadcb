"""A finding told by the source: the line that did it, the values of its names, and the lines that they came from."""
