"""Benchmarks of the fuzzer itself, by name; `indexfuzz bench NAME` runs one."""

from typing import NamedTuple


class Bench(NamedTuple):
    """A benchmark: `main(*, as_json)` of `module` prints, and returns the exit code.

    Where it takes an implementation, that is another keyword, `impl`, as on the command line; where it takes a path, so
    are `path` and `every`, which says to take every nth item of what lies there. Where it compares releases, so is
    `against`, the checkout of another one; where it can use several processes, so is `workers`, numbers of them. Where
    it can look at some planted bugs alone, `faults` are their ids. Where it runs on other devices than lockstep, too,
    so is `device`.
    """

    module: str
    what: str
    takes_impl: bool = False
    takes_path: bool = False
    compares: bool = False
    takes_workers: bool = False
    takes_faults: bool = False
    takes_device: bool = False


BENCHES = {
    "conformance": Bench(
        f"{__name__}.conformance",
        "Triton's own tests, in lockstep and in its interpreter",
        takes_path=True,
        takes_workers=True,
    ),
    "detection": Bench(
        f"{__name__}.detection", "how fast planted bugs are found, beside the tests of today", takes_faults=True
    ),
    "faults": Bench(f"{__name__}.faults", "nothing: writes one table of all planted bugs, from what the pages say"),
    "findings": Bench(
        f"{__name__}.findings", "what a finding hands to people, for every planted bug", takes_faults=True
    ),
    "isolation": Bench(f"{__name__}.isolation", "what isolation costs, and whether it holds against 200 deaths"),
    "kernels": Bench(
        f"{__name__}.kernels", "how fast kernels are on a GPU, beside what the card can do", takes_impl=True
    ),
    "lockstep": Bench(f"{__name__}.lockstep", "lockstep and Triton's interpreter side by side", takes_impl=True),
    "oracle": Bench(f"{__name__}.oracle", "which seeded mistakes each way of comparing logits sees"),
    "shards": Bench(
        f"{__name__}.shards", "how much 64 shards repeat each other, what they reach, and how soon they find"
    ),
    "suite": Bench(
        f"{__name__}.suite",
        "a project's own tests and each kernel that they launch, in lockstep and in Triton's interpreter",
        takes_path=True,
        takes_workers=True,
    ),
    "throughput": Bench(
        f"{__name__}.throughput",
        "cases per second, beside another release and the plain loop",
        compares=True,
        takes_workers=True,
        takes_device=True,
    ),
}
