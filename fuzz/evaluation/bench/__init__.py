"""Benchmarks of the fuzzer itself, by name; `indexfuzz bench NAME` runs one."""

BENCHES = {
    "detection": ("indexfuzz.evaluation.bench.detection", "how fast planted bugs are found, beside the tests of today"),
    "isolation": (
        "indexfuzz.evaluation.bench.isolation",
        "what isolation costs, and whether it holds against 200 deaths",
    ),
    "kernels": ("indexfuzz.evaluation.bench.kernels", "how fast kernels are on a GPU, beside what the card can do"),
    "lockstep": (
        "indexfuzz.evaluation.bench.lockstep",
        "lockstep and Triton's interpreter side by side; on vLLM's kernels too where INDEXFUZZ_VLLM_WHEEL_0_33 is set",
    ),
    "oracle": ("indexfuzz.evaluation.bench.oracle", "which seeded mistakes each way of comparing logits sees"),
}
"""Name -> (module, what it measures). A module has `main(*, as_json: bool) -> int`: prints, returns the exit code."""
