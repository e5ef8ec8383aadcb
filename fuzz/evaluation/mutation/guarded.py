"""Guarded mutants: mutants that act only where a guard over the arguments of their stage holds.

A kernel switches paths at sizes, strides and remainders of its own, which nobody knows beforehand. A guard stands for
such a switch; it is drawn so that a witness, a case that shows the mutant, satisfies it and about one in a given number
of others does. Whether a campaign finds the mutant says how well it finds its way behind conditions that were not
thought of when its cases were designed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.core.stage_names import PAGED_LOGITS, PREFILL_LOGITS, TOPK
from indexfuzz.devices import open_device
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.evaluation.mutation.examine import Suspect, original, plant
from indexfuzz.evaluation.mutation.guards import Features, Guard, draw_guard, features
from indexfuzz.evaluation.mutation.mutants import FILES, Mutant, choose_mutants
from indexfuzz.evaluation.mutation.survivors import equivalent, gaps
from indexfuzz.evaluation.mutation.witnesses import witnesses
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.lockstep import count_rounds
from indexfuzz.oracles.walk import accept, fill_in
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.table import OPERATIONS, STAGES

RARITIES = (10, 100, 1_000, 10_000)
"""Guards hold for one in so many witnesses that reach their stage."""

POOL = 2000
"""Witnesses on which the share of a guard is measured."""

TRIES = 4
"""Witnesses that may show a mutant, before another mutant is drawn."""

FREE_ROUNDS, TIMES_USUAL = 256, 32
"""Rounds that the loops of a mutant may run in a witness: so many, and for each of the kernels proper so many more."""

DRAWS = 100
"""Mutants that are drawn before a number is given up."""

UNREAD = frozenset({PREFILL_LOGITS, PAGED_LOGITS, TOPK})
"""Stages whose results no later stage has the form of its arguments from; the reference need not run them."""


@dataclass(frozen=True)
class Guarded:
    """A mutant that acts in one stage and only under a guard; `witness` is a case that shows it."""

    number: int
    mutant: Mutant
    stage: str
    wanted: int
    guard: Guard
    witness: Case


@dataclass(frozen=True)
class Recipe:
    """What determines guarded mutants: a seed, words that choose mutants, and how many witnesses are looked at.

    `seconds` of CPU time are given to each, beyond which making it is an error.
    """

    seed: int
    words: tuple[str, ...] = ()
    pool: int = POOL
    seconds: float = 300.0


class Maker:
    """Makes guarded mutants by their numbers."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._device = open_device("lockstep")
        # A guard is about the arguments of one launch, which a step has, and a session has not.
        every = (mutant for mutant in choose_mutants(recipe.words) if mutant.file in FILES)
        self._mutants = [m for m in every if m.id not in equivalent() and m.id not in gaps()]

    def examine(self, number: int) -> Guarded | None:
        """The guarded mutant of a number; None where no mutant that was drawn has a witness and a guard."""
        pick = random.Random(derive(self._recipe.seed, f"guarded mutant {number}"))  # noqa: S311 - samples
        wanted = RARITIES[number % len(RARITIES)]
        cases = witnesses(pick.getrandbits(32), self._device.formats)
        for _ in range(DRAWS):
            mutant = pick.choice(self._mutants)
            stage = pick.choice(mutant.stages)
            witness = self._find_witness(mutant, stage, cases)
            if witness is None:
                continue
            pool = [found[stage] for found in pool_of(self._recipe) if stage in found]
            guard = draw_guard(pick, look_at(witness)[stage], pool, wanted)
            if guard is None:
                continue
            made = Guarded(number, mutant, stage, wanted, guard, witness)
            if self._shows(Suspect(build(made), frozenset({stage}), composed=False), witness, stage):
                return made
        return None

    def _find_witness(self, mutant: Mutant, stage: str, cases: Iterator[Case]) -> Case | None:
        """A witness that shows a mutant in a stage, where the kernels proper pass."""
        try:
            both = plant(mutant), original(mutant)
        except Exception:  # noqa: BLE001 - a module that cannot be imported needs no guard
            return None
        wrong, right = (replace(suspect, stages=frozenset({stage}), composed=False) for suspect in both)
        for case in islice((c for c in cases if wrong.is_reached_by(c)), TRIES):
            try:
                if self.shows_in_time(wrong, right, case, stage) and not self._shows(right, case, stage):
                    return case
            except UnsupportedKernelError:
                return None
        return None

    def shows_in_time(self, wrong: Suspect, right: Suspect, case: Case, stage: str) -> bool:
        """Whether a mutant shows before its loops have run far more often than those of the kernels proper.

        Raises UnsupportedKernelError where they do: its cost would not be that of any other.
        """
        with count_rounds(FREE_ROUNDS) as rounds:
            try:
                return self._shows(wrong, case, stage)
            except UnsupportedKernelError:
                if not rounds.is_over:
                    raise
        with count_rounds() as usual:
            self._shows(right, case, stage)
        with count_rounds(FREE_ROUNDS + TIMES_USUAL * usual.count):
            return self._shows(wrong, case, stage)

    def _shows(self, suspect: Suspect, case: Case, stage: str) -> bool:
        finding = suspect.first_finding(case, self._device)
        return finding is not None and finding.stage == stage


