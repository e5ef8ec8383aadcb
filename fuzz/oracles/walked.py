"""What the oracles that are asked about one case have in common: the step that its stages were run on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.samples.step import Step


@dataclass(frozen=True)
class _Walked:
    """Every stage of an implementation ran on the step, and nothing was wrong."""

    case: Case
    implementation: Implementation
    device: Device
    step: Step


_kept: list[list[_Walked]] = []
"""For each `keeping` that goes on, what was walked in it."""


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is walked in here until the end of it."""
    _kept.append([])
    try:
        yield
    finally:
        _kept.pop()


def keep(case: Case, implementation: Implementation, device: Device, step: Step) -> None:
    """Tell that the implementation's stages have run on a step, one on what the one before left, and all were right."""
    if _kept:
        _kept[-1][:] = [_Walked(case, implementation, device, step)]


def take(case: Case, implementation: Implementation, device: Device) -> Step | None:
    """The step that was kept for a case, once: who takes it may write to it. None where there is none."""
    for walked in _kept[-1] if _kept else ():
        if walked.case is case and walked.implementation is implementation and walked.device is device:
            _kept[-1].clear()
            return walked.step
    return None
