"""A replayed launch looked at closely: what it makes, beside what a fresh launch makes of the same contents."""

from dataclasses import dataclass

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.lockstep.source.trace import Trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import replay
from indexfuzz.subjects.in_process import InProcess


@dataclass(frozen=True)
class ReplayLook:
    """An output of a launch that was captured with other contents: `wrong` where a fresh launch makes others."""

    finding: Finding
    wrong: Tensor
    moment: str = ""

    @property
    def recorder(self) -> Recorder:
        """Nothing of what kernels do in a graph is noted."""
        return Recorder()

    def trace(self) -> Trace | None:
        """No line of a kernel is to blame: what is stale was decided by its caller."""
        return None

    def place(self) -> str:
        """It is not known where."""
        return ""

    def sentences(self) -> list[str]:
        """Who is to blame."""
        return ["What the host made of the contents while the launch was captured is stale when it is replayed."]


def look_at_replay(case: Case, signature: Signature, subject: InProcess) -> ReplayLook | None:
    """Replay the stage of a finding again, which takes a device that captures; None where nothing shows."""
    seen = list[ReplayLook]()

    def note(finding: Finding, wrong: Tensor) -> None:
        if finding.signature == signature:
            seen.append(ReplayLook(finding, wrong.cpu()))

    replay.run(case, subject.implementation, subject.device, frozenset({signature.stage}), note)
    return seen[0] if seen else None
