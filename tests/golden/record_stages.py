"""Compare the built-in kernels on an H100 or H200 with the same kernels in lockstep, and keep a sample of the outputs.

Run as a script on a machine with the device; `indexfuzz` must be importable (installed, or a folder on PYTHONPATH):

    python tests/golden/record_stages.py FOLDER [--cases N] [--processes N] [--seconds N] [--dry-run]

Cases come from indexfuzz.generation.strategies, with UE8M0 scales and e4m3fn. q_quant, k_quant_cache and gather must
give the same bytes on both, and so must the logits of cases in the exact regime; every other logit must lie within the
bound that the simulated matrix unit allows (tier T1). Writes stages.safetensors into FOLDER. With --dry-run the sm90
model of lockstep stands in for the GPU. The exit status is 1 if anything differs, or fewer than N cases were compared.
"""

import argparse
import collections
import json
import multiprocessing
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from safetensors.numpy import save_file
from stage_runs import COMPARED, MEDIUM, SMALL, Comparison, Gpu, Simulated, compare, digest, drawn_cases, run

from indexfuzz.core.case import Case

CHUNK: Final = 50
SMALL_CHUNKS: Final = 6
"""Chunks of small cases, from which the sample is taken; they run first."""
KEPT_CASES: Final = 40
KEPT_BYTES: Final = 400_000
LARGEST_KEPT: Final = 40_000
KEPT_PER_KIND: Final = 12
SHOWN: Final = 20


@dataclass(frozen=True)
class Work:
    """A chunk of cases to draw and compare."""

    number: int
    simulated: bool

    @property
    def is_small(self) -> bool:
        """Whether its cases may be kept."""
        return self.number < SMALL_CHUNKS


@dataclass(frozen=True)
class Report:
    """What one case showed; `outputs` is empty unless the case may be kept."""

    case: str
    comparisons: tuple[Comparison, ...] = ()
    instructions: tuple[tuple[str, str], ...] = ()
    error: str = ""
    outputs: tuple[tuple[str, NDArray[Any]], ...] = ()
    digest: str = ""

    @property
    def size(self) -> int:
        """Bytes that keeping it takes."""
        return len(self.case) + sum(value.nbytes for _, value in self.outputs)


def one_thread() -> None:
    """Leave the other cores to the other processes."""
    torch.set_num_threads(1)


def compare_chunk(work: Work) -> list[Report]:
    """Draw a chunk's cases, and run and compare each."""
    machine = Simulated() if work.simulated else Gpu()
    cases = drawn_cases(work.number, CHUNK, SMALL if work.is_small else MEDIUM)
    return [compare_case(case, machine, work) for case in cases]


def compare_case(case: Case, machine: Gpu | Simulated, work: Work) -> Report:
    """Run one case on the device and compare its outputs."""
    text = case.canonical_json()
    try:
        outputs, instructions = run(case, machine)
        found = compare(case, outputs, instructions).found
    except Exception:  # noqa: BLE001 - one case must not end the recording
        return Report(text, error=traceback.format_exc())
    kept = tuple((name, tensor.numpy()) for name, tensor in outputs.items()) if work.is_small else ()
    hashed = digest(case) if work.is_small else ""
    return Report(text, tuple(found), tuple(instructions.items()), "", kept, hashed)


def features(report: Report) -> dict[object, int]:
    """What makes a case worth keeping, and how many cases shall have it."""
    case = Case.parse(json.loads(report.case))
    kinds = {(c.stage, c.exact > 0, c.bounded > 0): KEPT_PER_KIND for c in report.comparisons if c.exact or c.bounded}
    traits = {
        "layout": case.cache.page_layout,
        "heads": case.model.num_heads,
        "dim": case.model.head_dim,
        "next_n": case.batch.next_n,
        "lens": case.batch.lens,
        "block_size": case.cache.block_size,
        "pages": case.cache.pages,
        "page_pad": case.cache.page_pad > 0,
        "slots": case.memory.slots,
        "k_pad": case.memory.k_pad > 0,
        **case.values.model_dump(exclude={"seed", "set", "rng"}),
    }
    return kinds | dict.fromkeys(traits.items(), 1)


