"""What a running campaign shows."""

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from indexfuzz.campaign.crew import Crew
from indexfuzz.campaign.events import CaseRun, Died, Event, Explained, Found, Seen, Unsupported
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest

LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal to redraw."""


class Progress:
    """Listens to a campaign: redraws a few lines on a terminal, prints a line now and then elsewhere."""

    def __init__(self, settings: Settings, target: UnderTest[Subject], console: Console) -> None:
        self._settings = settings
        self._target = target
        self._console = console
        redraws = console.file.isatty()  # FORCE_COLOR makes a pipe colourful, but nothing can be drawn again there
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if redraws else None
        self._cases = 0
        self._stages: Counter[str] = Counter()
        self._shrinking: list[Signature] = []
        self._found: set[Signature] = set()
        self._crew: Crew | None = None
        self._started = self._next_line = time.monotonic()

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
        if isinstance(event, CaseRun):
            if not self._cases:
                self._started = time.monotonic()
            self._cases += 1
            self._stages.update(event.outcome.stages)
        elif isinstance(event, Seen):
            self._shrinking.append(event.finding.signature)
            self._console.print(f"found {event.finding.signature}; making its case smaller", style="yellow")
        elif isinstance(event, Explained) and event.finding.signature in self._shrinking:
            self._shrinking.remove(event.finding.signature)
        elif isinstance(event, Explained):
            self._found.discard(event.finding.signature)
        elif isinstance(event, Found):
            self._shrinking.remove(event.seen_as or event.finding.signature)
            self._found.add(event.finding.signature)
        elif isinstance(event, Died):
            left_out = "; the case is left out from now on" if event.again else ""
            kept = f" while the case {event.file} ran" if event.file else ""
            self._console.print(f"{event.message}{kept}{left_out}", style="magenta")
        elif isinstance(event, Unsupported) and self._cases == 0:
            self._console.print(f"the device cannot run this: {event.message}", style="magenta")
        self.tick()

    def tick(self) -> None:
        """Print a line where it is time for one, whether or not anything was heard."""
        if self._live is None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._console.print("; ".join(self._lines()))

    def watch(self, crew: Crew) -> None:
        """Show what a crew is doing."""
        self._crew = crew
        crew.tick = self.tick

    def tell(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, style="yellow")

    def _lines(self) -> list[str]:
        seconds = time.monotonic() - self._started
        if not self._cases:
            return [f"{seconds:.0f} s, no case has run yet", *self._doing()]
        limit = f" of {self._settings.seconds:.0f}" if self._settings.seconds is not None else ""
        goal = f" of {self._settings.cases}" if self._settings.cases is not None else ""
        doing = f", shrinking {self._shrinking[0]}" if self._shrinking else ""
        rate = self._cases / seconds if seconds else 0.0
        found = "1 finding" if len(self._found) == 1 else f"{len(self._found)} findings"
        return [
            f"{seconds:.0f}{limit} s, {self._cases}{goal} cases, {rate:.1f} cases/s, {found}{doing}",
            "stages: " + (", ".join(f"{stage} {count}" for stage, count in self._stages.items()) or "none yet"),
            *self._doing(),
        ]

    def _doing(self) -> list[str]:
        return [self._crew.doing] if self._crew and self._crew.doing else []
