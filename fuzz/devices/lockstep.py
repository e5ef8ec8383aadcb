"""The CPU: Triton kernels run in lockstep, all programs of a launch at once, under the memory checkers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from indexfuzz.core.finding import Finding, complaint
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices.base import Session
from indexfuzz.devices.simulated_dot import simulated_dot
from indexfuzz.lockstep import ALL_CHECKERS, Coverage, Lockstep, LockstepError, UnsupportedFeature
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.reference.arithmetic import DOT_UNITS, PRESETS, Arithmetic

ARITHMETIC = {
    "ieee": PRESETS["ieee"],
    "sm90": Arithmetic(DOT_UNITS["sm90-qgmma"], division="ieee", amax_division="ieee"),
    "cdna3": Arithmetic(DOT_UNITS["cdna3-fp8"], division="ieee", amax_division="ieee"),
}
"""What each model of tl.dot is judged by; scalar operations are IEEE in all of them."""

FORMATS = {"ieee": ("e4m3fn", "e4m3fnuz"), "sm90": ("e4m3fn",), "cdna3": ("e4m3fn", "e4m3fnuz")}
"""FP8 formats that each model of tl.dot takes."""


@dataclass
class LockstepSession:
    """One stage inside a Lockstep machine."""

    machine: Lockstep
    device: "LockstepDevice"
    _declared: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sees_unwritten(self) -> bool:
        """Of what is declared alone, whatever it is filled with."""
        return False

    def declare(self, name: str, tensor: Tensor, initialised: Tensor | bool) -> None:  # noqa: FBT001
        """Bound accesses to the tensor and track which of its bytes are defined."""
        self.machine.declare(name, tensor, initialised=initialised)
        self._declared[name] = tensor

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Kernels run where the tensors are."""
        return dict(tensors)

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing to take back."""
        return dict(outputs)

    def violations(self, views: Mapping[int, str]) -> list[Finding]:
        """The machine's violations, drained."""
        return [
            complaint(
                v.kind,
                v.argument or "",
                v.detail,
                location=f"{v.file}:{v.line}",
                view="" if v.address is None else views.get(v.address, ""),
                tensor=self._argument_at(v.address),
            )
            for v in self.machine.drain()
        ]

    def _argument_at(self, address: int | None) -> str:
        """The only argument of the stage that has memory there; empty where that is none, or several share it."""
        found = [name for name, tensor in self._declared.items() if address is not None and _spans(tensor, address)]
        return found[0] if len(found) == 1 else ""

    def guarantees(self, promises: Promises) -> Guarantees:
        """Those of the device, whose arithmetic is the same for every kernel."""
        return self.device.guarantees(promises)


def _spans(tensor: Tensor, address: int) -> bool:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > 0 and 0 <= address - tensor.data_ptr() <= last * tensor.element_size()


@dataclass(frozen=True)
class LockstepDevice:
    """`dot` chooses the arithmetic of tl.dot: ieee, sm90 or cdna3; `order` switches on the checker of that name."""

    dot: str = "ieee"
    order: bool = False
    coverage: Coverage | None = None
    recorder: Recorder | None = None
    torch_device: str = "cpu"
    home: str = "cpu"
    forks: bool = True
    rehearses: bool = True
    values_per_shape: int = 1
    repeats: int = 3
    unsupported: tuple[type[Exception], ...] = (UnsupportedFeature,)
    broken: tuple[type[Exception], ...] = (LockstepError,)

    @property
    def name(self) -> str:
        """lockstep, and behind a colon the matrix unit that it has the bits of, or the checker that is on only so."""
        if self.order:
            return "lockstep:order"
        return "lockstep" if self.dot == "ieee" else f"lockstep:{self.dot}"

    @property
    def formats(self) -> tuple[str, ...]:
        """FP8 formats that the matrix unit multiplies."""
        return FORMATS[self.dot]

    def probe(self) -> None:
        """A CPU always works."""

    def lacks_memory(self, error: Exception) -> bool:  # noqa: ARG002
        """Never: what takes all memory of a CPU is a finding about the kernel."""
        return False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Route kernel launches to the CPU executor."""
        checkers = (*ALL_CHECKERS, *(("order",) if self.order else ()))
        with Lockstep(self.dot, self.coverage, checkers, recorder=self.recorder) as machine:
            yield LockstepSession(machine, self)

    def guarantees(self, promises: Promises) -> Guarantees:
        """Scalar arithmetic is IEEE; the bits of a dot are known where it is a matrix unit's and of known shape."""
        if self.dot == "ieee" or promises.dot_rows is None:
            return Guarantees(promises, ARITHMETIC[self.dot])
        return Guarantees(promises, ARITHMETIC[self.dot], simulated_dot(self.dot, promises.dot_rows))
