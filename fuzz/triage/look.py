"""A launch looked at closely: the line that a finding comes from, with the values that its names had there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import StageFunction
from indexfuzz.lockstep.source.search import Doing, find_store, find_stray, find_violation, has_stored
from indexfuzz.lockstep.source.sharing import Sharing, find_sharing
from indexfuzz.lockstep.source.trace import Suspect, Trace, trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.places import Places, span_of
from indexfuzz.triage.culprit import Culprit, find_last_return, find_return, tell_launch

MISPLACED = frozenset({"layout-mismatch", "guard-write"})
"""Kinds of findings in which bytes lie where they do not belong."""

RIVAL_LINES = 2
"""Lines that are told of another program, which does the same as the first one."""


@dataclass(frozen=True)
class Look:
    """A launch of the stage that a finding is about.

    given are the arguments as they were before, call as they are after, got the outputs. changed are the inputs that
    were written to, as they were left; call has them as they were. finding is what was seen of it this time. written
    says which bytes of the arguments hold something. moment is when it was launched, empty where a case has one step.
    """

    stage: Stage
    case: Case
    given: Call
    call: Call
    got: Mapping[str, Tensor]
    finding: Finding
    recorder: Recorder
    guarantees: Guarantees
    function: StageFunction
    device: LockstepDevice
    changed: Mapping[str, Tensor]
    written: Mapping[str, Tensor | bool]
    moment: str = ""

    def trace(self) -> Trace | None:
        """The line that did it, with its values; None where no line of a kernel can be blamed."""
        doing = self.doing()
        return trace(*doing, Places(self.call, self.got), self._suspect(doing)) if doing else None

    def _suspect(self, doing: Doing) -> Suspect:
        """What is wrong: the value that a store puts where it should, else the place or the mask."""
        there = self._store_there()
        is_there = there is not None and there.moment is doing.moment and has_stored(doing)
        return "value" if is_there and self.finding.kind not in MISPLACED else "place"

    def place(self) -> str:
        """file:line of the line that is told: of a kernel, else of Python that raised or returned it; else empty."""
        told = self.trace()
        if told is not None:
            return f"{told.lines[0].file}:{told.lines[0].line}"
        return self.finding.location or (self._returned.place if self._returned else "")

    def doing(self) -> Doing | None:
        """The access that the finding comes from; None where no line of a kernel can be blamed."""
        if found := next(self._rivals(), None) or self._violation():
            return found
        if found := self._store_there():
            return found
        footprint = self.stage.footprint(self.call)
        if footprint is None:
            return None
        cache = self.call.tensors["cache"]
        expected = np.zeros(span_of(cache), np.bool_)
        np.lib.stride_tricks.as_strided(expected, cache.shape, cache.stride())[...] = footprint.numpy()
        storage = cache.untyped_storage().data_ptr()
        return find_stray(self.recorder, storage, cache.data_ptr(), expected)

    def _store_there(self) -> Doing | None:
        """The store that the first wrong element comes from, or that would have made it."""
        place = self.stage.locate(self.call, self.got, self.finding.output, self.finding.index)
        return find_store(self.recorder, place[0].data_ptr() + place[1]) if place else None

    @cached_property
    def sharing(self) -> Sharing | None:
        """The bytes that programs fight for; None of any other finding than a race."""
        found = self._violation() if self.finding.kind == "race" else None
        return find_sharing(self.recorder, found) if found else None

    def _violation(self) -> Doing | None:
        """What lockstep reported, where the finding is its."""
        file, _, line = self.finding.location.rpartition(":")
        if not line.isdigit():
            return None
        return find_violation(self.recorder, self.finding.kind, self.finding.output, file, int(line))

    def _rivals(self) -> Iterator[Doing]:
        """The accesses that fight for the first byte of a race, those of its line first."""
        if self.sharing is None:
            return
        blamed = self.finding.location
        rivals = [each for each in self.sharing.at(self.sharing.first) if each.moment.frames]
        sites = [each.moment.frames[0].site for each in rivals]
        order = sorted(range(len(rivals)), key=lambda i: f"{sites[i].file}:{sites[i].line}" != blamed)
        yield from (rivals[i] for i in order)

    def wanted(self) -> Mapping[str, Tensor]:
        """What the reference makes of the same arguments; nothing where it defines no result."""
        try:
            return self.given.copy().run(self.stage.reference)
        except ValueError:
            return {}

    def sentences(self) -> list[str]:
        """When it was, and the trace in lines, or what can be said where no line can be blamed."""
        told = self.trace()
        when = [f"It shows in {self.moment}."] if self.moment else []
        if told is None:
            return [*when, *self._without_a_line()]
        return [*when, *told.sentences(), *self._of_the_rival(), *self._launched_by(told)]

    def _launched_by(self, told: Trace) -> Iterator[str]:
        """The lines that launched the kernel, and what they passed for names that are told: that may be wrong."""
        names = {name for line in told.lines for name, _ in line.values}
        launches = [each for each in self.recorder.launches if each.kernel == told.kernel]
        callers = (islice(tell_launch(each, names), 1, None) for each in launches)
        lines = [*dict.fromkeys(line for each in callers for line in each)]
        yield from ["Launched by:", *lines] if lines else []

    def _of_the_rival(self) -> Iterator[str]:
        """The line with which another program fights for the same byte, with its values there."""
        for rival in islice(self._rivals(), 1, 2):
            if told := trace(*rival, Places(self.call, self.got)):
                yield "And for the same byte:"
                yield from replace(told, lines=told.lines[:RIVAL_LINES]).sentences()

    def _without_a_line(self) -> Iterator[str]:
        for name in self._handed_back():
            yield f"What is returned as {self.finding.output} is the argument {name} itself."
            if self._returned is not None and self.recorder.launches:
                yield from self._returned.lines()
        if not self.recorder.launches:
            yield "No Triton kernel ran here: this comes from Python code alone."
            if self._returned is not None:
                yield from self._returned.lines()
        elif self.finding.index:
            yield "No kernel stores to the first wrong element. What ran, and the lines that called it:"
            yield from dict.fromkeys(line for each in self.recorder.launches for line in tell_launch(each))

    def _handed_back(self) -> Iterator[str]:
        """The arguments that are themselves what was returned, though nothing has filled them."""
        output = self.got.get(self.finding.output)
        if output is not None:
            tensors = self.call.tensors.items()
            yield from (
                name for name, each in tensors if name not in self.call.fills and each.data_ptr() == output.data_ptr()
            )

    @cached_property
    def _returned(self) -> Culprit | None:
        """The statement that returns what is wrong, where Python alone makes it, or hands back an argument."""
        if self.finding.location:
            return None
        output = self.got.get(self.finding.output)
        if not self.recorder.launches:
            return find_return(self.function, lambda: self.given.copy().run(self.function), output)
        if output is None or not any(self._handed_back()):
            return None
        return find_last_return(self._run_again, output)

    def _run_again(self) -> None:
        with self.device.session():
            self.given.copy().run(self.function)


def numbers_of(finding: Finding) -> tuple[str, ...]:
    """The first wrong element of a finding in lines; none where it has no such."""
    place = [f"first wrong: {finding.output}{list(finding.index)}"] if finding.index else []
    numbers = [f"is {finding.got}, must be {finding.want}"] if finding.got else []
    return (*place, *numbers)