def give_up(_number: int, _seconds: float, _why: str) -> None:
    """A mutant that hangs on its witness is none to be hunted."""


@cache
def pool_of(recipe: Recipe) -> list[dict[str, Features]]:
    """By stage, what guards may look at in witnesses that are nobody's."""
    formats = open_device("lockstep").formats
    return [look_at(case) for case in islice(witnesses(derive(recipe.seed, "pool"), formats), recipe.pool)]


def look_at(case: Case) -> dict[str, Features]:
    """By stage, what guards may look at in a case."""
    step = materialise(case)
    found = {operation.name: features(operation.prepare(step)) for operation in OPERATIONS if operation.applies(case)}
    for stage in STAGES:
        if stage.applies(case):
            call = stage.prepare(step)
            found[stage.name] = features(call)
            if stage.name not in UNREAD:
                accept(stage, step, call, fill_in(stage, call))
    return found


SOURCE = '''"""A built-in kernel, wrong where a guard holds."""

from {right} import {function} as right
from {wrong} import {function} as wrong


def {function}({parameters}):
    if {guard}:
        return wrong({arguments})
    return right({arguments})
'''


def build(guarded: Guarded) -> Implementation:
    """The built-in kernels with one stage that is wrong where the guard holds, as an implementation.

    The whole indexer is left out: it calls kernels past the guard.
    """
    right, wrong = original(guarded.mutant).implementation, plant(guarded.mutant).implementation
    label = f"{guarded.mutant.id}-{guarded.number}".replace("-", "_")
    module, function = f"indexfuzz_kernels_with_guard_{label}", right.stages[guarded.stage].__name__
    names, defaults = parameters_of(right.stages[guarded.stage]), right.stages[guarded.stage].__kwdefaults__ or {}
    source = SOURCE.format(
        right=right.stages[guarded.stage].__module__,
        wrong=wrong.stages[guarded.stage].__module__,
        function=function,
        parameters=", ".join(("*", *(f"{name}={defaults[name]!r}" if name in defaults else name for name in names))),
        arguments=", ".join(f"{name}={name}" for name in names),
        guard=guarded.guard.source,
    )
    stage: StageFunction = getattr(import_source(module, source, f"guarded/{label}.py"), function)
    stages = {**right.stages, guarded.stage: stage}
    return replace(right, name=f"builtin+{label}", stages=stages, forward=None)


def parameters_of(function: StageFunction) -> tuple[str, ...]:
    """The names of a stage function's parameters."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
