"""Where pointers come from: the storage and the kernel argument behind each lane."""

from dataclasses import dataclass

from indexfuzz.lockstep.values.memory import Allocation


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """The storage that pointers point into, the kernel argument that brought it, and that argument's first byte."""

    allocation: Allocation
    argument: str
    base: int = 0
