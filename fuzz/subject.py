"""A subject: what is under test, ready to be asked about cases. Whoever asks need not know in which process it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from indexfuzz import oracles
from indexfuzz.case import Case
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation
from indexfuzz.narrowing import narrowed
from indexfuzz.outcome import Outcome


@dataclass(frozen=True)
class Facts:
    """What there is to know about a subject before it is asked anything.

    `formats` and `values_per_shape` are those of its device, `triton` and `torch` the versions that it runs on.
    """

    name: str
    device: str
    formats: tuple[str, ...]
    values_per_shape: int
    stages: tuple[str, ...]
    notes: tuple[str, ...]
    triton: str
    torch: str


class Subject(Protocol):
    """What is under test."""

    @property
    def facts(self) -> Facts:
        """Its name, its device, its stages."""

    @property
    def unrepeated(self) -> Sequence[str]:
        """Deaths of its process that did not happen again with the same case, a sentence each."""

    def narrowed(self, case: Case) -> Case:
        """The case, brought inside the implementation's contract."""

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Put a case to all oracles; `only` names the stages to take from the implementation, all when empty.

        Raises ImplementationError when the implementation turns out to be incomplete, and UnsupportedKernelError when
        the device cannot execute a kernel or lacks the FP8 format; that says nothing about the kernel.
        """

    def ask(self, case: Case, signature: str) -> Outcome:
        """Put a case to the cheapest oracle that shows a signature.

        Raises the same as `run`.
        """


@dataclass(frozen=True)
class InProcess:
    """An implementation on a device, in this process: what kills it kills the fuzzer."""

    implementation: Implementation
    device: Device
    unrepeated: tuple[str, ...] = ()

    @property
    def facts(self) -> Facts:
        """Read from the implementation, the device and this process."""
        return Facts(
            name=self.implementation.name,
            device=self.device.name,
            formats=self.device.formats,
            values_per_shape=self.device.values_per_shape,
            stages=tuple(self.implementation.stages),
            notes=(*self.implementation.notes, *_replaced(self.implementation)),
            triton=version_of("triton"),
            torch=version_of("torch"),
        )

    def narrowed(self, case: Case) -> Case:
        """As few fields changed as it takes."""
        return narrowed(case, self.implementation)

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Run it here and now."""
        with self._supported():
            return oracles.run(case, self.implementation, self.device, only)

    def ask(self, case: Case, signature: str) -> Outcome:
        """Run it here and now."""
        with self._supported():
            return oracles.about(signature)(case, self.implementation, self.device, frozenset())

    @contextmanager
    def _supported(self) -> Iterator[None]:
        """Tell what the device cannot do, memory for the case's own tensors included, from what a kernel does wrong."""
        try:
            yield
        except Exception as error:
            if not self.device.lacks_memory(error):
                raise
            raise UnsupportedKernelError(f"{self.device.name}: not enough memory for the case") from error


def _replaced(implementation: Implementation) -> tuple[str, ...]:
    count = len(implementation.replaced)
    return (f"{count} of its imports got something else; `indexfuzz impls NAME:PATH` lists them",) if count else ()


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
