"""How a worker ended that should not have, and the finding that follows."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.core.tracebacks import TOOLS

MOST_QUOTED = 200
FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in ', re.MULTILINE)
DUMP = re.compile(r"^(Fatal Python error: |Current thread 0x|Stack \(most recent)", re.MULTILINE)
"""How what faulthandler writes begins."""
END = re.compile(r'^  (File ".*bootstrap\.py", line \d+ in <module>|\.\.\.)$', re.MULTILINE)
"""How it ends: with the outermost frame of the child, or where it leaves out the rest."""


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


def last_words(errors: str) -> str:
    """The last line on standard error that is not Python's own report of the death."""
    dump = DUMP.search(errors)
    lines = [line.strip() for line in errors[: dump.start() if dump else None].splitlines()]
    return next((line for line in reversed(lines) if line), "")


def has_whole_report(errors: str) -> bool:
    """Whether Python's report of where the process was is there, to its end."""
    dump = DUMP.search(errors)
    return dump is not None and END.search(errors, dump.start()) is not None


def location(errors: str) -> str:
    """file:line of the innermost frame of somebody's kernel or launcher, from Python's report; else empty."""
    dump = DUMP.search(errors)
    for file, line in FRAME.findall(errors[dump.start() :] if dump else ""):
        path = Path(file)
        if path.parts[-2:] == ("isolation", "worker.py"):
            break
        is_of_python = any(part.startswith("python3") for part in path.parts) and "site-packages" not in path.parts
        if not file.startswith("<frozen ") and not is_of_python and not set(path.parts[:-1]).intersection(TOOLS):
            return f"{file}:{line}"
    return ""
