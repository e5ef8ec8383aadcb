"""Look at a finding: what shows it runs once more in lockstep, with all that its kernels did written down."""

from collections.abc import Callable
from dataclasses import replace

from indexfuzz.core.case import Case
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.lockstep import LockstepError
from indexfuzz.oracles import composition, next_step, replay, schedules
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.lens import Lens
from indexfuzz.triage.look import Look
from indexfuzz.triage.replayed import ReplayLook, look_at_replay
from indexfuzz.triage.twin import ScheduleLook, look_at_schedules
from indexfuzz.triage.whole import WholeLook, look_at_whole

Seen = Look | WholeLook | ScheduleLook | ReplayLook
"""What may be seen of a finding."""

OF_SEVERAL: dict[str, Callable[[Lens, InProcess], Seen | None]] = {
    composition.KIND: lambda lens, _: look_at_whole(lens),
    next_step.KIND: lambda lens, _: look_at_whole(lens),
    schedules.KIND: lambda lens, _: look_at_schedules(lens),
    replay.KIND: lambda lens, subject: look_at_replay(lens.case, lens.signature, subject),
}
"""Kinds that are about several launches -> how to look at them."""


def look_at(case: Case, signature: Signature, subject: InProcess) -> Seen | None:
    """Run the stage of a finding again, on inputs that the reference makes, and keep what its kernels do.

    Of a session, its launches of the stage one after the other, until one shows something; of another schedule, those
    of both; of the whole indexer, a launch beside those of its stages, behind another step if that is what it takes;
    of a replay, what the device of the subject replays; of any other relation, the first launch of those that it
    compares which is wrong by itself. None where the finding does not show there: it needs other inputs, other
    launches, or another device.
    """
    kind = signature.kind
    if signature.stage not in subject.implementation.stages:
        return None
    own = subject.device if isinstance(subject.device, LockstepDevice) else LockstepDevice()
    lens = Lens(case, signature, subject.implementation, replace(own, coverage=None))
    try:
        if kind in OF_SEVERAL:
            return OF_SEVERAL[kind](lens, subject)
        if signature.relation:
            return lens.in_step() or lens.in_twin()
        return lens.in_session() if case.session.steps else lens.in_step()
    except (UnsupportedKernelError, ImplementationError, LockstepError, ValueError, LookupError):
        return None


def tell(case: Case, signature: Signature, subject: InProcess) -> list[str]:
    """The line that a finding comes from, with its values, in lines of text; none where it does not show that way."""
    found = look_at(case, signature, subject)
    return found.sentences() if found else []
