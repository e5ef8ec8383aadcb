"""What pytest was asked to test: the --fuzz options, and what the project's settings say where there are none."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexfuzz.core.project import Project
from indexfuzz.core.setup import Setup, SetupError


@dataclass(frozen=True)
class Options:
    """What to test and how long. `corpus` is where findings are known and new ones kept, `seconds` is per target.

    `shard` (i, n) makes this process one of n; where `workers` of pytest-xdist share it, a target has a test for each.
    `seed` is that of Hypothesis, where one was given.
    """

    setup: Setup = field(default_factory=Setup)
    corpus: Path = Path("corpus")
    shard: tuple[int, int] = (1, 1)
    workers: int = 1
    seconds: float | None = None
    seed: str = ""

    @classmethod
    def of_project(cls, project: Project) -> "Options":
        """What holds where nothing is asked for: the project's settings."""
        return cls(setup_of(project), project.corpus_for(()))


def setup_of(project: Project, **given: Any) -> Setup:
    """What the options say is under test; what they leave open (None), the project decides.

    Faults are planted in the built-in kernels, and a project's timeout does not ask for isolation.
    """
    faults = tuple(given.pop("faults", ()))
    chosen = {name: value for name, value in given.items() if value is not None}
    setup = Setup(**{"device": project.table.device, "faults": faults} | chosen)
    if not faults and "spec" not in chosen:
        setup = Setup(**vars(setup) | {"spec": project.impl})
    if setup.isolated and setup.timeout is None:
        setup = Setup(**vars(setup) | {"timeout": project.table.timeout})
    return setup


def parse_shard(text: str) -> tuple[int, int]:
    """I/N as two numbers, 1 <= I <= N.

    Raises ValueError.
    """
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
        raise ValueError(f"{text!r} must be I/N with 1 <= I <= N, such as 1/4")
    return int(index), int(of)


def check_seconds(option: str, seconds: float | None) -> None:
    """Raise SetupError for a time in which nothing can be tested."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise SetupError(f"{option}: {seconds:g} s is no time to test in; give a number above 0")
