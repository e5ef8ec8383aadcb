"""What every process of a pool would find out alike: who imports this does; those forked from it know it."""

from indexfuzz.generation.levers import know_movers

know_movers()