def sample(reports: list[Report]) -> list[Report]:
    """A few dozen small cases that together show as many features as possible."""
    left = [r for r in reports if r.outputs and not r.error and r.size <= LARGEST_KEPT]
    wanted = {r.case: features(r) for r in left}
    seen: collections.Counter[object] = collections.Counter()

    def gain(report: Report) -> tuple[int, int, str]:
        missing = sum(seen[feature] < count for feature, count in wanted[report.case].items())
        return missing, -report.size, report.case

    chosen: list[Report] = []
    room = KEPT_BYTES
    while len(chosen) < KEPT_CASES and (left := [r for r in left if r.size <= room]):
        best = max(left, key=gain)
        left.remove(best)
        chosen.append(best)
        seen.update(wanted[best.case].keys())
        room -= best.size
    return chosen


def keep(folder: Path, chosen: list[Report], metadata: dict[str, str]) -> Path:
    """Write the outputs of the chosen cases; the cases themselves are in the metadata."""
    tensors = {
        f"{number}/{name}": np.ascontiguousarray(value)
        for number, report in enumerate(chosen)
        for name, value in report.outputs
    }
    described = [{"case": json.loads(r.case), "instructions": dict(r.instructions), "digest": r.digest} for r in chosen]
    path = folder / "stages.safetensors"
    save_file(tensors, path, metadata | {"cases": json.dumps(described, separators=(",", ":"))})
    return path


def say(*words: object) -> None:
    """Write one line at once: a run takes minutes."""
    sys.stdout.write(" ".join(str(w) for w in words) + "\n")
    sys.stdout.flush()


def summarise(reports: list[Report]) -> int:
    """Print what was found; return how many cases are wrong."""
    for stage in COMPARED:
        mine = [c for r in reports for c in r.comparisons if c.stage == stage]
        total = {name: sum(getattr(c, name) for c in mine) for name in ("exact", "hidden", "different", "bounded")}
        largest = max((c.ratio for c in mine), default=0.0)
        say(f"{stage}: {len(mine)} outputs; elements: {total}; largest err/bound {largest:.4f}")
    say("instructions:", dict(collections.Counter(i for r in reports for i in r.instructions)))
    wrong = [r for r in reports if r.error or not all(c.is_clean for c in r.comparisons)]
    for report in wrong[:SHOWN]:
        say("WRONG", report.case)
        say(report.error or [asdict(c) for c in report.comparisons if not c.is_clean])
    say(f"{len(wrong)} of {len(reports)} cases wrong")
    return len(wrong)


def main() -> int:
    """Record; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare the kernels on a GPU with lockstep.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=270)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    started = time.monotonic()
    # Some draws coincide and some lie outside the contract.
    chunks = SMALL_CHUNKS + -(-options.cases * 3 // CHUNK)
    work = [Work(number, options.dry_run) for number in range(chunks)]
    reports: dict[str, Report] = {}
    with multiprocessing.get_context("spawn").Pool(options.processes, one_thread) as pool:
        for done, chunk in enumerate(pool.imap_unordered(compare_chunk, work), 1):
            reports |= {report.case: report for report in chunk if report.outputs or report.case not in reports}
            seconds = time.monotonic() - started
            if done % options.processes == 0:
                say(f"{len(reports)} cases after {seconds:.0f} s")
            if seconds > options.seconds or (len(reports) >= options.cases and done >= SMALL_CHUNKS):
                break
    found = list(reports.values())
    wrong = summarise(found)
    metadata = {
        "device": "lockstep sm90" if options.dry_run else torch.cuda.get_device_name(),
        "capability": json.dumps([9, 0] if options.dry_run else torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    path = keep(options.folder, sample(found), metadata)
    say(f"{path.name}: {path.stat().st_size} bytes; {len(found)} cases in {time.monotonic() - started:.0f} s")
    return int(wrong > 0 or len(found) < options.cases)


if __name__ == "__main__":
    sys.exit(main())
