"""What a user wants under test, and where it runs, in the words of the command line."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from indexfuzz.core.words import path_from_here

DEFAULT_IMPLEMENTATION = "builtin"
DEFAULT_DEVICE = "lockstep"


class SetupError(Exception):
    """What the user asked for cannot be put under test. One sentence that says why."""


@dataclass(frozen=True)
class Setup:
    """What a user wants under test, in the words of the command line.

    `isolate` is None where the user left it open, `python` is another interpreter, `timeout` in seconds per case;
    `sanitize` is the tool of compute-sanitizer that all runs under.
    """

    spec: str = DEFAULT_IMPLEMENTATION
    device: str = DEFAULT_DEVICE
    faults: tuple[str, ...] = ()
    beyond_contract: bool = False
    isolate: bool | None = None
    python: str | None = None
    timeout: float | None = None
    sanitize: str | None = None

    @property
    def isolated(self) -> bool:
        """Whether the implementation runs in a process of its own: unless told otherwise, code that is not ours."""
        return self._isolated_anyway if self.isolate is None else self.isolate

    @property
    def _isolated_anyway(self) -> bool:
        return self.python is not None or self.spec != DEFAULT_IMPLEMENTATION

    def command(self, name: str, file: Path) -> str:
        """The command line that does something with the case of a file under the same conditions."""
        return shlex.join(["indexfuzz", name, str(path_from_here(file)), *self.words])

    @property
    def words(self) -> list[str]:
        """The options of a command line that say the same."""
        words = []
        if self.spec != DEFAULT_IMPLEMENTATION:
            words += ["--impl", self.spec]
        for fault in self.faults:
            words += ["--fault", fault]
        if self.device != DEFAULT_DEVICE:
            words += ["--device", self.device]
        if self.isolated != self._isolated_anyway:
            words += ["--isolate" if self.isolated else "--no-isolate"]
        if self.python:
            words += ["--python", self.python]
        if self.timeout:
            words += ["--timeout", f"{self.timeout:g}"]
        if self.sanitize:
            words += ["--sanitize", self.sanitize]
        if self.beyond_contract:
            words += ["--beyond-contract"]
        return words
