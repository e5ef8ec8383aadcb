"""What became of the launches of a program: which kernels ran, which were refused and why, what they did wrong."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from indexfuzz.lockstep.tracking.coverage import Coverage
from indexfuzz.lockstep.tracking.violations import Violation

RAN, REFUSED, FAILED, BROKE = "ran", "refused", "failed", "broke"
"""What a launch can come to: the end, a missing feature, an error of the kernel, an error of lockstep itself."""


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """One launch: kernel, file:line of its definition, arguments in words, outcome, and why it did not run.

    test is what launched it, where somebody said so; violations are its own, and told says of each of them, in lines
    of text, which values led to it; empty where that is not known. is_ordered says that the checker `order` looked at
    all that its programs did.
    """

    kernel: str
    place: str
    arguments: str
    outcome: str
    reason: str = ""
    test: str = ""
    violations: tuple[Violation, ...] = ()
    told: tuple[str, ...] = ()
    is_ordered: bool = False

    def as_data(self) -> dict[str, Any]:
        """The launch as plain JSON data."""
        return asdict(self) | {"violations": [v.as_data() for v in self.violations]}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "LaunchRecord":
        """A launch from such data."""
        found = tuple(Violation.from_data(v) for v in data["violations"])
        return cls(**{**data, "violations": found, "told": tuple(data["told"])})


@dataclass(slots=True)
class Record:
    """All launches of a program, and the mask coverage of its kernels."""

    launches: list[LaunchRecord] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def violations(self) -> list[Violation]:
        """Every violation once, in the order of the launches."""
        return list(dict.fromkeys(v for launch in self.launches for v in launch.violations))

    @property
    def kernels(self) -> dict[tuple[str, str], Counter[str]]:
        """How often each kernel came to which outcome, by name and place."""
        found: dict[tuple[str, str], Counter[str]] = {}
        for launch in self.launches:
            found.setdefault((launch.kernel, launch.place), Counter())[launch.outcome] += 1
        return found

    def reasons(self, outcome: str) -> Counter[tuple[str, str]]:
        """(kernel, reason) of the launches that came to an outcome, and how many there were."""
        return Counter((launch.kernel, launch.reason) for launch in self.launches if launch.outcome == outcome)

    def as_data(self) -> dict[str, Any]:
        """The record as plain JSON data."""
        kernels = [
            {"kernel": kernel, "place": place, "launches": dict(outcomes)}
            for (kernel, place), outcomes in sorted(self.kernels.items())
        ]
        launches = [launch.as_data() for launch in self.launches]
        return {"kernels": kernels, "launches": launches, "coverage": self.coverage.as_data()}

    def add_data(self, data: dict[str, Any]) -> None:
        """Add what another process recorded."""
        self.launches += [LaunchRecord.from_data(launch) for launch in data["launches"]]
        self.coverage.add_data(data["coverage"])


def describe_arguments(names: Iterable[str], args: Iterable[Any], kwargs: dict[str, Any]) -> str:
    """A launch's arguments as one line: `x=float32[4, 100], n=100, BLOCK=128`."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return ", ".join(f"{name}={_describe(value)}" for name, value in given.items())


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        dims = ", ".join(map(str, value.shape))
        strided = "" if value.is_contiguous() else f" strides {list(value.stride())}"
        return f"{str(value.dtype).removeprefix('torch.')}[{dims}]{strided}"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_describe, value))})"
    return str(getattr(value, "__name__", type(value).__name__))
