"""Loading kernels of other projects from wheels and checkouts."""
