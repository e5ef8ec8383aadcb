"""Hunt guarded mutants with the cases of some generator, within a budget, and count how many are found."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from indexfuzz.core.forked import cpu_seconds
from indexfuzz.devices import open_device
from indexfuzz.evaluation.bench.detection import Sight, campaign_sight, is_clean, stream_sight
from indexfuzz.evaluation.bench.uniform import uniform
from indexfuzz.evaluation.mutation.guarded import RARITIES, Guarded, build
from indexfuzz.evaluation.mutation.guards import wilson
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.subject import Facts

CAMPAIGN, UNGUIDED, UNIFORM = "campaign", "unguided", "uniform"
DRAWINGS = (CAMPAIGN, UNGUIDED, UNIFORM)
"""Where cases come from: a campaign as `indexfuzz run` has it, one that neither reads nor watches the code under
test, or the plain generator of the benchmarks."""


class Unread(InProcess):
    """An implementation whose source says nothing to the generator."""

    @property
    def facts(self) -> Facts:
        """Without the constants that guide the drawing."""
        return replace(super().facts, constants=())


FIELDS = ("number", "drawing", "one_in", "found", "description")
"""What a report needs to know of a hunt."""

SUBJECTS = {CAMPAIGN: InProcess, UNGUIDED: Unread}


@dataclass(frozen=True)
class Budget:
    """What is spent on a mutant by each way of drawing: seconds of CPU time; cases are drawn from `seed`."""

    seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Prey:
    """A guarded mutant, and what draws the cases that shall find it."""

    guarded: Guarded
    drawing: str


@dataclass(frozen=True)
class Hunt:
    """How a hunt ended: whether the mutant was found, after how many cases and seconds."""

    prey: Prey
    found: bool
    cases: int = 0
    seconds: float = 0.0
    signature: str = ""

    def as_data(self) -> dict[str, object]:
        """The hunt, the mutant and its guard as plain JSON data."""
        guarded = self.prey.guarded
        about = {
            "number": guarded.number,
            "mutant": guarded.mutant.id,
            "stage": guarded.stage,
            "guard": guarded.guard.source,
            "one_in": guarded.wanted,
            "description": describe(guarded),
            "witness": guarded.witness.id,
            "drawing": self.prey.drawing,
        }
        ended = {"found": self.found, "cases": self.cases, "seconds": self.seconds, "signature": self.signature}
        return about | ended


class Hunter:
    """Hunts one mutant after the other."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._device = open_device("lockstep")

    def examine(self, prey: Prey) -> Hunt:
        """Draw cases until one shows a finding that the kernels proper do not have, or the budget is spent."""
        sight = self._search(prey)
        if sight is None or not is_clean(sight.case, self._device):
            return Hunt(prey, found=False, seconds=self._budget.seconds)
        return Hunt(prey, found=True, cases=sight.cases, seconds=sight.seconds, signature=str(sight.finding.signature))

    def _search(self, prey: Prey) -> Sight | None:
        implementation, budget = build(prey.guarded), self._budget
        if prey.drawing in SUBJECTS:
            return campaign_sight(
                implementation,
                self._device,
                budget.seed,
                seconds=budget.seconds,
                clock=cpu_seconds,
                subject_type=SUBJECTS[prey.drawing],
                steered=prey.drawing == CAMPAIGN,
            )
        stream = uniform(budget.seed, self._device.formats)
        return stream_sight(stream, implementation, self._device, seconds=budget.seconds, clock=cpu_seconds)


def give_up(prey: Prey, seconds: float, why: str) -> Hunt:
    """A mutant that hangs has been found."""
    return Hunt(prey, found=True, seconds=seconds, signature=why)


@dataclass(frozen=True)
class HuntReport:
    """What hunts have shown, each as plain data, of the mutants of one seed with so many seconds each."""

    hunts: Sequence[Mapping[str, Any]]
    seconds: float
    from_seed: int

    def as_text(self) -> str:
        """A line per rarity, a column per way of drawing, then what was not found by a campaign."""
        lines = [
            f"guarded mutants of seed {self.from_seed}, {self.seconds:g} s of CPU time each",
            f"{'one in':>8}" + "".join(f"{drawing:>30}" for drawing in DRAWINGS),
        ]
        for rarity in RARITIES:
            cells = (f"{self._cell(rarity, drawing):>30}" for drawing in DRAWINGS)
            lines += [f"{rarity:>8,}" + "".join(cells)]
        missed = (hunt for hunt in self.hunts if hunt["drawing"] == CAMPAIGN and not hunt["found"])
        lines += [f"not found: {hunt['description']}" for hunt in missed]
        return "\n".join(lines)

    def _cell(self, rarity: int, drawing: str) -> str:
        hunts = [hunt for hunt in self.hunts if hunt["drawing"] == drawing and hunt["one_in"] == rarity]
        found = sum(hunt["found"] for hunt in hunts)
        if not hunts:
            return "-"
        low, high = wilson(found, len(hunts))
        return f"{found} of {len(hunts)} ({low:.0%} to {high:.0%})"

    def as_data(self) -> dict[str, object]:
        """The same for scripts, hunt by hunt."""
        return {"seed": self.from_seed, "seconds": self.seconds, "cores": os.cpu_count(), "hunts": list(self.hunts)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """What `as_data` gave.

        Raises KeyError, TypeError or AttributeError where it did not.
        """
        hunts = [{name: hunt[name] for name in FIELDS} | hunt for hunt in data["hunts"]]
        return cls(hunts, float(data["seconds"]), int(data["seed"]))

    @classmethod
    def joined(cls, parts: Sequence["HuntReport"]) -> Self:
        """Several parts as one.

        Raises ValueError where they are not of the same seed and time, or a hunt is in two of them.
        """
        settings = {(part.from_seed, part.seconds) for part in parts}
        if len(settings) != 1:
            raise ValueError("the files are not of one seed and as many seconds")
        hunts = [hunt for part in parts for hunt in part.hunts]
        if len({(hunt["number"], hunt["drawing"]) for hunt in hunts}) < len(hunts):
            raise ValueError("a hunt is in two of the files")
        (seed, seconds), *_ = settings
        return cls(sorted(hunts, key=lambda hunt: hunt["number"]), seconds, seed)


def describe(guarded: Guarded) -> str:
    """A guarded mutant on one line."""
    mutant = guarded.mutant
    return (
        f"{guarded.number}  {mutant.id}  {guarded.stage}, {mutant.operator}: {mutant.old} => {mutant.new}  "
        f"where {guarded.guard.source}  (one in {guarded.guard.rarity:,.0f})"
    )
