"""A subject in a process of its own: the same questions and answers, and findings for what kills that process."""

import os
import sys
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.subjects.isolation.child import Child
from indexfuzz.subjects.isolation.deaths import Death, is_of_death
from indexfuzz.subjects.isolation.errors import ChildError, DiedError
from indexfuzz.subjects.isolation.messages import to_facts, to_outcome

SECONDS = 120.0
"""How long a case may take unless the user says otherwise: long enough for a GPU's compilers and for a busy CPU."""

MOST_RUNS = 4
"""How often a worker may die of a case in ever different ways, or before any stage, until that is taken seriously."""

SHARE = 20
"""While the case of a hang is made smaller, it gets this share of the time of a case, or that many average cases."""


def memory_limit() -> int:
    """Bytes that a worker may hold: 8 GiB, or three quarters of the machine's memory where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(8 << 30, physical * 3 // 4)


class Isolated:
    """An implementation under an interpreter of its own, in a child process.

    A death of the process counts once it has happened twice with the same case, in the same stage and in the same way.
    The stage is to blame then, and the case runs once more without it. `unrepeated` tells of the other deaths.
    """

    def __init__(
        self, setup: Setup, *, python: str | None = None, seconds: float = SECONDS, memory: int | None = None
    ) -> None:
        """Load the implementation under the interpreter `python`; that, and a case, may take `seconds`, `memory` bytes.

        Raises SetupError when that does not work.
        """
        self._child = Child(setup, python or sys.executable, seconds, memory or memory_limit())
        self._seconds = seconds
        self._answered: list[float] = []
        self._was_late = False
        self.unrepeated: list[str] = []
        self.close = weakref.finalize(self, self._child.close)
        try:
            self.facts = to_facts(self._child.facts())
        except DiedError as error:
            raise SetupError(f"the implementation cannot be loaded: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def worker(self) -> int | None:
        """The process that runs cases now, if there is one."""
        return self._child.worker

    def narrow(self, case: Case) -> Case:
        """As few fields changed as it takes."""
        answer = self._answer(case, {"do": "narrow"}, self._seconds)
        if isinstance(answer, Death):
            raise ChildError(f"case {case.id}: {answer.story}, while it was brought inside the contract")
        return Case.parse(answer["case"])

    @property
    def rehearses(self) -> bool:
        """Not from here: what is under test is in another process."""
        return False

    def rehearse(self, case: Case, stages: Collection[str] = ()) -> Mapping[str, Sequence[Comparison]]:  # noqa: ARG002
        """Nothing is known."""
        return {}

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Put a case to all oracles; a stage that kills the process is left out when the case runs once more."""
        answer = self._answer(case, {"do": "run", "only": sorted(only)}, self._patience)
        if not isinstance(answer, Death):
            return to_outcome(answer["outcome"])
        self._blame(answer, case)
        rest = (only or frozenset(self.facts.stages)) - {answer.stage}
        outcome = self.run(case, rest) if rest and answer.stage in (only or self.facts.stages) else Outcome(case)
        outcome.findings.insert(0, answer.finding())
        outcome.stages.append(answer.stage)
        return outcome

    def ask(self, case: Case, signature: Signature, only: frozenset[str] = frozenset()) -> Outcome:
        """Put a case to the cheapest oracle that shows a signature; one of a death may come from any of them."""
        if not is_of_death(signature):
            question: dict[str, Any] = {"do": "ask", "signature": str(signature), "only": sorted(only)}
        else:
            question = {"do": "run", "only": sorted(only)}
        is_hang = signature.kind == "hang"
        answer = self._answer(case, question, self._patience_with_hangs if is_hang else self._patience, once=is_hang)
        if not isinstance(answer, Death):
            return to_outcome(answer["outcome"])
        self._blame(answer, case)
        return Outcome(case, [answer.finding()], [answer.stage])

    @property
    def _is_on_gpu(self) -> bool:
        """Whether kernels run beside the process that launches them, on memory that nobody guards."""
        return self.facts.torch_device != "cpu"

    @property
    def _patience(self) -> float:
        """Seconds that a case may take: all of them until one has taken longer, less since."""
        return (
            min(self._seconds, max(self._seconds / 6, 10 * max(self._answered, default=0.0)))
            if self._was_late
            else self._seconds
        )

    @property
    def _patience_with_hangs(self) -> float:
        """Seconds that a case may take while a hang is being made smaller."""
        average = sum(self._answered) / len(self._answered) if self._answered else 0.0
        return min(self._patience, max(self._seconds / SHARE, SHARE * average))

    def _answer(self, case: Case, question: dict[str, Any], seconds: float, *, once: bool = False) -> Any:
        """The answer, or the death that the case is to blame for.

        Where a GPU's kernels may have overwritten what IndexFuzz works with, an error of its own counts once it has
        happened twice.
        """
        deaths: list[Death] = []
        own_errors: list[ChildError] = []
        asked = question | {"case": case.model_dump(mode="json")}
        while True:
            started = time.monotonic()
            try:
                answer = self._child.answer(asked, seconds)
            except DiedError as error:
                deaths.append(error.death)
            except ChildError as error:
                if own_errors or not self._is_on_gpu:
                    raise
                own_errors.append(error)
                self._child.renew()
                continue
            else:
                self._note(case, deaths)
                self.unrepeated += [f"case {case.id}: IndexFuzz itself failed ({error})" for error in own_errors]
                if question["do"] != "narrow":
                    self._answered.append(time.monotonic() - started)
                return answer
            last = deaths[-1]
            same = [death for death in deaths if death.cause == last.cause]
            is_clear = last.stage and (self._is_our_slowness(last) or len(same) > 1)
            if once or is_clear or len(deaths) == MOST_RUNS:
                self._note(case, [death for death in deaths if death.cause != last.cause])
                return last

    def _note(self, case: Case, deaths: list[Death]) -> None:
        self.unrepeated += [f"case {case.id}: {death.story}" for death in deaths]

    def _is_our_slowness(self, death: Death) -> bool:
        """Whether no stage is to blame for being late; on a GPU, a kernel may run on behind a stage that has ended."""
        return not self._is_on_gpu and death.is_slowness(self.facts.whiles)

    def _blame(self, death: Death, case: Case) -> None:
        """Raise unless the stage is to blame for a death.

        Where it had not begun, or had ended long before, or lockstep would have come to its end, IndexFuzz itself is.
        """
        self._was_late |= death.how == "timeout"
        if not death.stage or death.how == "lost":
            raise ChildError(f"case {case.id}: {death.story}")
        is_our_memory = death.how == "memory" and not death.running and not self._is_on_gpu
        if is_our_memory or self._is_our_slowness(death):
            raise UnsupportedKernelError(f"too much for IndexFuzz itself, {death.story}")
