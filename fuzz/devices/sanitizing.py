"""Launches under NVIDIA's compute-sanitizer: what it reports of one becomes findings of its stage.

The tool runs this process and writes its report to a file, from a process of its own. Behind each launch a mark says
how far the file is: what stands before it is about that launch. Each tensor has memory of its own, so that an access
beyond it is beyond an allocation. For initcheck, arguments that hold nothing, and what launchers allocate, are memory
that nobody has written.
"""

import os
import re
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
from indexfuzz.devices.sanitizer_marks import INITCHECK, KERNEL, mark_of
from indexfuzz.devices.sanitizer_report import PREFIX, Access, read_report

LOG = "INDEXFUZZ_SANITIZER_LOG"
"""The variable that names the file of the report, in processes that run under a tool."""

USED = "INDEXFUZZ_SANITIZER_TOOL"
"""The variable that names that tool."""

TOOL = "compute-sanitizer"
PACKAGES = tuple(Path(sysconfig.get_path("purelib")) / "nvidia" / n / "bin" for n in ("cu13", "cuda_sanitizer_api"))
"""Where the packages nvidia-cuda-sanitizer-api, for CUDA 13, and nvidia-cuda-sanitizer-api-cu12 have it."""

PATIENCE = 60.0
"""Seconds until a mark has to be in the report, which another process writes."""

PAUSE = 0.001
"""Seconds between two looks."""

COMPLAINT = re.compile(rf"^{PREFIX} \S".encode(), re.MULTILINE)
"""The first line of a complaint."""


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

    A kernel that is stopped leaves the others their context, and PyTorch allocates each tensor by itself. initcheck is
    not asked about copies, of which it tells 32 bytes at a time: what holds nothing is copied back as well.
    """
    options = ("--tool", tool, "--log-file", str(log), "--print-limit", "0", "--strip-paths", "no")
    copies = ("--check-api-memory-access", "no") if tool == INITCHECK else ()
    more = ("--destroy-on-device-error", "kernel", "--show-backtrace", "no", "--check-exit-code", "no")
    variables = {LOG: str(log), USED: tool, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [path, *options, *copies, *more, "--require-cuda-init", "no", *words], variables


class Report:
    """The report of the tool that this process runs under.

    `mark` has it write a mark behind all that it knows, and returns a word of that. With `tells_unwritten` it tells of
    reads of memory that nobody has written.
    """

    def __init__(
        self, log: Path, mark: Callable[[], str], patience: float = PATIENCE, *, tells_unwritten: bool = False
    ) -> None:
        self._log, self._mark, self._patience = log, mark, patience
        self._read = 0
        self.tells_unwritten = tells_unwritten
        self.read_on()

    def read_on(self) -> list[Access]:
        """What has been reported since the last call; waits until all of that is there.

        Raises DeviceError where that takes too long.
        """
        word = self._mark().encode()
        ends = time.monotonic() + self._patience
        while True:
            fresh = self._log.read_bytes()[self._read :] if self._log.exists() else b""
            before, marked, _ = fresh.partition(word)
            if marked:
                self._read += len(before + marked)
                told = read_report(before[: _start_of_last(before)].decode(errors="replace"))
                return [access for access in told if not access.kernel.startswith(KERNEL)]
            if time.monotonic() >= ends:
                raise DeviceError(f"{TOOL} has written nothing to {self._log} for {self._patience:g} s")
            time.sleep(PAUSE)


def _start_of_last(text: bytes) -> int:
    """Where the last complaint of a text begins, which the mark belongs to."""
    starts = [match.start() for match in COMPLAINT.finditer(text)]
    return starts[-1] if starts else 0


@cache
def report_of_this_process() -> Report | None:
    """The report, in a process that runs under a tool."""
    if LOG not in os.environ:
        return None
    tool = os.environ[USED]
    return Report(Path(os.environ[LOG]), mark_of(tool), tells_unwritten=tool == INITCHECK)


@dataclass(frozen=True)
class SanitizedSession(PlainSession):
    """A session of which the tool reports."""

    report: Report
    device: str = "cuda"
    _brought: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _seen: list[Access] = field(default_factory=list)
    _empty: set[str] = field(default_factory=set)

    @property
    def sees_unwritten(self) -> bool:
        """Where the tool does."""
        return self.report.tells_unwritten

    def declare(self, name: str, tensor: Tensor, initialised: Tensor | bool) -> None:  # noqa: ARG002, FBT001
        """Note arguments that hold nothing at all: a part of one may be read, and its value left out."""
        if initialised is False and self.sees_unwritten:
            self._empty.add(name)

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in memory of their own, no byte more than they span; what was reported until then is about others."""
        for name, tensor in tensors.items():
            self._brought[name] = tensor, _copy(tensor, self.device, unwritten=name in self._empty)
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
        """The argument whose memory an access is to, or nearest to; empty where it is none's."""
        for name, (_, there) in self._brought.items():
            start = there.data_ptr()
            if start == access.allocation or start <= access.address < start + there.untyped_storage().nbytes():
                return name
        return ""

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


def _copy(tensor: Tensor, device: str, *, unwritten: bool) -> Tensor:
    """A copy in memory of its own, which nobody has written as far as the tool knows, where that is possible.

    Memory that is freed and allocated again holds what it held, and is new to the tool.
    """
    there = _fill(_allocate(tensor, device), tensor)
    if not unwritten:
        return there
    address = there.data_ptr()
    del there
    again = _allocate(tensor, device)
    if again.data_ptr() == address and torch.equal(_span(again).cpu(), _span(tensor)):
        return again
    return _fill(again, tensor)


def _allocate(tensor: Tensor, device: str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _fill(target: Tensor, source: Tensor) -> Tensor:
    """The target, with what a tensor of the same form holds, and what lies between its rows unless that is much."""
    if len(_span(source)) > MOST_CARRIED:
        target.copy_(source)
    elif source.numel():
        _span(target).copy_(_span(source))
    return target


def _span(tensor: Tensor) -> Tensor:
    """The bytes from the first to the last of a tensor, as they lie."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    size = tensor.element_size() * (1 + sum((size - 1) * stride for size, stride in axes))
    return bytes_of(tensor.untyped_storage())[start_of(tensor) :][:size]
