"""An implementation on a device, asked in this process."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.contract import Lifted
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.generation.constants import constants_in
from indexfuzz.generation.narrowing import narrow
from indexfuzz.generation.probing import break_one_clause
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.sources import source_texts, whiles_of
from indexfuzz.implementations.watching import watch, watching
from indexfuzz.lockstep import count_ordered, watch_ends
from indexfuzz.oracles import schedule
from indexfuzz.oracles.rehearsal import rehearse
from indexfuzz.subjects.subject import Facts


@dataclass(frozen=True)
class InProcess:
    """An implementation on a device, in this process: what kills it kills the fuzzer."""

    implementation: Implementation
    device: Device
    unrepeated: tuple[str, ...] = ()

    @cached_property
    def facts(self) -> Facts:
        """Read from the implementation, the device and this process."""
        return Facts(
            name=self.implementation.name,
            device=self.device.name,
            torch_device=self.device.torch_device,
            formats=self.device.formats,
            values_per_shape=self.device.values_per_shape,
            stages=tuple(self.implementation.stages),
            notes=(*self.implementation.notes, *_describe_replaced(self.implementation)),
            triton=version_of("triton"),
            torch=version_of("torch"),
            constants=constants_in(self._texts),
            whiles=whiles_of(self._texts),
            clauses=_clauses_beyond(self.implementation),
        )

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        return source_texts(self.implementation)

    def narrow(self, case: Case) -> Case:
        """As few fields changed as it takes."""
        return narrow(break_one_clause(case, self.implementation), self.implementation)

    @property
    def rehearses(self) -> bool:
        """As its device."""
        return self.device.rehearses

    def rehearse(self, case: Case, stages: Collection[str] = ()) -> Mapping[str, Sequence[Comparison]]:
        """Call launchers here."""
        watch(self._texts)
        return rehearse(self.narrow(case), self.implementation, self.device, stages)

    def run(self, case: Case, only: frozenset[str] = frozenset()) -> Outcome:
        """Run it here and now, and watch what the implementation and its kernels compare."""
        watch(self._texts)
        with self._tell_unsupported(), watching() as comparisons, watch_ends() as ends, count_ordered() as ordered:
            outcome = schedule.run(case, self.implementation, self.device, only)
        inside = (Comparison(*end.place, end.holds, end.left, end.right, inside=True) for end in ends)
        outcome.comparisons = [*comparisons, *(one for one in inside if one.file in self._texts)]
        outcome.ordered = dict(ordered)
        return outcome

    def ask(self, case: Case, signature: Signature, only: frozenset[str] = frozenset()) -> Outcome:
        """Run it here and now."""
        with self._tell_unsupported():
            return schedule.ask(case, self.implementation, self.device, signature, only)

    @contextmanager
    def _tell_unsupported(self) -> Iterator[None]:
        """Tell what the device cannot do, memory for the case's own tensors included, from what a kernel does wrong."""
        try:
            yield
        except Exception as error:
            if not self.device.lacks_memory(error):
                raise
            raise UnsupportedKernelError(f"{self.device.name}: not enough memory for the case") from error


def _clauses_beyond(implementation: Implementation) -> dict[str, list[str]]:
    """What cases may break, stage by stage."""
    contract = implementation.contract
    if not isinstance(contract, Lifted):
        return {}
    return {stage: contract.clauses_of(stage) for stage in implementation.stages}


def _describe_replaced(implementation: Implementation) -> tuple[str, ...]:
    count = len(implementation.replaced)
    return (f"{count} of its imports got something else; `indexfuzz impls NAME:PATH` lists them",) if count else ()


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
