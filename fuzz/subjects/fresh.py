"""Look again where nothing that ran before can matter."""

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.subjects.isolation.errors import ChildError
from indexfuzz.subjects.isolation.isolated import SECONDS, Isolated


def shows_in_fresh_process(setup: Setup, case: Case, signature: Signature) -> bool | None:
    """Whether a case shows a signature in a process that has run nothing else; None where none could look."""
    try:
        with Isolated(setup, python=setup.python, seconds=setup.timeout or SECONDS) as subject:
            findings = subject.ask(case, signature).findings
    except (SetupError, ChildError, UnsupportedKernelError):
        return None
    return any(finding.signature == signature for finding in findings)
