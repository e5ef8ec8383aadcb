"""The loop: let Hypothesis draw cases, run them, and make what fails small.

Hypothesis runs in chunks with seeds of their own, derived from the campaign's seed and shard. A new signature raises,
so Hypothesis shrinks it through the very function that found it; the minimiser goes on from there. Known signatures
are counted and do not raise: an open shallow bug must not hide a deep one.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky

from indexfuzz.campaign.events import CaseRun, Event, Found, Known, Shrinking, Unsupported
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, FindingError, error_for
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import derive
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.generation.strategies import cases
from indexfuzz.oracles.mistakes import Mistakes
from indexfuzz.triage.minimize import NotFailingError, minimise

CHUNK = 500
SHRINK_SECONDS = 1.5
"""How long Hypothesis may shrink before the minimiser takes over; not at all where every step is a hang."""


@dataclass
class Summary:
    """What a campaign did: counters by stage and signature, the largest error per stage as a share of its bound.

    `beyond` counts how stages ended beyond their contract: clause -> stage -> ending. `symptoms` are the other
    signatures under which the mistake of a finding was seen. `unrepeated` tells of deaths of
    an isolated process that did not happen again with the same case.
    """

    cases: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    findings: list[Found] = field(default_factory=list)
    known: Counter[Signature] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    unrepeated: list[str] = field(default_factory=list)
    beyond: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    symptoms: dict[Signature, list[Signature]] = field(default_factory=dict)
    interrupted: bool = False


class _EndOfChunk(BaseException):
    """Leaves Hypothesis at once; no Exception, so that it is not taken for a failure."""


class Campaign:
    """One worker's loop over chunks."""

    def __init__(self, wanted: Settings, listen: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._listen = listen
        self._mistakes = Mistakes(wanted.known)
        self._ran: set[str] = set()
        self._broken: Exception | None = None
        self._smallest: dict[Signature, tuple[Finding, Case]] = {}
        self._shrink_until = 0.0
        self._started = time.monotonic()
        self.summary = Summary()

    def run(self) -> Summary:
        """Draw chunks until time or cases are used up, or somebody interrupts."""
        chunk = 0
        try:
            while not self._is_over():
                self._run_chunk(chunk)
                self._conclude()
                chunk += 1
        except KeyboardInterrupt:
            self.summary.interrupted = True
        self.summary.seconds = time.monotonic() - self._started
        signatures = [found.finding.signature for found in self.summary.findings]
        self.summary.symptoms = {signature: self._mistakes.symptoms_of(signature) for signature in signatures}
        self.summary.unrepeated = list(self._wanted.subject.unrepeated)
        return self.summary

    def _is_over(self) -> bool:
        wanted, elapsed = self._wanted, time.monotonic() - self._started
        enough_time = wanted.seconds is not None and elapsed >= wanted.seconds
        return enough_time or (wanted.cases is not None and self.summary.cases >= wanted.cases)

    def _run_chunk(self, chunk: int) -> None:
        index, of = self._wanted.shard
        chunk_seed = derive(self._wanted.seed, f"shard {index}/{of} chunk {chunk}")
        quiet = settings(
            max_examples=CHUNK,
            database=None,
            deadline=None,
            derandomize=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=tuple(HealthCheck),
            print_blob=False,
        )
        wanted = self._wanted
        strategy = cases(preset=wanted.preset, values=wanted.values, formats=wanted.subject.facts.formats)
        test = seed(chunk_seed)(quiet(given(strategy)(self._try)))
        try:
            test()
        except (FindingError, Flaky):
            pass
        except BaseExceptionGroup as error:
            if error.split((FindingError, Flaky))[1]:
                raise
        except _EndOfChunk:
            if self._broken:
                raise self._broken from None

    def _try(self, drawn: Case) -> None:
        """Run a drawn case and its variants; raise for a new signature."""
        subject = self._wanted.subject
        with self._unless_broken():
            narrowed = subject.narrowed(drawn)
        for case in _variants(narrowed, subject.facts.values_per_shape):
            self._try_one(case)

    @contextmanager
    def _unless_broken(self) -> Iterator[None]:
        """Leave Hypothesis for an error that is no failure of the case: it must neither shrink it nor call it flaky."""
        try:
            yield
        except UnsupportedKernelError:
            raise
        except Exception as error:
            self._broken = error
            raise _EndOfChunk from error

    def _try_one(self, case: Case) -> None:
        """Run one case that has not run yet; raise for a new signature."""
        if self._smallest and time.monotonic() > self._shrink_until:
            raise _EndOfChunk
        if not self._smallest and self._is_over():
            raise _EndOfChunk
        wanted = self._wanted
        if not self._smallest and case.id in self._ran:
            return
        self._ran.add(case.id)
        try:
            with self._unless_broken():
                outcome = wanted.subject.run(case, wanted.only)
        except UnsupportedKernelError as error:
            self.summary.unsupported[str(error)] += 1
            self._listen(Unsupported(str(error)))
            return
        if not self._smallest:
            self._count(outcome)
        self._listen(CaseRun(outcome))
        new = next((finding for finding in outcome.findings if finding.signature in self._smallest), None)
        for finding in outcome.findings:
            if self._mistakes.explain(finding, outcome.findings) is None:
                new = new or finding
                if new is finding:
                    self._add(finding)
            elif finding.signature not in self._smallest:
                self.summary.known[finding.signature] += 1
                self._listen(Known(finding, case))
        if new:
            if new.signature not in self._smallest:
                self._shrink_until = time.monotonic() + (SHRINK_SECONDS if new.kind != "hang" else 0.0)
                self._listen(Shrinking(new, case))
            self._smallest[new.signature] = (new, case)
            raise error_for(new)

    def _add(self, finding: Finding) -> None:
        """Take a finding for a mistake of its own; what it explains need not be made smaller any more."""
        symptoms = self._mistakes.add(finding)
        for symptom in symptoms:
            self._smallest.pop(symptom, None)
        self.summary.findings = [found for found in self.summary.findings if found.finding.signature not in symptoms]

    def _count(self, outcome: Outcome) -> None:
        self.summary.cases += 1
        self.summary.stages.update(outcome.stages)
        self.summary.outside.update(outcome.outside.keys())
        for clause, stage, ending in outcome.endings():
            self.summary.beyond.setdefault(clause, {}).setdefault(stage, Counter())[ending] += 1
        for stage, ratio in outcome.ratios.items():
            tiers = self.summary.ratios.setdefault(stage, {})
            tier = outcome.tiers[stage]
            tiers[tier] = max(tiers.get(tier, 0.0), ratio)

    def _conclude(self) -> None:
        """Minimise and report what the chunk found."""
        for signature, (finding, case) in list(self._smallest.items()):
            found = self._minimised(finding, case)
            if found.finding.signature != signature:
                self._mistakes.add(found.finding)
            self.summary.findings.append(found)
            self._listen(found)
        self._smallest.clear()

    def _minimised(self, finding: Finding, case: Case) -> Found:
        wanted = self._wanted
        try:
            small, last = minimise(case, wanted.subject, finding.signature, seconds=wanted.minimise_seconds)
        except NotFailingError:
            detail = f"seen once, and not again on the same case: {finding.detail}"
            return Found(replace(finding, kind="nondeterministic", detail=detail), case)
        return Found(last, small)


def _variants(case: Case, count: int) -> Iterator[Case]:
    """The case, and the same with other values until there are `count`."""
    yield case
    for number in range(1, count):
        yield case.replace(values={"seed": derive(case.values.seed, f"variant {number}")})


def run(wanted: Settings, listen: Callable[[Event], None] = lambda _event: None) -> Summary:
    """Run a campaign in this process, telling `listen` about every case."""
    return Campaign(wanted, listen).run()
