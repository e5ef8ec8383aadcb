"""vLLM's kernels and callers."""
