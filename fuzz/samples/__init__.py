"""A case as tensors: its inputs, made in guarded and poisoned memory."""
