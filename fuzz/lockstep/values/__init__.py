"""What kernels compute with: types, blocks of values in all programs at once, and the memory behind pointers."""
