"""What a slice needs of a machine, in the words of Ray's tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexfuzz.fleet.shared import SharedError


@dataclass(frozen=True)
class Needs:
    """What a slice needs beside one core: GPUs, or a part of one, of a type; and how often it is tried again.

    `folder` is one with modules that it imports, which is sent to all machines; `environment` are variables.
    """

    gpus: float = 0.0
    accelerator: str | None = None
    retries: int = 3
    folder: Path | None = None
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of a task. A process that has run a slice is not used again (max_calls)."""
        sent = {"working_dir": str(self.folder)} if self.folder else {}
        return {
            "num_cpus": 1,
            "num_gpus": self.gpus,
            "accelerator_type": self.accelerator,
            "max_calls": 1,
            "max_retries": self.retries,
            "retry_exceptions": [SharedError],
            "runtime_env": sent | {"env_vars": dict(self.environment)},
        }

    def room_in(self, resources: dict[str, float]) -> int:
        """How many slices fit at the same time into what a cluster has."""
        if self.accelerator and f"accelerator_type:{self.accelerator}" not in resources:
            return 0
        room = resources.get("CPU", 0.0)
        return int(min(room, resources.get("GPU", 0.0) / self.gpus) if self.gpus else room)
