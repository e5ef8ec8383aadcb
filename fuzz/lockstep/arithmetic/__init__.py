"""Exact GPU arithmetic in numpy: rounding, FP8, fused multiply-add, logarithms, matrix units."""
