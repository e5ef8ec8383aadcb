"""Isolation: what it costs, and whether it holds when hundreds of workers are killed, crash, hang or end themselves.

The cases are those of campaigns. Some are given a number of keys for which the hostile implementation misbehaves; all
the while somebody kills workers at random moments, innocent cases or not. Afterwards every case must have been judged,
each misdeed found where it was done and nowhere else, and no process be left.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.setup import Setup
from indexfuzz.core.stage_names import GATHER
from indexfuzz.devices import open_device
from indexfuzz.evaluation.bench.hostile import SIGNATURES, implementation
from indexfuzz.generation.stream import stream_cases
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.isolation.isolated import Isolated
from indexfuzz.subjects.under_test import put_under_test

SEED = 20
INJECTED = 200
SHARE_GUILTY = 3
"""Every so many cases misbehaves."""

PAUSE = 0.4
"""Seconds between two kills, at most."""

PATIENCE = 9.0
"""Seconds that a case may take."""

COMPARED = 120
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS)


@dataclass
class Cost:
    """Cases per second in this process and in one of its own, the same ones in turns; whether the outcomes agree."""

    cases: int
    in_process: float
    isolated: float
    same_outcomes: bool


@dataclass
class Injections:
    """What was done to the workers, and what came of it."""

    cases: int = 0
    misdeeds: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    told_deaths: int = 0
    lost: list[str] = field(default_factory=list)
    wrongly_blamed: list[str] = field(default_factory=list)
    not_blamed: list[str] = field(default_factory=list)
    orphans: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Misdeeds and kills."""
        return sum(self.misdeeds.values()) + self.kills


class Killer(threading.Thread):
    """Sends signals to whatever worker there is, at random moments.

    No case sees two of them, one that comes after the answer to the case before included: two of a kind would be taken
    for its doing, as nobody could tell them from that.
    """

    def __init__(self, subject: Isolated, seed: int) -> None:
        super().__init__(daemon=True)
        self._subject = subject
        self._random = random.Random(seed)  # noqa: S311 - decides no case
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._armed = False
        self._has_killed = False
        self.kills = 0

    def run(self) -> None:
        """Kill until told to stop."""
        while not self._over.wait(self._random.uniform(0, PAUSE)):
            with self._lock:
                victim = self._subject.worker
                if victim and self._armed:
                    self._armed, self._has_killed = False, True
                    with suppress(ProcessLookupError):
                        os.kill(victim, self._random.choice(SIGNALS))
                        self.kills += 1

    def next_case(self) -> None:
        """Another case begins."""
        with self._lock:
            self._armed, self._has_killed = not self._has_killed, False

    def stop(self) -> None:
        """Wait for the last kill."""
        self._over.set()
        self.join()


def _signatures(outcome: Outcome) -> set[str]:
    return {str(finding.signature) for finding in outcome.findings}


def _cases(formats: tuple[str, ...]) -> Iterator[tuple[Case, str]]:
    """Cases with the finding that each must have; an empty word for the innocent."""
    misdeeds = random.Random(SEED)  # noqa: S311 - decides no case of a campaign
    for number, case in enumerate(stream_cases(SEED, formats)):
        keys = misdeeds.choice(list(SIGNATURES)) if number % SHARE_GUILTY == 0 else 21
        plain = Case().replace(values=case.values.model_dump() | {"set": {}}, rope=case.rope.model_dump())
        yield plain.replace(batch={"prefill": ({"length": keys, "new": 0},)}), SIGNATURES.get(keys, "")


def measure_injections(wanted: int = INJECTED, seconds: float = PATIENCE) -> Injections:
    """Inject until there were as many as wanted; a case may take that many seconds."""
    here = InProcess(implementation, open_device("lockstep"))
    result, started = Injections(), time.monotonic()
    gather = frozenset({GATHER})
    with Isolated(Setup("module:indexfuzz.evaluation.bench.hostile"), seconds=seconds, memory=1 << 30) as subject:
        killer = Killer(subject, SEED)
        killer.start()
        for case, expected in _cases(here.facts.formats):
            result.cases += 1
            killer.next_case()
            outcome = subject.run(case, gather)
            found = _signatures(outcome)
            if expected:
                result.misdeeds[expected] = result.misdeeds.get(expected, 0) + 1
            if GATHER not in outcome.stages or (not expected and outcome != here.run(case, gather)):
                result.lost.append(case.id)
            if found - {expected}:
                result.wrongly_blamed.append(f"{case.id}: {', '.join(found - {expected})}")
            if expected and expected not in found:
                result.not_blamed.append(f"{case.id}: {expected}")
            if sum(result.misdeeds.values()) + killer.kills >= wanted:
                break
        killer.stop()
        result.kills, result.told_deaths = killer.kills, len(subject.unrepeated)
    result.orphans = len(children())
    result.seconds = time.monotonic() - started
    return result


def children() -> list[int]:
    """Living processes that this one started for isolation; a worker has the command line of what forked it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"isolation/bootstrap.py") for word in words) and str(os.getpid()).encode() in words:
            found.append(int(file.parent.name))
    return found


def measure_cost(count: int = COMPARED) -> Cost:
    """The built-in kernels on the same cases both ways, in turns."""
    here = put_under_test(Setup()).subject
    spent, same = [0.0, 0.0], True
    with Isolated(Setup(isolate=True)) as there:
        for number, case in enumerate(islice(stream_cases(SEED, here.facts.formats), count)):
            order = (0, 1) if number % 2 else (1, 0)
            outcomes: dict[int, Outcome] = {}
            for which in order:
                subject = (here, there)[which]
                started = time.perf_counter()
                outcomes[which] = subject.run(subject.narrow(case))
                spent[which] += time.perf_counter() - started
            same &= outcomes[0] == outcomes[1]
    return Cost(count, count / spent[0], count / spent[1], same)


def main(*, as_json: bool) -> int:
    """Measure and print both; 1 when something was lost, blamed wrongly or left behind."""
    torch.set_num_threads(1)
    cost, injections = measure_cost(), measure_injections()
    bad = injections.lost or injections.wrongly_blamed or injections.not_blamed or injections.orphans
    if as_json:
        print(json.dumps({"cost": asdict(cost), "injections": asdict(injections)}, indent=1))  # noqa: T201
    else:
        print(as_text(cost, injections))  # noqa: T201
    return int(bool(bad) or not cost.same_outcomes)


def as_text(cost: Cost, injections: Injections) -> str:
    """A few lines for people."""
    misdeeds = ", ".join(f"{name.removeprefix('gather/')} {n}" for name, n in sorted(injections.misdeeds.items()))
    same = "the same outcomes" if cost.same_outcomes else "OTHER OUTCOMES"
    kills = f"{injections.kills}, of which {injections.told_deaths} hit a case and are told"
    lost, wrong = injections.lost or 0, injections.wrongly_blamed or 0
    lines = (
        f"{cost.cases} cases: {cost.in_process:.2f} cases/s here, {cost.isolated:.2f} cases/s isolated; {same}",
        f"{injections.total} injections in {injections.cases} cases and {injections.seconds:.0f} s",
        f"  misdeeds of cases: {misdeeds}",
        f"  kills at random moments: {kills}",
        f"  cases lost: {lost}, blamed wrongly: {wrong}, not blamed: {injections.not_blamed or 0}",
        f"  orphans: {injections.orphans}",
    )
    return "\n".join(lines)
