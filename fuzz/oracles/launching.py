"""Launch one stage on one device, and decide what it means when it raises: here, and nowhere else.

| what is raised | what it means |
| --- | --- |
| ImplementationError, what a device calls `broken`, lack of memory | nothing about the kernel, and it is passed on |
| what a device calls `unsupported` | nothing about the kernel: UnsupportedKernelError |
| MalformedResultError | "shape": something else was returned than the stage's tensors |
| ValueError | "rejected", which is right where the contract asks for it |
| anything else | "crash" |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Contract, beyond
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.tracebacks import location_of, origin_of
from indexfuzz.devices.base import Device, Session, UnsupportedKernelError
from indexfuzz.implementations.base import ImplementationError, MalformedResultError, StageFunction
from indexfuzz.oracles.tensors import WatchedTensors
from indexfuzz.samples.poison import poison_byte
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call

REFUSALS = (ValueError, AssertionError, NotImplementedError)
"""How code says that it does not handle a case, where nobody promises how."""


@dataclass(frozen=True)
class Expected:
    """What a contract says about a stage and a case.

    `outside`: why it has to be rejected with ValueError. `broken`: the clause of a lifted contract that it breaks;
    refusing it in any clean way is fine.
    """

    outside: str = ""
    broken: str = ""

    @classmethod
    def of(cls, contract: Contract, stage: str, case: Case) -> Self:
        """Both sentences; empty where they do not apply."""
        return cls(contract.outside(stage, case) or "", beyond(contract, stage, case))

    def includes(self, error: Exception) -> bool:
        """Whether an exception is how a case should end, by itself or inside what a tool made of it."""
        if self.outside:
            return isinstance(error, ValueError)
        return bool(self.broken) and isinstance(origin_of(error), REFUSALS)


RESULT = Expected()
"""A contract that covers the case: the stage ends with a result."""


@dataclass(frozen=True)
class Launched:
    """What became of a launch: the outputs by name, or the `error` that was raised, and what the device saw."""

    stage: str
    outputs: dict[str, Tensor]
    error: Exception | None
    seen: tuple[Finding, ...]
    _session: Session

    def findings(self, expected: Expected = RESULT) -> list[Finding]:
        """What is wrong with how it ended, and what the device saw."""
        if self.error is None or expected.includes(self.error):
            return list(self.seen)
        return [classify_error(self.stage, self.error), *self.seen]

    def guarantees(self, promises: Promises) -> Guarantees:
        """What the outputs may be judged by."""
        return self._session.guarantees(promises)

    def copies(self) -> dict[str, Tensor]:
        """The outputs in memory of their own."""
        return {name: output.clone() for name, output in self.outputs.items()}


def launch(
    stage: str,
    call: Call,
    function: StageFunction,
    device: Device,
    *,
    initialised: Mapping[str, Tensor | bool] | None = None,
    garbage: Callable[[torch.dtype], int] = poison_byte,
) -> Launched:
    """Run a function on a call. What it writes to the call's tensors stays there.

    `initialised` says for each argument which of its bytes hold something: all, none, or a bool for each; without it
    the device does not track the arguments. `garbage` gives the byte that fills what the function allocates.

    Raises UnsupportedKernelError when the device cannot execute the kernel, and what says nothing about the kernel.
    """
    outputs: dict[str, Tensor] = {}
    raised: Exception | None = None
    with device.session() as session:
        watched = WatchedTensors(None if session.sees_unwritten else garbage)
        for name, bytes_defined in (initialised or {}).items():
            session.declare(name, call.tensors[name], bytes_defined)
        try:
            there = call.with_tensors(session.bring(call.tensors))
            with watched:
                outputs = there.run(function)
        except ImplementationError:
            raise
        except device.broken:
            raise
        except device.unsupported as error:
            raise UnsupportedKernelError(f"{stage} on {device.name}: {error}") from error
        except Exception as error:
            if device.lacks_memory(error):
                raise
            raised = error
        outputs = session.take_back(outputs)
        seen = [violation.at(stage) for violation in session.violations(watched.views)]
    return Launched(stage, outputs, raised, tuple(seen), session)


def launch_in(
    step: Step,
    stage: str,
    call: Call,
    function: StageFunction,
    device: Device,
    garbage: Callable[[torch.dtype], int] = poison_byte,
) -> Launched:
    """`launch` for a call on the buffers of a step, which are as before afterwards; the outputs are copies."""
    try:
        launched = launch(stage, call, function, device, garbage=garbage)
        return replace(launched, outputs=launched.copies())
    finally:
        for buffer in step.buffers.values():
            buffer.restore()


def classify_error(stage: str, error: Exception) -> Finding:
    """The finding of a stage that ended with an exception which nobody expects of it."""
    if isinstance(error, MalformedResultError):
        return Finding(stage, "shape", "", str(error))
    kind = "rejected" if isinstance(error, ValueError) else "crash"
    return Finding(stage, kind, name_of(error), describe_error(error), location=location_of(error))


def name_of(error: Exception) -> str:
    """The type of what somebody's code raised."""
    return type(origin_of(error)).__name__


def describe_error(error: Exception) -> str:
    """The type of what somebody's code raised, and the first line of what it says."""
    return f"{name_of(error)}: {(str(origin_of(error)).splitlines() or [''])[0]}"
