"""A subject that also says what each case reaches: masks and branches of kernels, conditions of callers, classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexfuzz import devices
from indexfuzz.core.case import Case
from indexfuzz.core.case_classes import classes_of
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import MaskCoverage
from indexfuzz.oracles import schedule
from indexfuzz.subjects.in_process import InProcess


@dataclass(frozen=True, kw_only=True)
class Reaching(InProcess):
    """An implementation in this process; `coverage` is what its device accumulates."""

    coverage: MaskCoverage

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Run it, and say what it reached."""
        self.coverage.clear()
        outcome = super().run(case, only)
        outcome.reached = frozenset(self._reached(outcome))
        return outcome

    def _reached(self, outcome: Outcome) -> Iterator[str]:
        for operation in self.coverage.as_data():
            where = f"{_name(operation['file'])}:{operation['line']} {operation['kind']}"
            yield from (f"{where} {state}" for state in operation["seen"])
        yield from reached_beside_masks(outcome)


def reached_beside_masks(outcome: Outcome) -> Iterator[str]:
    """What any subject can tell that a case reached: conditions of callers, stages, oracles, classes."""
    for seen in outcome.comparisons:
        yield f"{_name(seen.file)}:{seen.line} {seen.text} is {seen.holds}"
    yield from (f"stage {stage}" for stage in outcome.stages)
    yield from (f"asked for {oracle.name}" for oracle in schedule.OTHERS if oracle.is_asked(outcome.case))
    yield from classes_of(outcome.case)


def reaching(subject: InProcess) -> Reaching:
    """The same subject, which says what it reaches.

    Raises DeviceError for a device that does not see masks.
    """
    device, coverage = devices.covering(subject.device)
    return Reaching(subject.implementation, device, coverage=coverage)


def _name(file: str) -> str:
    return "/".join(Path(file).parts[-2:])
