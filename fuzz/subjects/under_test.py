"""A subject with the words that it was made from."""

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import DEFAULT_IMPLEMENTATION, Setup, SetupError
from indexfuzz.corpus.entry import Entry, Record, Sighting

if TYPE_CHECKING:  # these import torch, and `indexfuzz --help` must not
    from indexfuzz.subjects.in_process import InProcess
    from indexfuzz.subjects.subject import Subject

SubjectT_co = TypeVar("SubjectT_co", bound="Subject", covariant=True)


@dataclass(frozen=True)
class UnderTest(Generic[SubjectT_co]):
    """A subject, and the words that it was made from."""

    subject: SubjectT_co
    setup: Setup

    def command(self, name: str, file: Path) -> str:
        """The command line that does something with the case of a file under the same conditions."""
        return self.setup.command(name, file)

    def entry(self, case: Case, finding: Finding) -> Entry:
        """A corpus entry for a finding made here and now.

        Where the bug was planted it is a guard: the kernels proper must pass, and planting it again finds it again.
        """
        record, seen = Record.of(finding), (self.sighting(),)
        if self.setup.faults:
            note = f"Found with {', '.join(self.setup.faults)} planted."
            return Entry(case=case, finding=record, status="guard", note=note, seen=seen)
        return Entry(case=case, finding=record, seen=seen)

    def sighting(self) -> Sighting:
        """The evidence of a finding made here and now."""
        facts = self.subject.facts
        date = dt.datetime.now(dt.UTC).date().isoformat()
        return Sighting(
            implementation=facts.name, device=facts.device, triton=facts.triton, torch=facts.torch, date=date
        )


def put_under_test(setup: Setup) -> "UnderTest[InProcess]":
    """Load an implementation, plant faults in it, and open a device, all in this process.

    Raises SetupError when one of them is not to be had.
    """
    from indexfuzz import implementations
    from indexfuzz.core.contract import Lifted
    from indexfuzz.devices import open_device
    from indexfuzz.devices.base import DeviceError
    from indexfuzz.implementations.base import ImplementationError
    from indexfuzz.implementations.faults import FaultError, plant
    from indexfuzz.subjects.in_process import InProcess

    spec, faults = setup.spec, setup.faults
    if faults and spec != DEFAULT_IMPLEMENTATION:
        raise SetupError(f"faults are planted in the built-in kernels only, not in {spec}; leave out one of the two")
    try:
        device = open_device(setup.device)
        implementation = plant(faults) if faults else implementations.load(spec)
    except (ImplementationError, FaultError, DeviceError) as error:
        raise SetupError(str(error)) from error
    if setup.beyond_contract:
        implementation = replace(implementation, contract=Lifted(implementation.contract))
    return UnderTest(InProcess(implementation, device), setup)
