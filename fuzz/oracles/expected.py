"""How a stage may end on a case, by what the contract says."""

from dataclasses import dataclass
from typing import Self

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Contract, beyond
from indexfuzz.core.tracebacks import origin_of

REFUSALS = (ValueError, AssertionError, NotImplementedError)
"""How code says that it does not handle a case, where nobody promises how."""


@dataclass(frozen=True)
class Expected:
    """What a contract says about a stage and a case.

    `outside`: why it has to be rejected with ValueError. `broken`: the clause of a lifted contract that it breaks;
    refusing it in any clean way is fine.
    """

    outside: str
    broken: str

    @classmethod
    def of(cls, contract: Contract, stage: str, case: Case) -> Self:
        """Both sentences; empty where they do not apply."""
        return cls(contract.outside(stage, case) or "", beyond(contract, stage, case))

    def includes(self, error: Exception) -> bool:
        """Whether an exception is how a case should end, by itself or inside what a tool made of it."""
        if self.outside:
            return isinstance(error, ValueError)
        return bool(self.broken) and isinstance(origin_of(error), REFUSALS)
