"""Whole programs in lockstep, tests and scripts of any project: a GPU that is not there, a record of launches."""
