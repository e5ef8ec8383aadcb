"""IndexFuzz: a differential fuzzer for the FP8 kernels of sparse-attention indexers."""

__version__ = "0.1.0"
