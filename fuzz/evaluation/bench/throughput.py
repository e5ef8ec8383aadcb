"""Cases per second of one core: this release, another one, and the plain loop, the same cases in turns.

The other release is a checkout, in a process and with a package of its own. The plain loop is what one would write
without lockstep: Triton's interpreter, on the same tensors and with the same oracles. Every side has run each case once
before it is measured. A turn is a batch of cases on each side, and what is compared is the CPU time of a turn, so that
whatever else the machine does meanwhile slows both.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count as count_up
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.drawing import cases_of_chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.setup import DEFAULT_DEVICE, Setup
from indexfuzz.devices import open_device
from indexfuzz.devices.base import DeviceError
from indexfuzz.evaluation.bench.interpreter import InterpreterError, interpreter
from indexfuzz.evaluation.bench.scaling import Compiling, Rate, measure_compiling, measure_rate
from indexfuzz.evaluation.bench.throughput_side import Answer, Side, SideError, start_side
from indexfuzz.subjects.open import prepare

SEED = 7
CASES = 60
BATCH = 10
TURNS = 3
"""How often each batch is run on each side."""

PLAIN_EVERY = 4
"""The plain loop runs one case of so many."""

OURS, BEFORE, PLAIN = "this release", "the other release", "plain loop"


@dataclass
class Comparison:
    """One side beside this release, on the same cases.

    `pairs` lists (ours, theirs), the CPU seconds of each turn, `wall` the same in wall seconds. The turns have `runs`
    of `cases` different cases, which are few where the other side lacks words for most. `same_verdicts` says whether
    both showed the same of each case, those left out included.
    """

    side: str
    runs: int = 0
    pairs: list[tuple[float, float]] = field(default_factory=list)
    wall: list[tuple[float, float]] = field(default_factory=list)
    same_verdicts: bool = True
    cases: int = 0

    def add(self, count: int, ours: Answer, theirs: Answer) -> None:
        """Take note of a turn."""
        self.runs += count
        self.pairs.append((ours.cpu, theirs.cpu))
        self.wall.append((ours.wall, theirs.wall))
        self.same_verdicts &= ours.shown == theirs.shown

    def rates(self) -> tuple[float, float]:
        """Cases per second of CPU time, ours and theirs."""
        ours, theirs = (sum(seconds) for seconds in zip(*self.pairs, strict=True))
        return self.runs / ours, self.runs / theirs

    def ratios(self) -> list[float]:
        """How many times as fast as the side this release was, in each turn."""
        return [theirs / ours for ours, theirs in self.pairs]

    def as_data(self) -> dict[str, Any]:
        """The comparison with what follows from it as plain JSON data."""
        ours, theirs = self.rates()
        ratios = self.ratios()
        walls = [theirs / ours for ours, theirs in self.wall]
        derived = {
            "cases_per_second": {OURS: ours, self.side: theirs},
            "median_ratio": median(ratios),
            "least_ratio": min(ratios),
            "greatest_ratio": max(ratios),
            "median_ratio_of_wall_time": median(walls),
        }
        return asdict(self) | derived


def main(
    *, as_json: bool, against: str | None = None, workers: Sequence[int] = (), device: str = DEFAULT_DEVICE
) -> int:
    """Measure and print a table, or JSON; 2 where something that is needed cannot be had.

    `against` is the checkout of another release, `workers` the numbers of processes to measure a campaign with.
    """
    torch.set_num_threads(1)
    try:
        open_device(device)
        compared = measure(draw_cases(CASES), Path(against) if against else None, device)
        rates = [_measure_campaign(count, device) for count in workers]
    except (SideError, InterpreterError, DeviceError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if as_json:
        data = {"seed": SEED, "cases": CASES, "turns": TURNS, "compared": [one.as_data() for one in compared]}
        _say(json.dumps(data | {"scaling": [asdict(rate) for rate in rates]}, indent=1))
    else:
        _say("\n".join([*map(_describe, compared), *map(_describe_rate, rates)]))
    return 0


def _measure_campaign(workers: int, device: str) -> Rate | Compiling:
    return measure_compiling(workers, SEED, device) if device == "cuda" else measure_rate(workers, SEED)


def draw_cases(count: int) -> list[Case]:
    """The first cases of a campaign, as they are drawn."""
    wanted = Settings(prepare(Setup()).subject, seed=SEED, steered=False)
    return list(islice((drawn.case for number in count_up() for drawn in cases_of_chunk(wanted, Chunk(number))), count))


def measure(cases: Sequence[Case], against: Path | None, device: str = DEFAULT_DEVICE) -> list[Comparison]:
    """This release on a device beside the other one there, if there is one, and beside the plain loop.

    Raises SideError where the other release cannot run, InterpreterError where Triton's interpreter cannot.
    """
    found = []
    with ExitStack() as stack:
        before = start_side(BEFORE, device, cases, checkout=against) if against else None
        theirs = stack.enter_context(before) if before else None
        ours = stack.enter_context(start_side(OURS, device, cases))
        if theirs:
            found.append(compare(ours, theirs, sorted(theirs.known)))
        with interpreter() as beside:
            environment = beside.environment
        plain = stack.enter_context(start_side(PLAIN, "interpreter", cases, environment=environment))
        found.append(compare(ours, plain, [n for n in range(0, len(cases), PLAIN_EVERY) if n in plain.known]))
    return found


def compare(ours: Side, theirs: Side, numbers: Sequence[int]) -> Comparison:
    """Run cases on both sides by turns.

    A case that one of them cannot run is left out, and so is one that shows more on one side, which ends it earlier
    there, unless all are such.

    Raises SideError where none is left.
    """
    warm = [side.run(numbers) for side in (ours, theirs)]
    able = [number for number in numbers if all(answer.shown[number] is not None for answer in warm)]
    if not able:
        raise SideError(f"{theirs.name} cannot run any of the cases")
    same = [number for number in able if warm[0].shown[number] == warm[1].shown[number]]
    found = Comparison(theirs.name, same_verdicts=same == able)
    able = same or able
    found.cases = len(able)
    for turn in range(TURNS):
        for start in range(0, len(able), BATCH):
            batch = able[start : start + BATCH]
            sides = (ours, theirs) if turn % 2 else (theirs, ours)
            answers = {side.name: side.run(batch) for side in sides}
            found.add(len(batch), answers[ours.name], answers[theirs.name])
    return found


def _describe(compared: Comparison) -> str:
    ours, theirs = compared.rates()
    ratios = compared.ratios()
    verdicts = "the same verdicts" if compared.same_verdicts else "other verdicts"
    return (
        f"{compared.side}: {theirs:.2f} cases/s of one core, {OURS}: {ours:.2f}; {median(ratios):.2f} times as fast "
        f"in the median of {len(ratios)} turns ({min(ratios):.2f} to {max(ratios):.2f}), {compared.runs} runs "
        f"of {compared.cases} different cases, {verdicts}"
    )


def _describe_rate(rate: Rate | Compiling) -> str:
    if isinstance(rate, Rate):
        return (
            f"{rate.workers} workers: {rate.cases_per_second:.1f} cases/s in {rate.seconds:.0f} s on {rate.cores} "
            f"cores, {rate.cases_per_second / rate.workers:.2f} each"
        )
    return (
        f"{rate.workers} workers on {rate.cores} cores, {rate.cases} cases: {rate.cases / rate.cold:.1f} cases/s and "
        f"{rate.kernels / rate.cold:.1f} new kernels/s with an empty cache, {rate.cases / rate.warm:.1f} cases/s with "
        f"all {rate.kernels} in it"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
