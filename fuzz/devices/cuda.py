"""An NVIDIA GPU. What its results may be is read from the PTX of the kernels that made them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices import assembly
from indexfuzz.devices.base import CaptureError, Device, DeviceError, Session, T
from indexfuzz.devices.carrying import CarryingSession, carrier_to
from indexfuzz.devices.gate import Gate
from indexfuzz.devices.sanitizing import SanitizedSession, report_of_this_process
from indexfuzz.devices.simulated_dot import simulated_dot
from indexfuzz.devices.tuning import Choice, choosing
from indexfuzz.reference.arithmetic import Arithmetic

SIMULATED = {"sm90-qgmma": 64}
"""Matrix units whose bits are known, and rows of a tile from which the model sm90 concludes that they are meant."""


def guarantees(kernels: Sequence[assembly.Compiled], promises: Promises, envelope: assembly.Compiled) -> Guarantees:
    """What the results of some kernels may be judged by: the bits of a dot that is one tl.dot on a known unit.

    `envelope` stands for kernels that Triton did not compile, where there are no others.
    """
    known = assembly.arithmetic(kernels or [envelope])
    if promises.dot_rows is None or not kernels:
        return Guarantees(promises, _in_any_order(known))
    rows = SIMULATED.get(assembly.unit(kernels))
    return Guarantees(promises, known, simulated_dot("sm90", rows) if rows else None)


def _in_any_order(known: Arithmetic) -> Arithmetic:
    """A kernel that scores a head_dim in pieces may take them in any order."""
    return replace(known, dot=replace(known.dot, in_order=False))


NO_ROOM = ("CUDA out of memory", "[CUDA]: out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In what PyTorch, Triton and libraries raise, as various types, where there is no room on the GPU."""


@lru_cache(maxsize=4096)
def _read(_hash: str, ptx: str) -> assembly.Compiled:
    return assembly.read(ptx)


@cache
def _envelope() -> assembly.Compiled:
    """What a kernel may have been compiled to on this GPU, by whatever compiler."""
    major, _ = torch.cuda.get_device_capability()
    units = {name for _, name in assembly.UNITS.get(str(major), ())} or {"unknown"}
    return assembly.Compiled(frozenset(units), frozenset({"full"}), frozenset({"full"}))


@contextmanager
def noting_kernels() -> Iterator[list[assembly.Compiled]]:
    """The kernels that Triton launches on the GPU inside, in order, once for each launch."""
    launched: list[assembly.Compiled] = []
    plain = JITFunction.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = plain(self, *args, **kwargs)
        if compiled is not None:
            launched.append(_read(compiled.hash, compiled.asm["ptx"]))
        return compiled

    JITFunction.run = run
    try:
        yield launched
    finally:
        JITFunction.run = plain


@cache
def _gate() -> Gate:
    return Gate()


@dataclass(frozen=True)
class CudaDevice:
    """An NVIDIA GPU; kernels are compiled as they come."""

    name: str = "cuda"
    torch_device: str = "cuda"
    home: str = "cpu"
    forks: bool = False
    rehearses: bool = False
    formats: tuple[str, ...] = ("e4m3fn",)
    values_per_shape: int = 96
    repeats: int = 20
    unsupported: tuple[type[Exception], ...] = ()
    broken: tuple[type[Exception], ...] = ()
    choice: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceError("device cuda: PyTorch sees no CUDA GPU here; use --device lockstep")
        report_of_this_process()  # raises where a tool runs this process and reports nothing

    def probe(self) -> None:
        """Wait for its kernels: once one has failed, CUDA gives the same error for every call."""
        torch.cuda.synchronize()

    def lacks_memory(self, error: Exception) -> bool:
        """By the words that PyTorch, Triton and cuBLAS have for it."""
        return any(words in str(error) for words in NO_ROOM)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Run, then wait, so that a fault is blamed on the case that caused it."""
        report = report_of_this_process()
        with noting_kernels() as kernels, choosing(self.choice):
            judge_by = partial(guarantees, kernels, envelope=_envelope())
            if report:
                yield SanitizedSession(judge_by, report)
            else:
                yield CarryingSession(judge_by, carrier_to(self.torch_device))
        torch.cuda.synchronize()

    def capture(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture a CUDA graph, after a run on a stream of its own that compiles what is launched."""
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), choosing(self.choice):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with warnings.catch_warnings(), torch.cuda.graph(graph), choosing(self.choice):
                warnings.filterwarnings("ignore", "The CUDA Graph is empty")  # a step without tokens launches nothing
                result = run()
        except RuntimeError as error:
            raise CaptureError(str(error)) from error

        def replay() -> None:
            graph.replay()
            torch.cuda.synchronize()

        return result, replay

    def tuned(self, choice: Choice) -> Device:
        """This one, with launches made by a choice."""
        return replace(self, choice=choice)

    def run_beside(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """On a stream each, which begin together once all has been launched."""
        results = []
        with _gate().closed() as opened:
            for run in runs:
                stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                stream.wait_event(opened)
                with torch.cuda.stream(stream):
                    results.append(run())
        torch.cuda.synchronize()
        return results

    def guarantees(self, promises: Promises) -> Guarantees:
        """What holds whatever a kernel was compiled to on this GPU."""
        return guarantees((), promises, _envelope())
