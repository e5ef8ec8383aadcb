"""How fast planted bugs are found: by campaigns, with coverage feedback and without, by the plain generator, by grids.

A fault counts as found only where the clean kernels pass the very case. Written to docs/detection.md.
"""

import contextlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from indexfuzz.campaign.events import CaseRun, Event, Seen
from indexfuzz.campaign.loop import run_whole
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.forked import cpu_seconds
from indexfuzz.devices import open_device
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.evaluation.bench.baseline import GRIDS
from indexfuzz.evaluation.bench.detection_report import as_markdown
from indexfuzz.evaluation.bench.shrinking import Size
from indexfuzz.evaluation.bench.uniform import uniform
from indexfuzz.evaluation.kept import Kept, keep_page, measure_all
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import Fault, load_faults, plant
from indexfuzz.oracles.differential import run
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.minimize import NotFailingError, minimise

SEEDS = (0, 1, 2, 3, 4)
SECONDS = 60.0
UNIFORM_SECONDS = 10.0
MINIMISE_SECONDS = 30.0

ROOT = Path(__file__).parents[3]
PAGE = Path("docs/detection.md")


Clock = Callable[[], float]


@dataclass(frozen=True)
class Sight:
    """The first finding of one search: its case, after how many cases and seconds."""

    cases: int
    seconds: float
    case: Case
    finding: Finding


@dataclass
class Detection:
    """What was measured about one fault. Lists have an entry per seed that found it, in the order of the seeds."""

    fault: str
    kind: str
    stage: str
    cases: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    blamed: list[str] = field(default_factory=list)
    rightly_blamed: bool = True
    signature: str = ""
    sequences: int | None = None
    tokens: int | None = None
    steps: int | None = None
    """Of a minimal session; None where a single step shows it."""
    unsteered_cases: list[int] = field(default_factory=list)
    uniform_cases: list[int] = field(default_factory=list)
    grids: dict[str, str | None] = field(default_factory=dict)
    machines: dict[str, int] = field(default_factory=dict)
    """How many of the searches ran on which machine: results may be brought together from several."""

    @property
    def median_seconds(self) -> float | None:
        """Median over the seeds that found it."""
        return statistics.median(self.seconds) if self.seconds else None


class _Over(BaseException):
    """Ends a campaign, at its first finding or in time; no Exception, so that Hypothesis lets it through."""


def campaign_sight(
    implementation: Implementation,
    device: Device,
    seed: int,
    *,
    seconds: float = math.inf,
    most: int | None = None,
    clock: Clock = time.monotonic,
    subject_type: type[InProcess] = InProcess,
    steered: bool = True,
) -> Sight | None:
    """What a campaign of this seed finds first, within so many seconds by a clock, and cases."""
    started, cases = clock(), 0
    sight: Sight | None = None

    def listen(event: Event) -> None:
        nonlocal cases, sight
        cases += isinstance(event, CaseRun)
        if isinstance(event, Seen):
            sight = Sight(cases, clock() - started, event.case, event.finding)
            raise _Over
        if clock() - started > seconds:
            raise _Over

    with contextlib.suppress(_Over):
        wanted = Settings(subject_type(implementation, device), cases=most, seed=seed, steered=steered)
        run_whole(wanted, listen)
    return sight


def stream_sight(
    stream: Iterable[Case],
    implementation: Implementation,
    device: Device,
    *,
    seconds: float = math.inf,
    clock: Clock = time.monotonic,
) -> Sight | None:
    """What the cases of a stream show first, within so many seconds by a clock."""
    started = clock()
    for number, case in enumerate(stream, 1):
        if clock() - started > seconds:
            break
        try:
            findings = run(case, implementation, device).findings
        except UnsupportedKernelError:
            continue
        if findings:
            return Sight(number, clock() - started, case, findings[0])
    return None


def is_clean(case: Case, device: Device) -> bool:
    """Whether the kernels without faults pass a case."""
    return not InProcess(builtin(), device).run(case).findings


def detect(
    fault: Fault, device: Device, *, seeds: Sequence[int] = SEEDS, seconds: float = SECONDS, minimal: bool = True
) -> Detection:
    """Search for a fault with a campaign per seed, and make the first case that is found minimal, where wanted."""
    implementation = plant((fault.id,))
    found = Detection(fault.id, fault.kind, fault.stage)
    for seed in seeds:
        sight = campaign_sight(implementation, device, seed, seconds=seconds, clock=cpu_seconds)
        if sight is None or not is_clean(sight.case, device):
            continue
        found.cases.append(sight.cases)
        found.seconds.append(round(sight.seconds, 2))
        found.blamed.append(sight.finding.stage)
        found.rightly_blamed &= fault.is_blamed_by(sight.finding)
        if not found.signature:
            found.signature = str(sight.finding.signature)
            if minimal:
                _minimise(found, sight, implementation, device)
    return found


