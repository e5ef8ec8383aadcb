"""What Triton's semantic layer asks its builder for, computed at once in all programs."""
