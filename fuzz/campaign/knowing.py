"""What every process of a pool would find out alike: who imports this does; those forked from it know it."""

from indexfuzz.generation.solving import know_moves

know_moves()
