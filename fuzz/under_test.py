"""What is put under test and where it runs, from the words that a user types."""

import datetime as dt
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from indexfuzz.case import Case
from indexfuzz.corpus import Entry, Record, Sighting
from indexfuzz.finding import Finding

if TYPE_CHECKING:  # these import torch, and `indexfuzz --help` must not
    from indexfuzz.subject import InProcess, Subject

DEFAULT_IMPLEMENTATION = "builtin"
DEFAULT_DEVICE = "lockstep"

SubjectT_co = TypeVar("SubjectT_co", bound="Subject", covariant=True)


class SetupError(Exception):
    """What the user asked for cannot be put under test. One sentence that says why."""


@dataclass(frozen=True)
class Setup:
    """What a user wants under test, in the words of the command line.

    `isolate` is None where the user left it open, `python` is another interpreter, `timeout` in seconds per case.
    """

    spec: str = DEFAULT_IMPLEMENTATION
    device: str = DEFAULT_DEVICE
    faults: tuple[str, ...] = ()
    beyond_contract: bool = False
    isolate: bool | None = None
    python: str | None = None
    timeout: float | None = None

    @property
    def isolated(self) -> bool:
        """Whether the implementation runs in a process of its own: unless told otherwise, code that is not ours."""
        return self._isolated_anyway if self.isolate is None else self.isolate

    @property
    def _isolated_anyway(self) -> bool:
        return self.python is not None or self.spec != DEFAULT_IMPLEMENTATION

    def command(self, name: str, file: Path) -> str:
        """The command line that does something with the case of a file under the same conditions."""
        here = Path.cwd()
        words = ["indexfuzz", name, str(file.relative_to(here) if file.is_relative_to(here) else file)]
        if self.spec != DEFAULT_IMPLEMENTATION:
            words += ["--impl", self.spec]
        for fault in self.faults:
            words += ["--fault", fault]
        if self.device != DEFAULT_DEVICE:
            words += ["--device", self.device]
        if self.isolated != self._isolated_anyway:
            words += ["--isolate" if self.isolated else "--no-isolate"]
        if self.python:
            words += ["--python", self.python]
        if self.timeout:
            words += ["--timeout", f"{self.timeout:g}"]
        if self.beyond_contract:
            words += ["--beyond-contract"]
        return shlex.join(words)


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
    from indexfuzz import implementations  # noqa: PLC0415 - imports torch
    from indexfuzz.devices import open_device  # noqa: PLC0415
    from indexfuzz.devices.base import DeviceError  # noqa: PLC0415
    from indexfuzz.faults import FaultError, plant  # noqa: PLC0415
    from indexfuzz.implementations.base import ImplementationError  # noqa: PLC0415
    from indexfuzz.implementations.contracts import Lifted  # noqa: PLC0415
    from indexfuzz.subject import InProcess  # noqa: PLC0415

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


def prepare(setup: Setup) -> "UnderTest[Subject]":
    """Put under test what the setup says, in this process or in one of its own.

    Raises SetupError when it is not to be had, or the words contradict each other.
    """
    if not setup.isolated:
        for word, value in (("--python", setup.python), ("--timeout", setup.timeout)):
            if value is not None:
                raise SetupError(f"{word} needs a process of its own; use it with --isolate")
        return put_under_test(setup)
    from indexfuzz.isolation.isolated import SECONDS, Isolated  # noqa: PLC0415 - imports torch

    return UnderTest(Isolated(setup, python=setup.python, seconds=setup.timeout or SECONDS), setup)


def summary_line(finding: Finding) -> str:
    """A finding as one line: signature, detail, and whether the contract covers it."""
    return f"{finding.signature}: {finding.detail} ({finding.promise})"
