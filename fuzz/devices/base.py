"""What a device is: a place where kernels run, and what it notices while they do."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices.tuning import Choice


class DeviceError(Exception):
    """A device cannot be used here. One sentence that says what to do."""


class CaptureError(Exception):
    """A function cannot be captured: it waits for the device, or asks the host for something between its launches."""


class UnsupportedKernelError(Exception):
    """The device cannot run this kernel; names the language feature and the source line."""


T = TypeVar("T")


class Session(Protocol):
    """The execution of one stage of one case."""

    @property
    def sees_unwritten(self) -> bool:
        """Whether reads of memory that nobody has written are seen, so that nobody may fill what is allocated."""

    def declare(self, name: str, tensor: Tensor, initialised: Tensor | bool) -> None:  # noqa: FBT001
        """Tell the device about a buffer, and which of its bytes are defined: all, none, or a bool for each."""

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that a launch gets in the place of some: the same ones, or copies where kernels run."""

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of a launch where the tensors were that were brought, which now hold what it has written to them."""

    def violations(self, views: Mapping[int, str]) -> list[Finding]:
        """What kernels did since the last call that no value shows: accesses out of bounds, races, overflows.

        `views` are the file:line where the launcher made views of its own, by the address of their first byte.
        """

    def guarantees(self, promises: Promises) -> Guarantees:
        """What the results of the kernels that ran in this session may be judged by."""


class MaskCoverage(Protocol):
    """Which masks and branches of the kernels' source were true, false and mixed, over everything that ran."""

    def clear(self) -> None:
        """Forget all of it."""

    def as_data(self) -> list[dict[str, Any]]:
        """File, line, kind, states seen and what is missing of every operation, as plain JSON data."""

    def report(self) -> str:
        """A count, and a table of what is missing."""

    def files(self) -> list[str]:
        """The source files of the kernels that ran."""

    def marks(self, file: str) -> dict[int, str]:
        """What was seen on the lines of a file, three letters each: T, F and M, or U."""

    def listing(self, file: str) -> str:
        """The source of a file, each line after what was seen on it."""


class Device(Protocol):
    """Where kernels run."""

    @property
    def name(self) -> str:
        """As the command line calls it."""

    @property
    def torch_device(self) -> str:
        """Where kernels find their tensors, as PyTorch calls it."""

    @property
    def home(self) -> str:
        """Where the tensors of a case live: there, or on the CPU, from where a session brings those of a launch."""

    @property
    def forks(self) -> bool:
        """Whether a process that has opened it may fork: not where a driver keeps a context. True of the class, too."""

    @property
    def rehearses(self) -> bool:
        """Whether launchers may be called without the kernels that they launch."""

    @property
    def formats(self) -> tuple[str, ...]:
        """FP8 formats that its kernels can handle: e4m3fn, e4m3fnuz."""

    @property
    def values_per_shape(self) -> int:
        """How many sets of values a drawn case is worth: more than one where its shape costs a compilation."""

    @property
    def repeats(self) -> int:
        """How many launches of the same must be the same: more where chance decides what runs first."""

    @property
    def unsupported(self) -> tuple[type[Exception], ...]:
        """What the device raises when it cannot execute a kernel at all."""

    @property
    def broken(self) -> tuple[type[Exception], ...]:
        """What the device raises when it is wrong itself; says nothing about a kernel, and is never caught."""

    def probe(self) -> None:
        """Look whether it still works; raises what its driver does once a kernel has left it unusable."""

    def lacks_memory(self, error: Exception) -> bool:
        """Whether an error says that the device has no room for a case, which is no fault of a kernel."""

    def session(self) -> AbstractContextManager[Session]:
        """Open the device for one stage; kernels launched inside run on it."""

    def guarantees(self, promises: Promises) -> Guarantees:
        """What any results may be judged by, whatever a kernel is compiled to here; a session knows more."""


@runtime_checkable
class Capturing(Protocol):
    """A device that can capture launches and replay them."""

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What a function returns when its launches are captured, and what replays them on the same memory.

        The function may be run before; what it writes then is undone by nobody. Raises CaptureError where it cannot be
        captured.
        """


@runtime_checkable
class Tuning(Device, Protocol):
    """A device on which launches can be made otherwise than launchers say."""

    def tuned(self, choice: Choice) -> Device:
        """The same device, with launches made by a choice."""


@runtime_checkable
class Concurrent(Device, Protocol):
    """A device that has more than one stream."""

    def run_beside(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """What functions return whose launches run at once, those of each on a stream of its own; all have ended."""
