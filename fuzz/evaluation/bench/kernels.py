"""How fast kernels are on a GPU, beside what the card can do: `indexfuzz bench kernels`.

Bandwidth is stated beside that of a copy of 1 GiB in the same run, matrix work beside a bf16 product of 8192 cubed.
Every result is compared with the reference before it is timed; a wrong one is named, not timed.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import triton
from triton.testing import do_bench

from indexfuzz.core.setup import DEFAULT_IMPLEMENTATION
from indexfuzz.evaluation.bench.gpu_workloads import Workload, workloads
from indexfuzz.implementations import load

Timer = Callable[[Callable[[], object]], float]
"""Takes the time of a launch."""


ROUNDS, CALLS = 5, 100
"""Of a launch whose time on the host is taken."""


@dataclass(frozen=True)
class Row:
    """A launch: `rate` in GB/s or TFLOP/s, `share` of what the card reached in the same run; or what is wrong.

    `call` is what the launcher takes on the host until it returns, in microseconds.
    """

    name: str
    milliseconds: float = 0.0
    call: float = 0.0
    rate: float = 0.0
    unit: str = ""
    share: float = 0.0
    wrong: str = ""


def measure(workload: Workload, on_gpu: Timer, on_host: Timer, limits: dict[str, float]) -> Row:
    """Launch, check, then time. `limits`: GB/s and TFLOP/s of the card by unit of work."""
    workload.launch()
    if wrong := workload.complaint():
        return Row(workload.name, wrong=wrong)
    milliseconds = on_gpu(workload.launch)
    scale, unit = (1e6, "GB/s") if workload.unit == "B" else (1e9, "TFLOP/s")
    rate = workload.amount / milliseconds / scale
    return Row(workload.name, milliseconds, on_host(workload.launch), rate, unit, rate / limits[workload.unit])


def card_limits(timer: Timer) -> dict[str, float]:
    """What this GPU reaches: a copy in GB/s, bytes read and written; a bf16 matrix product in TFLOP/s."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return {
        "B": 2 * source.numel() / timer(lambda: target.copy_(source)) / 1e6,
        "FLOP": 2 * 8192**3 / timer(lambda: a @ a) / 1e9,
    }


def median(launch: Callable[[], object]) -> float:
    """In milliseconds by CUDA events, with the L2 cache flushed before every launch."""
    return float(do_bench(launch, warmup=25, rep=200, return_mode="median"))


def call_time(launch: Callable[[], object]) -> float:
    """In microseconds: the least mean of some rounds, each short enough for the queue of the GPU."""
    rounds = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            launch()
        rounds.append(time.perf_counter() - start)
    return min(rounds) / CALLS * 1e6


def main(*, as_json: bool, impl: str = DEFAULT_IMPLEMENTATION) -> int:
    """Measure the built-in kernels, or others, and print a table; 1 where a result is wrong, 2 without a GPU."""
    if not torch.cuda.is_available():
        sys.stderr.write("bench kernels needs a GPU that PyTorch can use\n")
        return 2
    limits = card_limits(median)
    card = {"card": torch.cuda.get_device_name(), "triton": triton.__version__, "torch": str(torch.__version__)}
    if not as_json:
        print_line(
            f"{card['card']}, Triton {card['triton']}: copy {limits['B']:.0f} GB/s, bf16 {limits['FLOP']:.0f} TFLOP/s"
        )
    rows = []
    for workload in workloads(load(impl)):
        rows.append(measure(workload, median, call_time, limits))
        if not as_json:
            print_line(describe(rows[-1]))
    if as_json:
        print_line(json.dumps({**card, "limits": limits, "rows": [asdict(row) for row in rows]}, indent=1))
    return int(any(row.wrong for row in rows))


def describe(row: Row) -> str:
    """One line of the table."""
    if row.wrong:
        return f"{row.name:<58} wrong: {row.wrong}"
    rate = f"{row.milliseconds:>9.3f} ms{row.rate:>8.0f} {row.unit:<8}{row.share:>6.0%}"
    return f"{row.name:<58}{rate}{row.call:>8.0f} us a call"


def print_line(text: str) -> None:
    """Print, and show it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
