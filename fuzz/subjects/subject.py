"""A subject: what is under test, ready to be asked about cases. Whoever asks need not know in which process it runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature


@dataclass(frozen=True)
class Facts:
    """What there is to know about a subject before it is asked anything.

    `torch_device`, `formats` and `values_per_shape` are those of its device, `triton` and `torch` the
    versions that it runs on. `constants` are the integers in its source, those that it compares with first.
    `whiles` are the first and last lines of its `while` loops, by file as tracebacks name it.
    `clauses` are those of its contract that cases may break, by stage; empty unless the contract is lifted.
    """

    name: str
    device: str
    torch_device: str
    formats: tuple[str, ...]
    values_per_shape: int
    stages: tuple[str, ...]
    notes: tuple[str, ...]
    triton: str
    torch: str
    constants: tuple[int, ...] = ()
    whiles: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    clauses: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Subject(Protocol):
    """What is under test."""

    @property
    def facts(self) -> Facts:
        """Its name, its device, its stages."""

    @property
    def unrepeated(self) -> Sequence[str]:
        """Deaths of its process that did not happen again with the same case, a sentence each."""

    def narrow(self, case: Case) -> Case:
        """The case, brought inside the implementation's contract."""

    @property
    def rehearses(self) -> bool:
        """Whether it can be asked what it would compare in a case, in a copy of this process."""

    def rehearse(self, case: Case, stages: Collection[str] = ()) -> Mapping[str, Sequence[Comparison]]:
        """What the launchers of some stages, or all and the whole indexer, would compare in a case; no kernel runs.

        A process that has rehearsed must run nothing afterwards.
        """

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Put a case to all oracles; `only` names the stages to take from the implementation, all when empty.

        Raises ImplementationError when the implementation turns out to be incomplete, and UnsupportedKernelError when
        the device cannot execute a kernel or lacks the FP8 format; that says nothing about the kernel.
        """

    def ask(self, case: Case, signature: Signature, only: frozenset[str] = frozenset()) -> Outcome:
        """Put a case to the cheapest oracle that shows a signature; `only` as in `run`.

        Raises the same as `run`.
        """
