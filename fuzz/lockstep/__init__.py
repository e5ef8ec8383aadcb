"""A CPU executor for Triton kernels that runs all programs of a launch at once."""
