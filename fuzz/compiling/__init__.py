"""What the kernels of an implementation are compiled to for GPUs that need not be there, and whether that may be so."""
