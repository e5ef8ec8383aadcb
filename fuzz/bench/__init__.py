"""Benchmarks of the fuzzer itself, by name; `indexfuzz bench NAME` runs one."""

BENCHES = {
    "lockstep": ("indexfuzz.bench.lockstep", "how fast the lockstep device runs each built-in kernel"),
}
"""Name -> (module, what it measures). A module has `main(*, as_json: bool) -> int`: prints, returns the exit code."""
