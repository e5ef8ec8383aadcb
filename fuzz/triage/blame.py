"""The line that a finding comes from, for those who must not be harmed by what it does: looked for in a copy."""

import os
from collections.abc import Callable

from indexfuzz.core.case import Case
from indexfuzz.core.forked import ForkedError, call_forked
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.looking import Seen, look_at

SECONDS = 60
"""CPU seconds for one launch that is written down, and for loading what is under test."""


def find_blamed(case: Case, signature: Signature, setup: Setup) -> str:
    """file:line of what a finding comes from; empty where none can be blamed."""
    return next(iter(_look_in_copy(case, signature, setup, lambda look: [look.place()])), "")


def tell_blamed(case: Case, signature: Signature, setup: Setup) -> list[str]:
    """The line that a finding comes from, with its values, in lines of text; none where none can be blamed."""
    return _look_in_copy(case, signature, setup, lambda look: look.sentences())


def _look_in_copy(
    case: Case,
    signature: Signature,
    setup: Setup,
    ask: Callable[[Seen], list[str]],
) -> list[str]:
    """What is asked of a look, which takes a copy of this process: what is under test may print and crash there.

    Nothing where kernels run elsewhere than on the CPU and under this interpreter.
    """
    if not setup.device.startswith("lockstep") or setup.python is not None:
        return []

    def look() -> list[str]:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        seen = look_at(case, signature, put_under_test(setup).subject)
        return ask(seen) if seen else []

    try:
        return call_forked(look, SECONDS) or []
    except ForkedError:
        return []
