"""Triton kernels of the sparse-attention indexer: the code under test, and an example to others."""
