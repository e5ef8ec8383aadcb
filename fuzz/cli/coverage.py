"""Mask coverage of a campaign: switching it on, and a listing of the kernels' source."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexfuzz.cli.common import InputError, in_this_process
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.under_test import UnderTest

if TYPE_CHECKING:
    from indexfuzz.devices.base import MaskCoverage
    from indexfuzz.subjects.in_process import InProcess
    from indexfuzz.subjects.reaching import Reaching

LEGEND = """\
T, F, M: in some program the mask was all true (the branch taken), all false (skipped), mixed; - : never; U: no mask.
! : one of them was never seen.
"""


def covering(setup: Setup) -> "tuple[UnderTest[InProcess], MaskCoverage]":
    """What the options name, in this process, and what accumulates its coverage.

    Raises SetupError, and InputError where masks cannot be seen.
    """
    if setup.isolate or setup.python:
        raise InputError("--coverage sees the masks of this process only; leave out --isolate and --python")
    target = in_this_process(setup)
    from indexfuzz import devices
    from indexfuzz.devices.base import DeviceError

    try:
        device, coverage = devices.covering(target.subject.device)
    except DeviceError as error:
        raise InputError(f"--coverage: {error}") from None
    return replace(target, subject=replace(target.subject, device=device)), coverage


def reaching_target(setup: Setup) -> "UnderTest[Reaching]":
    """What the options name, in this process, saying what each case reaches.

    Raises SetupError, and InputError where that cannot be seen.
    """
    target = in_this_process(setup)
    from indexfuzz.devices.base import DeviceError
    from indexfuzz.subjects.reaching import reaching

    try:
        return UnderTest(reaching(target.subject), target.setup)
    except DeviceError as error:
        raise InputError(str(error)) from None


def write_listing(coverage: "MaskCoverage", path: Path) -> None:
    """Write the source of every kernel that ran, each line after what was seen on it.

    Raises InputError where the file cannot be written.
    """
    parts = [LEGEND, *(f"{file}\n{coverage.listing(file)}\n" for file in coverage.files())]
    try:
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--coverage-listing: {error}") from None
