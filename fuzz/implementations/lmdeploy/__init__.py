"""LMDeploy's kernels."""
