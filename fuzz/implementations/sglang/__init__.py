"""SGLang's kernels."""
