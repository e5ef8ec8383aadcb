"""Put one mutant under test on cases of the generator until it shows."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.stage_names import STATEFUL as STATEFUL_NAMES
from indexfuzz.devices import open_device
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.evaluation.mutation.mutants import SESSION_FILES, Mutant
from indexfuzz.generation import sessions as drawing
from indexfuzz.generation.stream import stream_cases, stream_from
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import composition, differential, sessions
from indexfuzz.stages.table import EVERY, STATEFUL

Fate = Literal["killed", "hang", "survived", "unsupported"]


@dataclass(frozen=True)
class Budget:
    """What is spent on a mutant: CPU seconds, and cases drawn from `seed`; those beside its stage cost nothing."""

    cases: int = 300
    seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What became of a mutant: the first finding that the clean kernels do not show, after how many cases."""

    mutant: Mutant
    fate: Fate
    cases: int = 0
    seconds: float = 0.0
    signature: str = ""
    detail: str = ""
    case_id: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Suspect:
    """Kernels under test, the stages that matter, and whether all of them at once matter, too."""

    implementation: Implementation
    stages: frozenset[str]
    composed: bool

    def is_reached_by(self, case: Case) -> bool:
        """Whether a case runs any code in question."""
        return any(stage.name in self.stages and stage.applies(case) for stage in (*EVERY, *STATEFUL))

    def first_finding(self, case: Case, device: Device) -> Finding | None:
        """What a case shows first."""
        run = sessions.run if case.session.steps else differential.run
        findings = run(case, self.implementation, device, self.stages).findings
        if self.composed and not findings:
            findings = composition.run(case, self.implementation, device).findings
        return findings[0] if findings else None


class Examiner:
    """Examines mutants one after the other, all on the same cases."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._device = open_device("lockstep")
        formats = self._device.formats
        self._steps = Kept(stream_cases(budget.seed, formats))
        self._sessions = Kept(stream_from(drawing.sessions(STATEFUL_NAMES, formats=formats), budget.seed))

    def examine(self, mutant: Mutant) -> Result:
        """Run a mutant until it is killed or the budget is spent."""
        started = time.process_time()
        clean = original(mutant)
        try:
            suspect = plant(mutant)
        except Exception as error:  # noqa: BLE001 - a module that cannot be imported is noticed at once
            detail = f"{type(error).__name__}: {error}"
            return Result(mutant, "killed", signature="import", detail=detail, kind="import")
        tried, unsupported = 0, ""
        source = self._sessions if mutant.file in SESSION_FILES else self._steps
        for case in source.first(self._budget.cases):
            if time.process_time() - started > self._budget.seconds:
                break
            tried += 1
            if not suspect.is_reached_by(case):
                continue
            try:
                finding = suspect.first_finding(case, self._device)
            except UnsupportedKernelError as error:
                unsupported = str(error)
                continue
            if finding and clean.first_finding(case, self._device) is None:
                seconds = time.process_time() - started
                words = (str(finding.signature), finding.detail, case.id, finding.kind)
                return Result(mutant, "killed", tried, seconds, *words)
        fate: Fate = "unsupported" if unsupported else "survived"
        return Result(mutant, fate, tried, time.process_time() - started, detail=unsupported)


class Kept:
    """The cases of an endless stream, each drawn when it is first asked for."""

    def __init__(self, stream: Iterator[Case]) -> None:
        self._stream = stream
        self._drawn: list[Case] = []

    def first(self, count: int) -> Iterator[Case]:
        """So many, from the first on."""
        for number in range(count):
            if number == len(self._drawn):
                self._drawn.append(next(self._stream))
            yield self._drawn[number]


def give_up(mutant: Mutant, seconds: float, why: str) -> Result:
    """The result for a mutant that does not end."""
    return Result(mutant, "hang", seconds=seconds, signature="hang", detail=why)


def original(mutant: Mutant) -> Suspect:
    """The kernels proper, to be looked at where a mutant is."""
    return Suspect(builtin(), frozenset(mutant.stages), composed=mutant.file == "kernels/indexer.py")


def plant(mutant: Mutant) -> Suspect:
    """A mutant, imported.

    Raises whatever its import does.
    """
    edit = (mutant.id, mutant.file, mutant.before, mutant.after)
    implementation = builtin(edited_kernels(mutant.id, [edit]), f"builtin+{mutant.id}")
    return replace(original(mutant), implementation=implementation)
