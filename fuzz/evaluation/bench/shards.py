"""What many shards do together: how much they repeat each other, what they reach, and how soon they find planted bugs.

Each shard is a campaign of its own, run to the same number of cases, on the clock of its own CPU time; their logs are
merged as `indexfuzz merge` does it. docs/campaigns.md says what that means for a fleet.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from indexfuzz.campaign.events import CaseRun, Event, Seen
from indexfuzz.campaign.log import RunLog
from indexfuzz.campaign.loop import run_whole
from indexfuzz.campaign.merged_log import examine_log, merge_logs
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.rng import derive
from indexfuzz.implementations.faults import load_faults, plant
from indexfuzz.report.story import read_story
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.open import open_subject
from indexfuzz.subjects.reaching import reaching

SHARDS = 64
CASES = 24
"""Cases of each shard."""

FAULTS = (
    "heads-33-to-40-as-32",
    "rope-lost-without-prefill",
    "topk-one-short-at-2048",
    "weights-unscaled-from-10240",
    "windows-of-first-512-rows",
)
"""Planted bugs that few cases show."""

FAULT_CASES = 12
"""Cases of each shard that looks for one of them."""

SIZES = (1, 4, 16, 64)
"""Numbers of shards that are compared."""


@dataclass(frozen=True)
class Shard:
    """What a shard did: what its cases reached, in order, and at which of its cases it found each bug, if it did."""

    reached: tuple[frozenset[str], ...]
    found: Mapping[str, int]


@dataclass
class Result:
    """What all of them did together.

    `cases` were run, `different` of them; the merged log has `merged_cases`, in so many `seconds`. `growth` maps a
    number of shards to how much they reached. `found` maps a bug and a number of shards to the cases that each had run
    when the first found it; None where none did.
    """

    cases: int
    different: int
    merged_cases: int
    seconds: float
    growth: dict[int, int]
    found: dict[str, dict[int, int | None]] = field(default_factory=dict)

    def as_text(self) -> str:
        """Tables, in Markdown."""
        repeated = self.cases - self.different
        lines = [
            f"{SHARDS} shards of {CASES} cases each: {self.different} different cases, {repeated} run more than once.",
            f"The merged log has {self.merged_cases} cases in {self.seconds:.1f} s of CPU time of a shard.",
            "",
            "| shards | cases | masks, branches and classes reached |",
            "| --- | --- | --- |",
            *(f"| {size} | {size * CASES} | {reached} |" for size, reached in self.growth.items()),
            "",
            f"| planted bug, cases of each shard until the first finds it | {' | '.join(map(str, SIZES))} |",
            f"| --- {'| --- ' * len(SIZES)}|",
        ]
        for fault, by_size in self.found.items():
            shown = (f"more than {FAULT_CASES}" if by_size[size] is None else str(by_size[size]) for size in SIZES)
            lines.append(f"| {fault} | {' | '.join(shown)} |")
        return "\n".join(lines)

    def as_data(self) -> dict[str, object]:
        """The same as plain JSON data."""
        return {
            "shards": SHARDS,
            "cases": self.cases,
            "different": self.different,
            "reached": self.growth,
            "found": self.found,
        }


def run_shard(folder: Path, seed: int, number: int) -> Shard:
    """Be one shard: run its cases, write its log into the folder, then look for each of the bugs."""
    torch.set_num_threads(1)
    subject = reaching(open_subject("builtin"))
    reached = []
    with RunLog(folder / f"{number:03}.jsonl", print, time.process_time) as log:
        facts = subject.facts
        names = {"implementation": facts.name, "device": facts.device, "torch": facts.torch, "triton": facts.triton}
        log.start(indexfuzz="", seed=seed, shard=(number, SHARDS), workers=1, **names)

        def listen(event: Event) -> None:
            log.hear(event)
            if isinstance(event, CaseRun):
                reached.append(event.outcome.reached)

        log.end(run_whole(Settings(subject, cases=CASES, seed=seed, shard=(number, SHARDS)), listen))
    sights = {fault: find(fault, seed, number) for fault in FAULTS}
    return Shard(tuple(reached), {fault: sight for fault, sight in sights.items() if sight is not None})


def find(fault: str, seed: int, number: int) -> int | None:
    """At which of its cases a shard finds a bug; each bug is looked for by a campaign of a seed of its own."""
    cases, sight = 0, None

    def listen(event: Event) -> None:
        nonlocal cases, sight
        cases += isinstance(event, CaseRun)
        if isinstance(event, Seen) and sight is None:
            sight = cases

    about = load_faults()[fault]
    subject = InProcess(plant((fault,)), open_subject("builtin").device)
    only = frozenset({about.stage, *about.also})
    wanted = Settings(subject, only=only, cases=FAULT_CASES, first_only=True, minimise_seconds=0.0)
    run_whole(replace(wanted, seed=derive(seed, fault), shard=(number, SHARDS)), listen)
    return sight


def judge(shards: Sequence[Shard], folder: Path) -> Result:
    """What shards did together; the folder has their logs."""
    runs = [examine_log(path) for path in sorted(folder.glob("*.jsonl"))]
    merge_logs(runs, folder / "merged", {}, {})
    story = read_story(folder / "merged")
    result = Result(
        cases=sum(run.cases for run in runs),
        different=len(set[int]().union(*(run.ids for run in runs))),
        merged_cases=len(story.cases),
        seconds=story.seconds,
        growth={size: len(union(r for shard in shards[:size] for r in shard.reached)) for size in SIZES},
    )
    for fault in FAULTS:
        result.found[fault] = {
            size: min((shard.found[fault] for shard in shards[:size] if fault in shard.found), default=None)
            for size in SIZES
        }
    return result


def union(parts: Iterable[frozenset[str]]) -> frozenset[str]:
    """All that is in some part."""
    return frozenset[str]().union(*parts)


def main(*, as_json: bool, seed: int = 0) -> int:
    """Run all shards on half the cores, and print what they did together."""
    processes = max(1, (os.cpu_count() or 1) // 2)
    with TemporaryDirectory() as name, ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        shards = list(pool.map(partial(run_shard, Path(name), seed), range(1, SHARDS + 1)))
        result = judge(shards, Path(name))
    print(json.dumps(result.as_data(), indent=1) if as_json else result.as_text())  # noqa: T201
    return 0
