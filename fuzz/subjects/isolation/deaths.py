"""How a worker ended that should not have, and the finding that follows."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.isolation.reports import is_counting, last_words, location

MOST_QUOTED = 200


@dataclass(frozen=True)
class Death:
    """The end of a worker.

    `how` is the name of a signal, exit-CODE, timeout, memory, output-flood, poisoned-gpu, garbled or lost; `words` say
    it in a sentence that the stage follows. `stage` ran last, and was still running or not; it is empty when none had
    run. `beyond` is the clause of its contract that the case breaks, `errors` the end of what was on standard error.
    """

    how: str
    words: str
    stage: str = ""
    running: bool = False
    beyond: str = ""
    errors: str = ""

    @property
    def kind(self) -> Literal["hang", "crash"]:
        """The kind of finding."""
        return "hang" if self.how == "timeout" else "crash"

    def is_slowness(self, whiles: Mapping[str, Sequence[Sequence[int]]]) -> bool:
        """Whether there was no answer in time because lockstep takes longer, not because a stage never ends.

        `whiles` has the first and last lines of what may never end, by file.
        """
        return self.how == "timeout" and (not self.running or is_counting(self.errors, whiles))

    @property
    def cause(self) -> tuple[str, str, bool]:
        """What two deaths share that have the same cause."""
        return self.how, self.stage, self.running

    @property
    def story(self) -> str:
        """What happened, in one sentence."""
        if not self.stage:
            return f"{self.words} before any stage had run"
        return f"{self.words} while {self.stage} ran" if self.running else f"{self.words} after {self.stage} had run"

    def finding(self) -> Finding:
        """The finding, for a death that a stage is to blame for."""
        said = last_words(self.errors)
        quoted = f"; last on standard error: {said[:MOST_QUOTED]!r}" if said else ""
        detail, where = self.story + quoted, location(self.errors)
        return Finding(self.stage, self.kind, self.how, detail, location=where, beyond=self.beyond)


def is_of_death(signature: Signature) -> bool:
    """Whether a signature is one that only a death has."""
    deadly = ("SIG", "exit-", "memory", "output-flood", "poisoned-gpu", "garbled")
    return signature.kind == "hang" or (signature.kind == "crash" and signature.output.startswith(deadly))


def of_status(status: int) -> Death:
    """The death of a worker that ended by itself; `status` is minus a signal, or an exit code."""
    if status >= 0:
        return Death(f"exit-{status}", f"the process ended itself with exit code {status}")
    try:
        name, text = signal.Signals(-status).name, signal.strsignal(-status)
    except ValueError:
        name, text = f"SIG{-status}", None
    return Death(name, f"the process died of {name}" + (f" ({text})" if text else ""))
