"""What a running campaign shows, and the one place where it saves what it finds."""

import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from indexfuzz.campaign.events import CaseRun, Event, Found, Shrinking, Unsupported
from indexfuzz.campaign.settings import Settings
from indexfuzz.cli.common import InputError
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.store import save
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest

LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal to redraw."""


class FirstFinding(KeyboardInterrupt):
    """Ends a campaign in the way that Ctrl-C does: at once, with a summary."""


class Progress:
    """Listens to a campaign: redraws a few lines on a terminal, prints a line now and then elsewhere.

    `saved` maps the signatures found to the files written. With `first_only` the first finding ends the campaign, and
    `stopped_itself` says so.
    """

    def __init__(
        self, settings: Settings, target: UnderTest[Subject], folder: Path, console: Console, *, first_only: bool
    ) -> None:
        self._settings = settings
        self._target = target
        self._folder = folder
        self._console = console
        self._first_only = first_only
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._cases = 0
        self._stages: Counter[str] = Counter()
        self._shrinking = ""
        self._started = self._next_line = time.monotonic()
        self.saved: dict[Signature, Path] = {}
        self.stopped_itself = False

    def __enter__(self) -> Self:
        index, of = self._settings.shard
        shard = f", shard {index} of {of}" if of > 1 else ""
        facts = self._target.subject.facts
        self._console.print(f"fuzzing {facts.name} on {facts.device}, seed {self._settings.seed}{shard}")
        if self._target.setup.python:
            self._console.print(f"  {self._target.setup.python}: torch {facts.torch}, triton {facts.triton}")
        for note in facts.notes:
            self._console.print(f"  {note}")
        self._started = time.monotonic()
        self._next_line = self._started + LINE_SECONDS
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __rich__(self) -> Group:
        """The lines that a terminal shows."""
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines()))

    def listen(self, event: Event) -> None:
        """Take note of one event of the campaign."""
        if isinstance(event, CaseRun) and not self._shrinking:
            self._cases += 1
            self._stages.update(event.outcome.stages)
        elif isinstance(event, Shrinking):
            self._shrinking = str(event.finding.signature)
            self._console.print(f"found {event.finding.signature}; making its case smaller", style="yellow")
        elif isinstance(event, Found):
            self._shrinking = ""
            self._keep(event)
        elif isinstance(event, Unsupported) and self._cases == 0:
            self._console.print(f"the device cannot run this: {event.message}", style="magenta")
        if self._live is None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._console.print("; ".join(self._lines()))

    def tell(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, style="yellow")

    def _keep(self, found: Found) -> None:
        """Save a finding, and end the campaign if that was all it should do."""
        entry = self._target.entry(found.case, found.finding)
        try:
            self.saved[found.finding.signature] = save(entry, self._folder)
        except OSError as error:
            raise InputError(f"cannot write to {error.filename or self._folder}: {error.strerror}") from error
        if self._first_only:
            self.stopped_itself = True
            raise FirstFinding

    def _lines(self) -> list[str]:
        seconds = time.monotonic() - self._started
        limit = f" of {self._settings.seconds:.0f}" if self._settings.seconds is not None else ""
        goal = f" of {self._settings.cases}" if self._settings.cases is not None else ""
        doing = f", shrinking {self._shrinking}" if self._shrinking else ""
        rate = self._cases / seconds if seconds else 0.0
        found = "1 finding" if len(self.saved) == 1 else f"{len(self.saved)} findings"
        return [
            f"{seconds:.0f}{limit} s, {self._cases}{goal} cases, {rate:.1f} cases/s, {found}{doing}",
            "stages: " + (", ".join(f"{stage} {count}" for stage, count in self._stages.items()) or "none yet"),
        ]
