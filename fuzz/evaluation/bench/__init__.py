"""Benchmarks of the fuzzer itself, by name; `indexfuzz bench NAME` runs one."""

from typing import NamedTuple


class Bench(NamedTuple):
    """A benchmark: `main(*, as_json)` of `module` prints, and returns the exit code.

    Where it takes an implementation, that is another keyword, `impl`, as on the command line.
    """

    module: str
    what: str
    takes_impl: bool = False


BENCHES = {
    "detection": Bench(f"{__name__}.detection", "how fast planted bugs are found, beside the tests of today"),
    "isolation": Bench(f"{__name__}.isolation", "what isolation costs, and whether it holds against 200 deaths"),
    "kernels": Bench(
        f"{__name__}.kernels", "how fast kernels are on a GPU, beside what the card can do", takes_impl=True
    ),
    "lockstep": Bench(f"{__name__}.lockstep", "lockstep and Triton's interpreter side by side", takes_impl=True),
    "oracle": Bench(f"{__name__}.oracle", "which seeded mistakes each way of comparing logits sees"),
}
