"""Contracts as data: a table of clauses, each with the place in a project's own code that it was read from."""

from collections.abc import Callable
from dataclasses import dataclass

from indexfuzz.case import Case
from indexfuzz.implementations.base import Contract


@dataclass(frozen=True)
class Clause:
    """One promise about some stages: they handle the cases for which `holds` is true.

    `sentence` says what is promised ("block_size is 1 or 64"), `place` where a reader finds it: file, and line or
    function.
    """

    stages: tuple[str, ...]
    holds: Callable[[Case], bool]
    sentence: str
    place: str

    def __str__(self) -> str:
        return f"{self.sentence} ({self.place})"


@dataclass(frozen=True)
class Clauses:
    """The contract of code that checks little: a case outside is undefined, whatever happens to it."""

    clauses: tuple[Clause, ...] = ()

    def broken(self, stage: str, case: Case) -> list[str]:
        """All clauses that a case breaks, with their places."""
        return [str(clause) for clause in self.clauses if stage in clause.stages and not clause.holds(case)]

    def outside(self, stage: str, case: Case) -> str | None:
        """The first clause that a case breaks, with its place."""
        return next(iter(self.broken(stage, case)), None)

    def must_reject(self, stage: str, case: Case) -> bool:  # noqa: ARG002
        """Never: nobody promises to check."""
        return False


_STRIDED = {"k_fp8": ("gather", "prefill_logits"), "q_fp8": ("prefill_logits", "paged_logits"),
            "q_weights": ("prefill_logits", "paged_logits"), "logits": ("prefill_logits", "paged_logits", "topk"),
            "angles": ("rope",)}  # fmt: skip
"""Tensors whose rows may be strided -> the stages that take them."""

_FAR = {name: stages for name, stages in _STRIDED.items() if name != "angles"} | {
    "q": ("rope", "q_quant"), "k": ("rope", "k_quant_cache"), "weights": ("q_quant",),
    "table": ("gather", "paged_logits"),
}  # fmt: skip
"""Tensors whose rows may lie far apart -> the stages that take them."""


def as_callers_do(place: str) -> tuple[Clause, ...]:
    """What every engine's callers, found at `place`, keep to: their kernels promise nothing else unless they say so."""

    def is_dense(name: str) -> Callable[[Case], bool]:
        return lambda case: not getattr(case.memory, f"{name}_pad")

    def is_near(name: str) -> Callable[[Case], bool]:
        return lambda case: case.memory.far != name

    return (
        *(Clause(stages, is_dense(name), f"{name} is dense", place) for name, stages in _STRIDED.items()),
        *(Clause(stages, is_near(name), f"the rows of {name} are not 2^31 elements apart", place)
          for name, stages in _FAR.items()),
        Clause(("gather", "paged_logits"), lambda case: not case.memory.missing_pages,
               "a block table has every page of a context", place),
        Clause(("gather",), lambda case: not case.batch.gather_holes, "no padding lies between gathered keys", place),
        Clause(("gather",), lambda case: not case.batch.gather_pad or case.batch.pad_seq == "minus-one",
               "gathered padding belongs to sequence -1", place),
        Clause(("prefill_logits",), lambda case: not case.batch.long_windows, "windows end at the last key", place),
    )  # fmt: skip


@dataclass(frozen=True)
class Checked(Clauses):
    """The contract of code that promises to reject with ValueError whatever it does not handle."""

    def must_reject(self, stage: str, case: Case) -> bool:
        """A launcher that accepts what it cannot do is a bug."""
        return self.outside(stage, case) is not None


@dataclass(frozen=True)
class Lifted:
    """Another contract, lifted: no case is outside, and `broken` remembers why it would have been.

    What has to be rejected still has to be.
    """

    contract: Contract

    def outside(self, stage: str, case: Case) -> str | None:
        """Only what has to be rejected."""
        return self.contract.outside(stage, case) if self.must_reject(stage, case) else None

    def must_reject(self, stage: str, case: Case) -> bool:
        """As the contract says."""
        return self.contract.must_reject(stage, case)

    def broken(self, stage: str, case: Case) -> str:
        """The clauses that a case breaks although it runs; empty where it breaks none."""
        if self.must_reject(stage, case):
            return ""
        if isinstance(self.contract, Clauses):
            return "; ".join(self.contract.broken(stage, case))
        return self.contract.outside(stage, case) or ""


def covers(contract: Contract, stage: str, case: Case) -> bool:
    """Whether a contract, lifted or not, says that a stage handles a case."""
    return contract.outside(stage, case) is None and not beyond(contract, stage, case)


def beyond(contract: Contract, stage: str, case: Case) -> str:
    """What a case that runs breaks of a contract: something only where the contract is lifted."""
    return contract.broken(stage, case) if isinstance(contract, Lifted) else ""
