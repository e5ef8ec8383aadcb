"""What the fuzz targets test, and how they do it. The pytest plugin says what; without it, the defaults hold.

Targets take no fixtures, so that other drivers of Hypothesis tests can run them, and nothing here touches a GPU or
imports a kernel before the first case runs.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import HealthCheck, seed, settings

from indexfuzz.core.case import Case
from indexfuzz.core.finding import error_for
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.store import known_signatures
from indexfuzz.subjects.open import prepare
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.testing.options import Options, present

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

CASES_PER_SECOND = 100
"""More than any device runs, and few enough that drawing the rest after the time is over takes no time."""


@dataclass
class _Clock:
    """Measures --fuzz-seconds, for each target from its first case on."""

    started: float | None = None
    has_failed: bool = False

    def is_over(self, seconds: float | None) -> bool:
        """Whether the time of a target is over; never while Hypothesis shrinks a failure."""
        if self.started is None:
            self.started = time.monotonic()
        return seconds is not None and not self.has_failed and time.monotonic() - self.started > seconds


def under_test() -> UnderTest[Subject]:
    """What the options name, opened once.

    Raises SetupError when it is not to be had.
    """
    return _opened(present())


@cache
def _opened(options: Options) -> UnderTest[Subject]:
    torch.set_num_threads(1)
    return prepare(
        Setup(options.implementation, options.device, options.faults, options.beyond_contract, options.isolate)
    )


def known() -> frozenset[Signature]:
    """The signatures of open findings of what is under test, from the corpus; they do not raise."""
    return _known(present())


@cache
def _known(options: Options) -> frozenset[Signature]:
    return known_signatures(options.corpus, _opened(options).subject.facts.name)


def target(test: Callable[..., None]) -> Callable[..., None]:
    """Let a Hypothesis test take its time, and give it the seed of its shard and as many cases as its time allows."""
    options = present()
    most = settings().max_examples if options.seconds is None else max(1, int(options.seconds * CASES_PER_SECOND))
    test = settings(max_examples=most, deadline=None, print_blob=False, suppress_health_check=SLOW_IS_FINE)(test)
    index, of = options.shard
    if of > 1:
        test = seed(zlib.crc32(f"{test.__name__} {index}/{of}".encode()))(test)
    return test


_clocks: dict[frozenset[str], _Clock] = {}

failing: dict[Signature, Case] = {}
"""Signature -> the case that raised it last: once Hypothesis is done, the smallest one it found."""


def check(case: Case, only: frozenset[str] = frozenset()) -> None:
    """Run a case on what is under test; `only` names the stages to take from it, all of them when empty.

    A case outside the contract is brought inside first; one in a format that the device has not is left out.

    Raises the exception of its signature for the first finding that the corpus does not know.
    """
    options = present()
    clock = _clocks.setdefault(only, _Clock())
    if clock.is_over(options.seconds):
        return
    subject = under_test().subject
    if case.model.fp8 not in subject.facts.formats:
        return
    case = subject.narrowed(case)
    outcome = subject.run(case, only)
    for finding in outcome.findings:
        if finding.signature not in known():
            clock.has_failed = True
            failing[finding.signature] = case
            raise error_for(finding)
