"""What an implementation under test is: functions for some stages, and what its project promises about them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Contract, Unlimited
from indexfuzz.core.guarantees import Promises
from indexfuzz.samples.kept import Kept, kept_by
from indexfuzz.samples.step import Step

StageFunction = Callable[..., Any]
"""A stage with the signature that kernels/ and reference/ share; see ARCHITECTURE.md for the seven of them."""


class ImplementationError(Exception):
    """An implementation cannot be had: a wrong name or path, a missing file. One sentence that says what to do."""


class MalformedResultError(Exception):
    """A stage returned something else than the tensors it promises."""


class WholeIndexer(Protocol):
    """All stages at once."""

    def __call__(self, step: Step) -> Tensor:
        """Select from the inputs of a step: the positions that each token attends to, int32 [T, index_topk].

        -1 stands beyond their number, and in all of a padding token. Positions count from the start of the token's own
        sequence. The keys of the step are in `step.tensors["cache"]` afterwards.
        """


@dataclass(frozen=True)
class KernelSource:
    """Lines of Python that define the function of a stage as `kernel`, and what must be installed for them."""

    code: str
    needs: str


@dataclass(frozen=True)
class Implementation:
    """A set of kernels under test. Stages it does not have are filled in by the reference.

    `forward` is all stages at once: it must select what the stages select one by one.
    `replaced` names the imports of executed files that got something else than the real thing; it grows where
    functions import as they run. `sources` names files, as linecache knows them, that its code lies in besides the
    modules of its functions. `source_of` gives the lines that define a stage's function for a case without the adapter,
    or None for a stage that cannot do without. `keeps` says of stateful operations how they want what they keep; those
    that it has not get rings.
    """

    name: str
    stages: Mapping[str, StageFunction]
    contract: Contract = field(default_factory=Unlimited)
    promises: Promises = field(default_factory=Promises)
    notes: tuple[str, ...] = ()
    replaced: Collection[str] = ()
    forward: WholeIndexer | None = None
    sources: Collection[str] = ()
    source_of: Callable[[str, Case], KernelSource | None] | None = None
    keeps: Mapping[str, Callable[[Case], Kept]] = field(default_factory=dict)

    def kept(self, case: Case) -> Kept:
        """What the operation that makes the keys of a session keeps, and how."""
        return self.keeps.get(case.session.node, kept_by)(case)


def fill(output: Tensor, result: Tensor) -> None:
    """Copy what a project returns into the output of a stage.

    Raises MalformedResultError where it has another shape.
    """
    if result.shape != output.shape:
        raise MalformedResultError(f"returned {list(result.shape)} instead of {list(output.shape)}")
    output.copy_(result)
