"""The indexer in plain PyTorch: the judge of every kernel."""
