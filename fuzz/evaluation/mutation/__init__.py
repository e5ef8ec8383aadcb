"""Mutants of the built-in kernels: small mistakes, made everywhere, to see how many the fuzzer finds.

A fault is a bug that shipped; a mutant is one that nobody thought of. Operators read the syntax tree, a mutant is an
edit of the source text, and the planting machinery imports it like a fault.
"""

from indexfuzz.evaluation.mutation.mutants import Mutant, enumerate_mutants

__all__ = ["Mutant", "enumerate_mutants"]
