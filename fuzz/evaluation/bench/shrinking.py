"""How small cases become, by the minimiser and by the plainest way, and what that takes of launches and of time."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.evaluation.bench.greedy import reduce_plainly
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.minimize import minimise
from indexfuzz.triage.order import DEFAULT, is_smaller
from indexfuzz.triage.reductions import reduce_until_stuck
from indexfuzz.triage.smallest import Smallest

SECONDS = 10.0
"""Of a core's time for each way; one that takes longer stops where it is."""


@dataclass(frozen=True)
class Size:
    """How large a case is for who reads it; of a session, what all its steps have. A single step has no `steps`."""

    steps: int
    tokens: int
    requests: int
    heads: int
    dims: int
    special: int
    """Fields that are not at their default, those of values included."""

    @classmethod
    def of(cls, case: Case) -> "Size":
        """The size of a case."""
        steps = case.session.steps
        tokens = sum(step.tokens for step in steps) or case.batch.tokens
        requests = len(case.session.requests) if steps else len(case.lengths)
        special = sum(getattr(getattr(case, part), name) != value for part, fields in DEFAULT for name, value in fields)
        return cls(len(steps), tokens, requests, case.model.num_heads, case.model.head_dim, special)


@dataclass(frozen=True)
class Shrunk:
    """What became of a case: its size, how many cases were asked about, seconds of a core, and whether it was done."""

    size: Size
    asked: int
    seconds: float
    is_done: bool


class Counting:
    """A subject that counts what it is asked."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self.asked = subject, 0
        self.facts, self.unrepeated, self.rehearses = subject.facts, subject.unrepeated, subject.rehearses
        self.narrow, self.rehearse = subject.narrow, subject.rehearse

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """As the subject does."""
        self.asked += 1
        return self._subject.run(case, only)

    def ask(self, case: Case, signature: Signature, only: frozenset[str] = frozenset()) -> Outcome:
        """As the subject does."""
        self.asked += 1
        return self._subject.ask(case, signature, only)


def shrink(
    case: Case, subject: Subject, signature: Signature, way: Callable[[Smallest], None]
) -> tuple[Case, Finding, Shrunk]:
    """Make a case small in one way, for at most SECONDS."""
    counting, is_done = Counting(subject), []

    def watched(smallest: Smallest) -> None:
        way(smallest)
        is_done.append(True)

    started = time.process_time()
    small, finding = minimise(case, counting, signature, seconds=SECONDS, reduce=watched, clock=time.process_time)
    seconds = round(time.process_time() - started, 2)
    return small, finding, Shrunk(Size.of(small), counting.asked, seconds, bool(is_done))


def measure_both(case: Case, subject: Subject, signature: Signature) -> tuple[Case, Finding, dict[str, Any]]:
    """The case as the minimiser makes it, the finding there, and what both ways come to."""
    small, finding, own = shrink(case, subject, signature, reduce_until_stuck)
    other, _, plain = shrink(case, subject, signature, reduce_plainly)
    order = "same" if small == other else "smaller" if is_smaller(small, other) else "larger"
    return (
        small,
        finding,
        {"found": asdict(Size.of(case)), "minimised": asdict(own), "plain": asdict(plain), "order": order},
    )


def tell(shrunk: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A section of Markdown about what both ways came to, for all cases that were found."""
    yield "## Making cases small"
    yield ""
    yield f"Of {len(shrunk)} cases that showed a bug, medians, and in brackets the largest. The plain way takes the"
    yield "first case that is one step smaller and shows the bug, one thing left out or one number lower, and starts"
    yield f"again; each way has {SECONDS:g} s of a core's time. Fields count that are not at their default."
    yield ""
    yield "| | as found | minimised | the plain way |"
    yield "| --- | --- | --- | --- |"
    for name in ("tokens", "requests", "heads", "dims", "special"):
        sizes = [[each["found"][name], *(each[way]["size"][name] for way in WAYS)] for each in shrunk]
        cells = (f"{statistics.median(column):g} ({max(column)})" for column in zip(*sizes, strict=True))
        yield f"| {'fields' if name == 'special' else name} | {' | '.join(cells)} |"
    for name, words in (("asked", "cases asked about"), ("seconds", "seconds of a core")):
        values = [[each[way][name] for way in WAYS] for each in shrunk]
        cells = (f"{statistics.median(column):g} ({max(column):g})" for column in zip(*values, strict=True))
        yield f"| {words} | | {' | '.join(cells)} |"
    done = (str(sum(each[way]["is_done"] for each in shrunk)) for way in WAYS)
    yield f"| came to its end | | {' | '.join(done)} |"
    yield ""
    counts = {order: sum(each["order"] == order for each in shrunk) for order in ("smaller", "same", "larger")}
    yield (
        f"By the order on cases the minimiser's is the smaller one {counts['smaller']} times, the same "
        f"{counts['same']} times, and the larger one {counts['larger']} times."
    )


WAYS = ("minimised", "plain")
