"""What a program may ask of torch.cuda where everything it has "on the GPU" is on the CPU."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final, Self

import torch

from indexfuzz.lockstep.programs.placement import Placement
from indexfuzz.lockstep.triton_api.driver import CAPABILITY, H100

_NAME: Final = "lockstep (a CPU with the properties of an H100)"
_BACKWARD: Final = "_engine_run_backward"
"""The function of torch.autograd to which every way to run backward leads."""

_MEMORY: Final = 80 << 30


class _Stream:
    """A stream of work that is finished as soon as it is begun."""

    cuda_stream = 0
    device = torch.device("cuda", 0)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait_stream(self, _other: Any) -> None:
        """Nothing to wait for."""

    def wait_event(self, _event: Any) -> None:
        """Nothing to wait for."""

    def record_event(self, event: Any = None) -> Any:
        """An event of now."""
        event = event or _Event()
        event.record()
        return event

    def query(self) -> bool:
        """Whether all is done."""
        return True


class _Event:
    """A point in time, of the CPU's clock."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.time = 0.0

    def record(self, _stream: Any = None) -> None:
        """Take the time."""
        self.time = time.perf_counter()

    def elapsed_time(self, later: "_Event") -> float:
        """Milliseconds of CPU until another event."""
        return 1000 * (later.time - self.time)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait(self, _stream: Any = None) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """Whether all is done."""
        return True


class _Generator(torch.Generator):
    """A random generator; every one is the CPU's."""

    def __new__(cls, device: Any = "cpu") -> Self:
        del device
        return super().__new__(cls, torch.device("cpu"))  # type: ignore[call-arg]


def _properties(_device: Any = None) -> SimpleNamespace:
    major, minor = CAPABILITY
    return SimpleNamespace(
        name=_NAME,
        major=major,
        minor=minor,
        total_memory=_MEMORY,
        multi_processor_count=H100["multiprocessor_count"],
        warp_size=H100["warpSize"],
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=H100["max_shared_mem"],
        regs_per_multiprocessor=H100["max_num_regs"],
        max_threads_per_multi_processor=2048,
        L2_cache_size=50 << 20,
        gcnArchName="",
    )


def _nothing() -> Callable[..., None]:
    """A function of its own that does nothing: torch's tables tell functions by their identity."""
    return lambda *_args, **_kwargs: None


def _seed() -> Callable[[int], None]:
    def seed_the_only_generator(seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    return seed_the_only_generator


def _leave_uncompiled(function: Any = None, **_options: Any) -> Any:
    """torch.compile, as a call or a decorator: Inductor would write kernels of its own for the GPU."""
    return function if function is not None else lambda decorated: decorated


def _context() -> Callable[..., contextlib.nullcontext[None]]:
    return lambda *_args, **_kwargs: contextlib.nullcontext()


_CUDA: Final = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "init": _nothing(),
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": _nothing(),
    "device": _context(),
    "device_of": _context(),
    "synchronize": _nothing(),
    "empty_cache": _nothing(),
    "ipc_collect": _nothing(),
    "reset_peak_memory_stats": _nothing(),
    "get_device_name": lambda _device=None: _NAME,
    "get_device_capability": lambda _device=None: CAPABILITY,
    "get_device_properties": _properties,
    "mem_get_info": lambda _device=None: (_MEMORY, _MEMORY),
    "is_bf16_supported": lambda *_args, **_kwargs: True,
    "is_current_stream_capturing": lambda: False,
    "manual_seed": _seed(),
    "manual_seed_all": _seed(),
    "get_rng_state": lambda _device=None: torch.get_rng_state(),
    "set_rng_state": lambda state, _device=None: torch.set_rng_state(state),
    "Stream": _Stream,
    "Event": _Event,
    "stream": lambda stream: stream or contextlib.nullcontext(),
    "current_stream": lambda _device=None: _Stream(),
    "default_stream": lambda _device=None: _Stream(),
}
"""Attributes of torch.cuda; whatever is not here is torch's own, which says that there is no GPU."""

_ACCELERATOR: Final = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_accelerator": lambda *_args, **_kwargs: torch.device("cuda"),
    "current_device_index": lambda: 0,
    "current_device_idx": lambda: 0,
    "set_device_index": _nothing(),
    "set_device_idx": _nothing(),
    "synchronize": _nothing(),
    "empty_cache": _nothing(),
}


@contextmanager
def imitate_cuda() -> Iterator[Placement]:
    """Let torch take device="cuda" for the CPU, and torch.cuda speak of one GPU; where tensors seem to be."""
    placement = Placement()
    patches = [(torch.cuda, name, value) for name, value in _CUDA.items()]
    patches += [(torch.accelerator, name, value) for name, value in _ACCELERATOR.items()]
    from_numpy = torch.from_numpy
    patches.append((torch, "from_numpy", lambda array: placement.put_on_cpu(from_numpy(array))))
    patches += [(torch, "Generator", _Generator), (torch, "compile", _leave_uncompiled)]
    run_backward = getattr(torch.autograd, _BACKWARD)

    def resume(*args: Any, **kwargs: Any) -> Any:
        with placement.resumed():
            return run_backward(*args, **kwargs)

    patches.append((torch.autograd, _BACKWARD, resume))
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in patches if hasattr(owner, name)]
    try:
        for owner, name, value in patches:
            if hasattr(owner, name):
                setattr(owner, name, value)
        with placement:
            yield placement
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