def _minimise(found: Detection, sight: Sight, implementation: Implementation, device: Device) -> None:
    subject = InProcess(implementation, device)
    try:
        small, _ = minimise(sight.case, subject, sight.finding.signature, seconds=MINIMISE_SECONDS)
    except NotFailingError:  # it took a launch of an earlier case, which a campaign says of such a finding
        return
    size = Size.of(small)
    found.sequences, found.tokens, found.steps = size.requests, size.tokens, size.steps or None


def compare(found: Detection, device: Device, seeds: Sequence[int], *, seconds: float = SECONDS) -> None:
    """Search for the same fault with campaigns without feedback and with the plain generator."""
    implementation = plant((found.fault,))
    for seed in seeds:
        unsteered = campaign_sight(implementation, device, seed, seconds=seconds, clock=cpu_seconds, steered=False)
        if unsteered and is_clean(unsteered.case, device):
            found.unsteered_cases.append(unsteered.cases)
        stream = uniform(seed, device.formats)
        sight = stream_sight(stream, implementation, device, seconds=UNIFORM_SECONDS, clock=cpu_seconds)
        if sight and is_clean(sight.case, device):
            found.uniform_cases.append(sight.cases)


def this_machine() -> str:
    """What seconds are worth here, as far as it can be told."""
    return f"Python {platform.python_version()} on {platform.machine()} with {os.cpu_count()} cores"


def measure(search: str) -> dict[str, Any]:
    """All that one search for a fault shows, in this process; `search` is the fault's id and the seed, "ks-offset.3".

    The first seed makes the case minimal and tries the grids, too.
    """
    torch.set_num_threads(1)
    fault, _, seed = search.rpartition(".")
    device = open_device("lockstep")
    found = detect(load_faults()[fault], device, seeds=(int(seed),), minimal=int(seed) == SEEDS[0])
    found.machines = {this_machine(): 1}
    compare(found, device, (int(seed),))
    if int(seed) == SEEDS[0]:
        found.grids = {grid.project: grid.finds(plant((fault,)), device) for grid in GRIDS}
    return asdict(found)


def join(searches: Sequence[dict[str, Any]]) -> Detection:
    """What the searches for one fault have shown together, each as its fields, in the order of the seeds."""
    parts = [Detection(**search) for search in searches]
    whole, *more = parts
    for part in more:
        for name in ("cases", "seconds", "blamed", "unsteered_cases", "uniform_cases"):
            getattr(whole, name).extend(getattr(part, name))
        for machine, count in part.machines.items():
            whole.machines[machine] = whole.machines.get(machine, 0) + count
        whole.rightly_blamed &= part.rightly_blamed
        whole.signature = whole.signature or part.signature
    return whole


def main(*, as_json: bool, faults: Sequence[str] = ()) -> int:
    """Search for every fault with all seeds, or again for those of `faults`; print the table; 1 when one was missed.

    Results are kept in build/detection, so that a run that was stopped goes on where it was; once every fault has all
    of its own, the table is written to docs/. Times are CPU times, so that other work on the machine does not count.
    """
    device = open_device("lockstep")
    for grid in GRIDS:
        if wrong := grid.finds(builtin(), device):
            raise AssertionError(f"the grid of {grid.project} fails on the clean kernels: {wrong}")
    known = [*load_faults()]
    searches = [f"{fault}.{seed}" for fault in known for seed in SEEDS]
    again = [search for search in searches if search.rpartition(".")[0] in faults]
    done = measure_all(searches, measure, Kept(ROOT / "build" / "detection"), again=again, tell=_tell)
    parts = [[search for search in done if search["fault"] == fault] for fault in known]
    found = [asdict(join(each)) for each in parts if len(each) == len(SEEDS)]
    text = as_markdown(found, seeds=len(SEEDS), seconds=SECONDS, plain_seconds=UNIFORM_SECONDS)
    whole = len(found) == len(known)
    keep_page(text, ROOT, PAGE, missing="" if whole else f"{len(found)} of {len(known)} have all results")
    print(json.dumps(found, indent=1) if as_json else text)  # noqa: T201
    return int(not whole or any(len(each["cases"]) < len(SEEDS) or not each["rightly_blamed"] for each in found))


def _tell(search: str, result: dict[str, Any]) -> None:
    found = f"found after {result['cases'][0]} cases" if result["cases"] else "not found"
    print(f"{search}: {found}", file=sys.stderr, flush=True)  # noqa: T201
