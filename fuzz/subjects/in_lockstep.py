"""Tell a bug of a compiler or a card from one of a kernel: the same case in lockstep, which compiles nothing."""

from dataclasses import replace

from indexfuzz.core.case import Case
from indexfuzz.core.setup import DEFAULT_DEVICE, Setup, SetupError
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.toolchain import describe_toolchain
from indexfuzz.subjects.isolation.errors import ChildError
from indexfuzz.subjects.isolation.isolated import SECONDS, Isolated


def tell_of_lockstep(setup: Setup, case: Case) -> str:
    """What lockstep makes of a case that showed something on another device, in words for the end of a finding.

    Empty where lockstep is that device, and where it cannot be asked.
    """
    if setup.device.startswith(DEFAULT_DEVICE):
        return ""
    try:
        with Isolated(
            replace(setup, device=DEFAULT_DEVICE), python=setup.python, seconds=setup.timeout or SECONDS
        ) as subject:
            findings = subject.run(case).findings
    except (SetupError, ChildError):
        return ""
    except UnsupportedKernelError as error:
        return f"lockstep cannot run the case: {error}"
    if findings:
        return f"in lockstep the case shows {findings[0].signature}"
    return f"the same case is clean in lockstep, so it may be a compiler's ({describe_toolchain()})"
