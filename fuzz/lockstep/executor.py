"""The executor as its users see it: a context manager that takes every Triton launch to the CPU."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from indexfuzz.lockstep.arguments import Arguments
from indexfuzz.lockstep.arithmetic.matrix_units import MODELS
from indexfuzz.lockstep.language.helpers import RUNTIME
from indexfuzz.lockstep.launch import execute
from indexfuzz.lockstep.tracking.attribution import is_own
from indexfuzz.lockstep.tracking.checks import ALL_CHECKERS, Checks
from indexfuzz.lockstep.tracking.coverage import Coverage
from indexfuzz.lockstep.tracking.ends import Ends
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.lockstep.tracking.recall import Recall
from indexfuzz.lockstep.tracking.violations import KernelError, LockstepError, UnsupportedFeature, Violation
from indexfuzz.lockstep.triton_api.functions import location_of
from indexfuzz.lockstep.triton_api.routing import CONFIGS, route_launches
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.buffers import Buffer, describe_buffer
from indexfuzz.lockstep.values.heap import keep_freed_memory


class Lockstep:
    """Runs the Triton kernels that are launched inside its `with` block, on CPU tensors.

    dot names the arithmetic of tl.dot ("ieee", "sm90", "cdna3"); checkers lists the checkers that are on; coverage,
    where given, accumulates mask coverage; configs says which configurations of an autotuned kernel run, the "first" or
    "all", of which the first has the last word; recorder, where given, keeps what variables held. Raises ValueError for
    an unknown name.
    """

    def __init__(
        self,
        dot: str = "ieee",
        coverage: Coverage | None = None,
        checkers: Iterable[str] = ALL_CHECKERS,
        configs: str = CONFIGS[0],
        recorder: Recorder | None = None,
    ) -> None:
        if dot not in MODELS:
            raise ValueError(f"unknown matrix unit {dot!r}; there are {', '.join(MODELS)}")
        if configs not in CONFIGS:
            raise ValueError(f"unknown choice of configurations {configs!r}; there are {', '.join(CONFIGS)}")
        keep_freed_memory()
        self.violations: list[Violation] = []
        self.coverage = coverage
        self.recorder = recorder
        self._model = MODELS[dot]
        self._configs = configs
        self._checks = Checks.of(checkers)
        self._buffers: dict[int, list[Buffer]] = defaultdict(list)
        self._kept: list[torch.Tensor] = []
        self._stack = ExitStack()

    def declare(
        self,
        name: str,
        tensor: torch.Tensor,
        initialised: bool | torch.Tensor | Array = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Declare a logical buffer inside a storage that is larger than it.

        Accesses in a storage with declared buffers must fall inside one of them. initialised says which bytes hold
        something: all, none, or one flag per byte of the tensor in its logical order; a load of a byte that holds
        nothing gives an undefined value. Declaring the same tensor again replaces what was said.

        Raises ValueError for a tensor whose elements overlap or that is not in CPU memory.
        """
        if tensor.device.type != "cpu":
            raise ValueError(f"lockstep runs on the CPU; {name} is on {tensor.device}")
        buffer = describe_buffer(name, tensor, initialised)
        known = self._buffers[tensor.untyped_storage().data_ptr()]
        known[:] = [b for b in known if (b.start, b.end, b.dims) != (buffer.start, buffer.end, buffer.dims)]
        known.append(buffer)
        self._kept.append(tensor)

    def drain(self) -> list[Violation]:
        """The violations so far, which are forgotten."""
        found, self.violations = self.violations, []
        return found

    def __enter__(self) -> Self:
        self._stack.enter_context(route_launches(self._launch, self._configs))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _launch(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        builder = RUNTIME.builder
        builder.model = self._model
        builder.tracks_overflow = self._checks.overflow
        builder.tracks_undefined = self._checks.undefined
        arguments = Arguments(builder, self._buffers)
        try:
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - a mode of the caller's would hear of every stride
                self.violations += execute(
                    kernel,
                    grid,
                    args,
                    kwargs,
                    arguments=arguments,
                    checks=self._checks,
                    coverage=self.coverage,
                    recorder=self.recorder,
                )
        except (UnsupportedFeature, KernelError, LockstepError):
            raise
        except Exception as error:
            if not is_own(error):
                raise
            where = location_of(kernel)
            message = f"{where}: in {kernel.fn.__name__}: {type(error).__name__}: {error} (an error of lockstep itself)"
            raise LockstepError(message) from error


@contextmanager
def watch_ends() -> Iterator[Ends]:
    """How the conditions of all kernels end that are launched inside the block."""
    before, RUNTIME.ends = RUNTIME.ends, Ends()
    try:
        yield RUNTIME.ends
    finally:
        RUNTIME.ends = before


@contextmanager
def count_ordered() -> Iterator[Counter[str]]:
    """How many launches inside the block the checker `order` looked at, all accesses of all programs, by kernel."""
    before, RUNTIME.ordered = RUNTIME.ordered, Counter()
    try:
        yield RUNTIME.ordered
    finally:
        RUNTIME.ordered = before


@contextmanager
def recall_launches() -> Iterator[Recall]:
    """Do not run a launch inside the block again that was made in it before: what it left is put into memory."""
    before, RUNTIME.recall = RUNTIME.recall, Recall()
    try:
        yield RUNTIME.recall
    finally:
        RUNTIME.recall = before


class Skipped(NamedTuple):
    """A launch that was taken and not run: the kernel, and what it was given."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextmanager
def skip_launches(most: int) -> Iterator[list[Skipped]]:
    """Take every Triton launch and run nothing; gives the launches, as they come.

    After so many launches the next one raises RuntimeError: who launches in a loop may wait for what never comes.
    """
    skipped: list[Skipped] = []

    def skip(kernel: Any, _grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(skipped) == most:
            raise RuntimeError(f"more than {most} launches")
        skipped.append(Skipped(kernel, args, kwargs))

    with route_launches(skip):
        yield skipped
