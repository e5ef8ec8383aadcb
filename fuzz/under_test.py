"""What is put under test and where it runs, from the words that a user types."""

import datetime as dt
import shlex
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from indexfuzz.case import Case
from indexfuzz.corpus import Entry, Record, Sighting
from indexfuzz.finding import Finding

if TYPE_CHECKING:  # these import torch, and `indexfuzz --help` must not
    from indexfuzz.devices.base import Device
    from indexfuzz.implementations.base import Implementation

DEFAULT_IMPLEMENTATION = "builtin"
DEFAULT_DEVICE = "lockstep"


class SetupError(Exception):
    """What the user asked for cannot be put under test. One sentence that says why."""


@dataclass(frozen=True)
class UnderTest:
    """An implementation on a device, and the words that name both."""

    implementation: "Implementation"
    device: "Device"
    spec: str
    faults: tuple[str, ...] = ()

    def command(self, name: str, file: Path) -> str:
        """The command line that does something with the case of a file under the same conditions."""
        here = Path.cwd()
        words = ["indexfuzz", name, str(file.relative_to(here) if file.is_relative_to(here) else file)]
        if self.spec != DEFAULT_IMPLEMENTATION:
            words += ["--impl", self.spec]
        for fault in self.faults:
            words += ["--fault", fault]
        if self.device.name != DEFAULT_DEVICE:
            words += ["--device", self.device.name]
        return shlex.join(words)

    def entry(self, case: Case, finding: Finding) -> Entry:
        """A corpus entry for a finding made here and now.

        Where the bug was planted it is a guard: the kernels proper must pass, and planting it again finds it again.
        """
        record, seen = Record.of(finding), (self.sighting(),)
        if self.faults:
            note = f"Found with {', '.join(self.faults)} planted."
            return Entry(case=case, finding=record, status="guard", note=note, seen=seen)
        return Entry(case=case, finding=record, seen=seen)

    def sighting(self) -> Sighting:
        """The evidence of a finding made here and now."""
        return Sighting(
            implementation=self.implementation.name,
            device=self.device.name,
            triton=_version("triton"),
            torch=_version("torch"),
            date=dt.datetime.now(dt.UTC).date().isoformat(),
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def put_under_test(
    spec: str = DEFAULT_IMPLEMENTATION, device: str = DEFAULT_DEVICE, faults: tuple[str, ...] = ()
) -> UnderTest:
    """Load an implementation, plant faults in it, and open a device.

    Raises SetupError when one of them is not to be had.
    """
    from indexfuzz import implementations  # noqa: PLC0415 - imports torch
    from indexfuzz.devices import open_device  # noqa: PLC0415
    from indexfuzz.devices.base import DeviceError  # noqa: PLC0415
    from indexfuzz.faults import FaultError, plant  # noqa: PLC0415
    from indexfuzz.implementations.base import ImplementationError  # noqa: PLC0415

    if faults and spec != DEFAULT_IMPLEMENTATION:
        raise SetupError(f"faults are planted in the built-in kernels only, not in {spec}; leave out one of the two")
    try:
        opened = open_device(device)
        implementation = plant(faults) if faults else implementations.load(spec)
    except (ImplementationError, FaultError, DeviceError) as error:
        raise SetupError(str(error)) from error
    return UnderTest(implementation, opened, spec, faults)


def summary_line(finding: Finding) -> str:
    """A finding as one line: signature and detail."""
    return f"{finding.signature}: {finding.detail}"
