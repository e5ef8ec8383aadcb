"""What a machine of a fleet does: run one slice, and put what it finds into the shared folder while it runs."""

import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from indexfuzz import __version__
from indexfuzz.campaign.events import CaseRun, Event, Explained, Found, Seen
from indexfuzz.campaign.keeping import Keeper
from indexfuzz.campaign.log import RunLog
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary
from indexfuzz.core import interrupts
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.store import Corpus
from indexfuzz.devices.base import DeviceError
from indexfuzz.fleet.shared import Shared, SharedError
from indexfuzz.fleet.slices import NAME_OF_LOG, Order, Result, Slice
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.subjects.fresh import shows_in_fresh_process
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.open import prepare
from indexfuzz.subjects.reaching import reached_beside_masks, reaching
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest


def run_slice(order: Order, part: Slice) -> Result:
    """Run a slice in this process. SIGINT and SIGTERM end it soon, with everything in the shared folder.

    Raises SharedError where that cannot be written to in the end.
    """
    nothing = partial(Result, part.number, platform.node())
    if order.version != __version__:
        return nothing(error=f"it has IndexFuzz {__version__}, the fleet was started by {order.version}")
    try:
        with interrupts.listening(), tempfile.TemporaryDirectory(prefix="indexfuzz-slice-") as folder:
            return _Run(order, part, Path(folder)).run()
    except interrupts.Interrupted as interrupted:
        return nothing(interrupted=interrupted.number)
    except (SetupError, ImplementationError) as error:
        return nothing(error=str(error))


class _Run:
    """A campaign whose findings are copied to the shared folder."""

    def __init__(self, order: Order, part: Slice, folder: Path) -> None:
        torch.set_num_threads(1)
        self._order = order
        self._part = part
        self._folder = folder
        self._notes: list[str] = []
        self._outbox = Outbox(Corpus(folder / "corpus"), Shared(order.url), order.folder(part.number))
        self._target = _open(order.setup)
        self._keeper = Keeper(self._target.entry, folder / "corpus", self._notes.append)
        self._reached: set[str] = set()

    def run(self) -> Result:
        """Run it."""
        settings, path = self._settings(), self._folder / NAME_OF_LOG
        with RunLog(path, self._notes.append) as log:
            log.start_of(settings, 1, self._folder / "corpus")
            summary = Campaign(settings, partial(self._hear, log.hear)).run()
            log.end(summary)
        self._outbox.deliver()
        self._outbox.shared.upload(path, f"{self._outbox.folder}/{NAME_OF_LOG}")
        return self._result(summary)

    def _settings(self) -> Settings:
        subject, order = self._target.subject, self._order
        known = (Signature.parse(shown) for name, shown in self._part.known if name == subject.facts.name)
        return Settings(
            subject,
            only=order.only,
            preset=PRESETS[order.preset] if order.preset else None,
            values=self._part.values,
            seconds=order.seconds,
            cases=order.cases,
            seed=order.seed,
            shard=(self._part.number, order.slices),
            known=frozenset(known),
            confirm=partial(shows_in_fresh_process, order.setup),
        )

    def _hear(self, log: Callable[[Event], None], event: Event) -> None:
        self._keeper.hear(event)
        log(event)
        if isinstance(event, CaseRun):
            self._reached |= event.outcome.reached or set(reached_beside_masks(event.outcome))
        elif isinstance(event, Seen | Found | Explained):
            with suppress(SharedError):  # at the end it has to work
                self._outbox.deliver()

    def _result(self, summary: Summary) -> Result:
        return Result(
            self._part.number,
            platform.node(),
            implementation=self._target.subject.facts.name,
            cases=summary.cases,
            seconds=round(summary.seconds, 3),
            stages=summary.stages.total(),
            signatures=tuple(str(found.finding.signature) for found in summary.findings),
            reached=frozenset(self._reached) - self._part.reached,
            notes=(*self._notes, *(f"the device cannot run this: {what}" for what in list(summary.unsupported)[:1])),
            interrupted=summary.interrupted,
        )


class Outbox:
    """Keeps a folder of the shared one the same as a corpus of this machine."""

    def __init__(self, corpus: Corpus, shared: Shared, folder: str) -> None:
        self._corpus = corpus
        self._sent: dict[str, bytes] = {}
        self.shared = shared
        self.folder = folder

    def deliver(self) -> None:
        """Write what is new or has changed, then remove what gave way.

        Raises SharedError.
        """
        there = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in self._corpus.files()}
        for name, content in there.items():
            if self._sent.get(name) != content:
                self.shared.write(f"{self.folder}/corpus/{name}", content)
                self._sent[name] = content
        for name in self._sent.keys() - there.keys():
            self.shared.remove(f"{self.folder}/corpus/{name}")
            del self._sent[name]


def _open(setup: Setup) -> UnderTest[Subject]:
    """Put the setup under test, telling of masks and branches where that can be seen.

    Raises SetupError.
    """
    target = prepare(setup)
    if isinstance(target.subject, InProcess):
        with suppress(DeviceError):
            return UnderTest(reaching(target.subject), setup)
    return target
