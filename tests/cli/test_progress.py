"""What a running campaign shows where there is no terminal."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from indexfuzz.campaign.crew import Alone
from indexfuzz.campaign.events import CaseRun
from indexfuzz.cli import progress as progress_module
from indexfuzz.cli.progress import LINE_SECONDS, Progress
from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome


@pytest.fixture
def shown(monkeypatch):
    """-> a clock, to be set, the progress of a campaign, and the lines that it has printed since the first."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    facts = SimpleNamespace(name="toy", device="lockstep", notes=())
    target = SimpleNamespace(subject=SimpleNamespace(facts=facts), setup=SimpleNamespace(python=None))
    settings = SimpleNamespace(shard=(1, 1), seed=7, seconds=60.0, cases=None)
    text = StringIO()
    with Progress(settings, target, Console(file=text, width=200, force_terminal=False)) as progress:
        text.truncate(0)
        text.seek(0)
        yield clock, progress, lambda: text.getvalue().splitlines()


def test_a_line_is_printed_now_and_then(shown):
    clock, progress, lines = shown
    for now in (1.0, 2.0, LINE_SECONDS + 1, LINE_SECONDS + 2):
        clock.now = now
        progress.listen(CaseRun(Outcome(Case(), stages=["gather"])))
    (line,) = lines()
    assert line == "10 of 60 s, 3 cases, 0.3 cases/s, 0 findings; stages: gather 3"


def test_a_line_is_printed_while_nothing_is_heard(shown):
    clock, progress, lines = shown
    crew = Alone(None)
    progress.watch(crew)
    for now in (1.0, LINE_SECONDS + 1, LINE_SECONDS + 2, 2 * LINE_SECONDS + 2):
        clock.now = now
        crew.tick()
    assert lines() == ["11 s, no case has run yet", "22 s, no case has run yet"]
