"""How good the fuzzer is: benches, and mutants of the kernels."""
