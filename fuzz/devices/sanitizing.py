"""Launches under NVIDIA's compute-sanitizer: what it reports of one becomes findings of its stage.

The tool runs this process and writes its report to a file, from a process of its own. Behind each launch a call of the
driver that fails marks how far the file is: what stands before the mark is about that launch. Each tensor has memory of
its own, so that an access beyond it is beyond an allocation.
"""

import ctypes
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from indexfuzz.core.finding import Finding, complaint
from indexfuzz.devices.base import DeviceError
from indexfuzz.devices.carrying import MOST_CARRIED, bytes_of, start_of, view_of
from indexfuzz.devices.plain import PlainSession
from indexfuzz.devices.sanitizer_report import Access, read_report

LOG = "INDEXFUZZ_SANITIZER_LOG"
"""The variable that names the file of the report, in processes that run under a tool."""

TOOLS = ("memcheck",)
"""Of its tools, those that were seen to report a failing call of the driver, as a mark must be; racecheck does not."""

TOOL = "compute-sanitizer"
PACKAGES = tuple(Path(sysconfig.get_path("purelib")) / "nvidia" / n / "bin" for n in ("cu13", "cuda_sanitizer_api"))
"""Where the packages nvidia-cuda-sanitizer-api, for CUDA 13, and nvidia-cuda-sanitizer-api-cu12 have it."""

MARKER = "cuMemHostUnregister"
"""A call of the driver that nobody else makes: of an address that is none, it fails and changes nothing."""

PATIENCE = 60.0
"""Seconds until a mark has to be in the report, which another process writes."""

PAUSE = 0.001
"""Seconds between two looks."""


def find_tool() -> str:
    """The path of compute-sanitizer: on PATH, in a CUDA toolkit, or in the package that has it.

    Raises DeviceError where there is none.
    """
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    for folder in (os.environ.get("PATH", ""), toolkit, *PACKAGES):
        if found := shutil.which(TOOL, path=str(folder)):
            return found
    raise DeviceError(
        f"--sanitize needs {TOOL}, which is neither on PATH nor in {toolkit}: install a CUDA toolkit, "
        "or `pip install nvidia-cuda-sanitizer-api`, with -cu12 behind it for CUDA 12"
    )


def sanitized(path: str, tool: str, words: list[str], log: Path) -> tuple[list[str], dict[str, str]]:
    """The command that runs another one under a tool of the compute-sanitizer at a path, and the variables it needs.

    A kernel that is stopped leaves the others their context, and PyTorch allocates each tensor by itself.
    """
    options = ("--tool", tool, "--log-file", str(log), "--print-limit", "0", "--strip-paths", "no")
    more = ("--destroy-on-device-error", "kernel", "--show-backtrace", "no", "--check-exit-code", "no")
    variables = {LOG: str(log), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [path, *options, *more, "--require-cuda-init", "no", *words], variables


class Report:
    """The report of the tool that this process runs under; `mark` has it write MARKER behind all that it knows."""

    def __init__(self, log: Path, mark: Callable[[], None], patience: float = PATIENCE) -> None:
        self._log, self._mark, self._patience = log, mark, patience
        self._read = 0
        self.read_on()

    def read_on(self) -> list[Access]:
        """What has been reported since the last call; waits until all of that is there.

        Raises DeviceError where that takes too long.
        """
        self._mark()
        ends = time.monotonic() + self._patience
        while True:
            fresh = self._log.read_bytes()[self._read :] if self._log.exists() else b""
            before, marked, _ = fresh.partition(MARKER.encode())
            if marked:
                self._read += len(before + marked)
                return read_report(before.decode(errors="replace"))
            if time.monotonic() >= ends:
                raise DeviceError(f"{TOOL} has written nothing to {self._log} for {self._patience:g} s")
            time.sleep(PAUSE)


def _fail_a_call() -> None:
    """Wait for the kernels, then have the driver refuse something."""
    torch.cuda.synchronize()
    getattr(ctypes.CDLL("libcuda.so.1"), MARKER)(ctypes.c_void_p(1))


@cache
def report_of_this_process() -> Report | None:
    """The report, in a process that runs under the tool."""
    return Report(Path(os.environ[LOG]), _fail_a_call) if LOG in os.environ else None


@dataclass(frozen=True)
class SanitizedSession(PlainSession):
    """A session of which the tool reports."""

    report: Report
    device: str = "cuda"
    _brought: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _seen: list[Access] = field(default_factory=list)

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in memory of their own, no byte more than they span; what was reported until then is about others."""
        for name, tensor in tensors.items():
            there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)
            _fill(there, tensor)
            self._brought[name] = tensor, there
        self.report.read_on()
        return {name: there for name, (_, there) in self._brought.items()}

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the tensors that were brought what their copies hold; the outputs, on the CPU."""
        self._seen.extend(self.report.read_on())
        for own, there in self._brought.values():
            _fill(own, there)
        return {name: self._return(output) for name, output in outputs.items()}

    def violations(self, views: Mapping[int, str]) -> list[Finding]:  # noqa: ARG002
        """What the tool has reported, once for each kind and argument of a kernel's line."""
        found = dict[tuple[str, ...], Finding]()
        for access in self._seen:
            name = self._argument(access)
            found.setdefault((access.kind, name, access.location, access.kernel), _finding(access, name))
        self._seen.clear()
        return list(found.values())

    def _argument(self, access: Access) -> str:
        """The argument whose memory is nearest to an access; empty where it is none's."""
        near = (name for name, (_, there) in self._brought.items() if there.data_ptr() == access.allocation)
        return next(near, "") if access.allocation else ""

    def _return(self, output: Tensor) -> Tensor:
        address = output.untyped_storage().data_ptr()
        for own, there in self._brought.values():
            if there.untyped_storage().data_ptr() == address:
                return view_of(output, own.untyped_storage(), start_of(own) + start_of(output))
        return output.cpu()


def _finding(access: Access, name: str) -> Finding:
    by = f" by {access.thread}" if access.thread else ""
    where = f", {access.distance} {name or 'the nearest allocation'}" if access.distance else ""
    detail = f"{access.what}{where}{by} of {access.kernel}"
    return complaint(access.kind, name, detail, location=access.location)


def _fill(target: Tensor, source: Tensor) -> None:
    """Copy what a tensor of the same form holds, with what lies between its rows unless that is much."""
    if not source.numel():
        return
    if len(_span(source)) > MOST_CARRIED:
        target.copy_(source)
    else:
        _span(target).copy_(_span(source))


def _span(tensor: Tensor) -> Tensor:
    """The bytes from the first to the last of a tensor, as they lie."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    size = tensor.element_size() * (1 + sum((size - 1) * stride for size, stride in axes))
    return bytes_of(tensor.untyped_storage())[start_of(tensor) :][:size]
