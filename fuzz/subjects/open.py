"""Open what a setup names, in this process or in one of its own."""

from typing import TYPE_CHECKING

from indexfuzz.core.setup import DEFAULT_DEVICE, Setup, SetupError
from indexfuzz.subjects.under_test import UnderTest, put_under_test

if TYPE_CHECKING:  # imports torch, and `indexfuzz --help` must not
    from indexfuzz.implementations.base import Implementation
    from indexfuzz.subjects.in_process import InProcess
    from indexfuzz.subjects.subject import Subject


def prepare(setup: Setup) -> "UnderTest[Subject]":
    """Put under test what the setup says, in this process or in one of its own.

    Raises SetupError when it is not to be had, or the words contradict each other.
    """
    if not setup.isolated:
        for word, value in (("--python", setup.python), ("--timeout", setup.timeout)):
            if value is not None:
                raise SetupError(f"{word} needs a process of its own; use it with --isolate")
        return put_under_test(setup)
    from indexfuzz.subjects.isolation.isolated import SECONDS, Isolated

    return UnderTest(Isolated(setup, python=setup.python, seconds=setup.timeout or SECONDS), setup)


def open_subject(implementation: "str | Implementation", device: str = DEFAULT_DEVICE) -> "InProcess":
    """An implementation on a device, in this process: `open_subject("module:my_kernels").run(case).findings`.

    `implementation` is one, or names one as after --impl; `device` is named as after --device. Raises
    ImplementationError where it cannot be had or tested, DeviceError where the device is not there.
    """
    from indexfuzz.devices import open_device
    from indexfuzz.implementations import load
    from indexfuzz.implementations.validation import validate
    from indexfuzz.subjects.in_process import InProcess

    if isinstance(implementation, str):
        implementation = load(implementation)
    validate(implementation)
    return InProcess(implementation, open_device(device))
