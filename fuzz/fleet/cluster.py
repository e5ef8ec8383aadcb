"""Ray runs the slices: a task each, in a process of its own, which is started again where it or its machine dies.

Which machine, when, and how often is Ray's affair. A local Ray, a cluster's address and KubeRay are the same from here.
"""

import os
import signal
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from indexfuzz.core.interrupts import SIGNALS
from indexfuzz.core.words import printable
from indexfuzz.fleet.dispatch import SliceError
from indexfuzz.fleet.needs import Needs
from indexfuzz.fleet.shared import SharedError
from indexfuzz.fleet.slices import Lost, Order, Result, Slice
from indexfuzz.fleet.work import run_slice


class ClusterError(Exception):
    """There is no cluster to run slices on. One sentence."""


class FailedError(Exception):
    """IndexFuzz itself failed in a slice; what it was raised from has the traceback."""


class RayMachines:
    """The machines of a Ray cluster; of this one alone where no address is given and the environment names none."""

    def __init__(self, address: str | None, needs: Needs) -> None:
        self._address = address
        self._needs = needs
        self._running: dict[Any, Slice] = {}
        self._task: Any = None

    def __enter__(self) -> Self:
        """Raises ClusterError where no cluster answers."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        where = {"address": self._address} if self._address else {"include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise ClusterError(f"--address {self._address or 'of the environment'}: {_first_line(error)}") from error
        finally:
            for number, handler in handlers.items():  # Ray has one of its own for SIGTERM
                signal.signal(number, handler)
        self._task = ray.remote(**self._needs.options)(run_slice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    @property
    def room(self) -> int:
        """How many slices can run at the same time, as the cluster is now."""
        return self._needs.room_in(ray.cluster_resources())

    @property
    def is_busy(self) -> bool:
        """Whether anything was submitted that has not been heard of."""
        return bool(self._running)

    def submit(self, order: Order, part: Slice) -> None:
        """Run a slice as soon as there is room for it."""
        self._running[self._task.remote(order, part)] = part

    def wait(self, seconds: float) -> list[Result | Lost]:
        """What has ended meanwhile; returns as soon as something has.

        Raises SliceError, FailedError.
        """
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        told = [self._ending_of(reference, self._running.pop(reference)) for reference in done]
        return [ending for ending in told if ending is not None]

    def stop(self) -> None:
        """Ask all that runs to end soon, and forget what has not begun."""
        for reference in self._running:
            ray.cancel(reference, force=False)

    def _ending_of(self, reference: Any, part: Slice) -> Result | Lost | None:
        """What became of a slice; None where it was cancelled. What it had found lies in the shared folder."""
        try:
            result: Result = ray.get(reference)
        except TaskCancelledError:
            return None
        except RayTaskError as error:
            if isinstance(error.cause, SharedError):
                raise SliceError(f"slice {part.number}: {error.cause}") from None
            if "No module named 'indexfuzz" in str(error):
                raise SliceError("the machines of the cluster do not have IndexFuzz; install it there") from None
            cause = error.cause or error
            raise FailedError(f"slice {part.number}: {type(cause).__name__}: {_first_line(cause)}") from error
        except RayError as error:
            return Lost(part, f"{type(error).__name__}: {_first_line(error)}")
        return result


def _first_line(error: BaseException) -> str:
    return printable(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__))
