"""A slice: the part of a campaign that one process of one machine runs, and what it tells afterwards."""

import shlex
from dataclasses import dataclass

from indexfuzz.core.case_parts import Regime
from indexfuzz.core.setup import Setup

NAME_OF_LOG = "run.jsonl"


@dataclass(frozen=True)
class Slice:
    """Shard `number` of all slices, from 1 on, with values of these kinds; none means all that were asked for.

    `known` are pairs of implementation and signature, and `reached` is what was reached: neither is news.
    """

    number: int
    values: tuple[Regime, ...] = ()
    known: frozenset[tuple[str, str]] = frozenset()
    reached: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Order:
    """What all slices of a campaign share. Each ends after so many seconds or cases; `name` is that of the campaign.

    `url` is the shared folder, `version` the one of IndexFuzz that all machines must have.
    """

    setup: Setup
    url: str
    name: str
    version: str
    seed: int
    slices: int
    only: frozenset[str] = frozenset()
    preset: str | None = None
    seconds: float | None = None
    cases: int | None = None

    def command(self, part: Slice) -> str:
        """The command line that runs the cases of a slice on one machine, in processes that may die."""
        limit = ["--seconds", f"{self.seconds:g}"] if self.seconds is not None else ["--cases", str(self.cases)]
        words = ["indexfuzz", "run", "--seed", str(self.seed), "--shard", f"{part.number}/{self.slices}", *limit]
        words += [word for stage in sorted(self.only) for word in ("--stage", stage)]
        words += [word for kind in part.values for word in ("--values", kind)]
        words += ["--preset", self.preset] if self.preset else []
        return shlex.join([*words, *self.setup.words, "--workers", "2"])

    def folder(self, number: int) -> str:
        """Where below the shared folder a slice puts what it finds."""
        return f"slices/{self.name}/{number:05}"


@dataclass(frozen=True)
class Result:
    """What a slice did: new signatures, and what it reached that was not reached before.

    `stages` counts how often one ran. `notes` are for the reader of the terminal. `error` is why it could not be run.
    """

    number: int
    node: str
    implementation: str = ""
    cases: int = 0
    seconds: float = 0.0
    stages: int = 0
    signatures: tuple[str, ...] = ()
    reached: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    interrupted: int = 0
    error: str = ""


@dataclass(frozen=True)
class Lost:
    """A slice whose process, or machine, died each time; `why` in a sentence."""

    part: Slice
    why: str

    @property
    def number(self) -> int:
        """The number of the slice."""
        return self.part.number
