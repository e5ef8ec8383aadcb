"""Marks in the report of compute-sanitizer: something that each tool complains about, made on purpose.

What stands before a mark was reported of what ran before it. memcheck tells of calls of the driver that fail; racecheck
and initcheck tell of kernels alone, so theirs are kernels that do what each looks for.
"""

import ctypes
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch

from indexfuzz.devices.base import DeviceError

MEMCHECK, RACECHECK, INITCHECK = TOOLS = ("memcheck", "racecheck", "initcheck")

FAILING_CALL = "cuMemHostUnregister"
"""A call of the driver that nobody else makes: of an address that is none, it fails and changes nothing."""

KERNEL = "indexfuzz_mark"
"""What the names of kernels that are marks begin with."""

KERNELS = (f"{KERNEL}_even", f"{KERNEL}_odd")
"""By turns: a kernel may be told of in several lines, which must not be taken for the next mark."""

BODIES = {
    RACECHECK: """.shared .align 4 .b32 cell;
    mov.u32 %r1, %tid.x;
    st.volatile.shared.u32 [cell], %r1;
    ld.volatile.shared.u32 %r2, [cell];
    st.global.u32 [%rd1], %r2;""",
    INITCHECK: """ld.volatile.global.u32 %r1, [%rd1];
    st.global.u32 [%rd1+4], %r1;""",
}
"""PTX: threads that exchange something through shared memory with no barrier; a read of what nobody has written."""

THREADS = {RACECHECK: 64, INITCHECK: 1}

BYTES = 16
"""Of the memory that a mark's kernel gets."""


def mark_of(tool: str) -> Callable[[], str]:
    """What has a tool write a mark, once all kernels have ended, and returns a word of that mark."""
    return _fail_a_call if tool == MEMCHECK else _launch_marks(tool)


def _fail_a_call() -> str:
    torch.cuda.synchronize()
    getattr(_driver(), FAILING_CALL)(ctypes.c_void_p(1))
    return FAILING_CALL


def _launch_marks(tool: str) -> Callable[[], str]:
    torch.cuda.synchronize()
    module = ctypes.c_void_p()
    _ask("cuModuleLoadData", ctypes.byref(module), ptx_of(tool).encode())
    kernels = []
    for name in KERNELS:
        kernels.append((name, ctypes.c_void_p()))
        _ask("cuModuleGetFunction", ctypes.byref(kernels[-1][1]), module, name.encode())
    turns = cycle(kernels)

    def make() -> str:
        torch.cuda.synchronize()
        name, kernel = next(turns)
        memory = ctypes.c_uint64()
        _ask("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(BYTES))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(memory))
        _ask("cuLaunchKernel", kernel, 1, 1, 1, THREADS[tool], 1, 1, 0, None, arguments, None)
        torch.cuda.synchronize()
        _ask("cuMemFree_v2", memory)
        return name

    return make


def ptx_of(tool: str) -> str:
    """The module with the kernels that are a tool's marks."""
    text = ".version 7.0\n.target sm_70\n.address_size 64\n"
    for name in KERNELS:
        text += f"""
.visible .entry {name}(.param .u64 memory) {{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [memory];
    {BODIES[tool]}
    ret;
}}
"""
    return text


def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _ask(call: str, *arguments: Any) -> None:
    """Call the driver; DeviceError where it refuses."""
    if error := getattr(_driver(), call)(*arguments):
        raise DeviceError(f"the mark of a tool cannot be made: {call} gave error {error}")
