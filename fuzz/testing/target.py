"""What makes a Hypothesis test a fuzz target: `target` gives it time, `check` runs its cases.

Nothing here touches a GPU or imports a kernel before the first case runs.
"""

from collections.abc import Callable
from math import ceil

from hypothesis import HealthCheck, settings

from indexfuzz.core.case import Case
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.testing.session import current_session

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

CASES_PER_SECOND = 1000
"""More than any device runs: it is the time that ends a target."""

MARK = "indexfuzz_target"
"""The attribute by which the plugin knows a target."""


def target(test: Callable[..., None]) -> Callable[..., None]:
    """Let a Hypothesis test take its time: as many cases as --fuzz-seconds allow, or its part of Hypothesis's number.

    Where workers of pytest-xdist run, each has a part of the target, with cases of its own.
    """
    options = current_session().options
    if options.seconds is None:
        most = ceil(settings().max_examples / options.workers)
    else:
        most = max(1, int(options.seconds * CASES_PER_SECOND))
    test = settings(max_examples=most, deadline=None, print_blob=False, suppress_health_check=SLOW_IS_FINE)(test)
    setattr(test, MARK, True)
    return test


def check(case: Case, only: frozenset[str] = frozenset()) -> None:
    """Run a case on what is under test; `only` names the stages to take from it, all of them when empty.

    A case outside the contract is brought inside first; one that the device cannot run is left out.

    A finding that the corpus does not know is kept there. In pytest it fails the test at the end, with all others;
    elsewhere the exception of its signature is raised at once.
    """
    session = current_session()
    run = session.run
    run.raise_if_over()
    subject = session.under_test.subject
    if case.model.fp8 not in subject.facts.formats:
        return
    case = subject.narrow(case)
    try:
        outcome = subject.run(case, only)
    except UnsupportedKernelError as error:  # it says nothing about the kernel
        run.unsupported[str(error)] += 1
        return
    run.note(outcome)
