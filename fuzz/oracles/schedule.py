"""All oracles, a row each: which are asked about a case, and which of them can show a signature.

Every case is compared with the reference, and the whole indexer takes every step that all of its stages were right in,
which costs little more. The others cost several launches each, so each is asked about a share of the cases only, chosen
by the case's own seed: the same case always gets the same questions, and a row more or less changes nothing for the
others. Cases of one shape whose seeds differ by multiples of ALIKE get the same questions, too: what these launch is
compiled once for all of them.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.core.kinds import KINDS
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import ALIKE, derive
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.lockstep import recall_launches
from indexfuzz.oracles import (
    composition,
    differential,
    history,
    next_step,
    paths,
    repetition,
    replay,
    schedules,
    sessions,
    streams,
    tuning,
    walked,
)
from indexfuzz.oracles.causes import part_consequences
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.oracles.metamorphic.catalogue import COMPILED, RELATIONS
from indexfuzz.oracles.metamorphic.containment import CONTAINED
from indexfuzz.oracles.metamorphic.relation import Relation
from indexfuzz.stages.nonfinite import may_be_nonfinite

Run = Callable[[Case, Implementation, Device, frozenset[str]], Outcome]


@dataclass(frozen=True)
class Oracle:
    """One question about a case.

    `share` of the cases that it `applies` to are asked it, 1 for all. `run` answers, for the stages that are named, or
    all of them; `kinds` are those of the findings it may report.
    """

    name: str
    share: float
    applies: Callable[[Case], bool]
    run: Run
    kinds: frozenset[str]

    def is_asked(self, case: Case) -> bool:
        """Whether a case is one of its share."""
        drawn = derive(case.values.seed % ALIKE, f"oracle {self.name}") / 2**63
        return drawn < self.share and self.applies(case)


def _is_session(case: Case) -> bool:
    return bool(case.session.steps)


def _is_step(case: Case) -> bool:
    return not _is_session(case)


def _is_finite(case: Case) -> bool:
    return _is_step(case) and not may_be_nonfinite(case)


def _run_compiled(case: Case, implementation: Implementation, device: Device, only: frozenset[str]) -> Outcome:
    """RoPE under torch.compile, where there is such a mode and a compiler for what it makes."""
    if not (implementation.promises.rope_compiled and any(map(shutil.which, COMPILERS))):
        return Outcome(case)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else each process of a campaign starts a pool of them
    return runner.run(case, implementation, device, only, relations=(COMPILED,))


COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")
"""What torch.compile looks for."""


def _of_relation(relation: Relation, share: float, applies: Callable[[Case], bool] = _is_finite) -> Oracle:
    run = partial(runner.run, relations=(relation,))
    return Oracle(relation.name, share, applies, run, frozenset({relation.kind}))


ORACLES = (
    Oracle("reference", 1, _is_step, differential.run, frozenset(KINDS) - {"nondeterministic", history.KIND}),
    Oracle("session", 1, _is_session, sessions.run, frozenset(KINDS) - {"nondeterministic", history.KIND}),
    Oracle("schedules", 1 / 8, _is_session, schedules.run, frozenset({schedules.KIND})),
    Oracle("repetition", 1 / 16, _is_finite, repetition.run, frozenset({"nondeterministic", "uninitialised"})),
    Oracle("history", 1 / 16, _is_finite, history.run, frozenset({history.KIND})),
    Oracle("replay", 1 / 16, lambda case: not may_be_nonfinite(case), replay.run, frozenset({replay.KIND})),
    Oracle("tuning", 1 / 16, lambda case: not may_be_nonfinite(case), tuning.run, frozenset({tuning.KIND})),
    Oracle("streams", 1 / 16, lambda case: not may_be_nonfinite(case), streams.run, frozenset({streams.KIND})),
    Oracle("composition", 1, _is_finite, composition.run, frozenset({composition.KIND})),
    Oracle("next-step", 1 / 8, _is_finite, next_step.run, frozenset({next_step.KIND, history.KIND})),
    Oracle("paths", 1 / 16, _is_finite, paths.run, frozenset({paths.KIND})),
    *(_of_relation(relation, 1 / 64) for relation in RELATIONS),
    Oracle(COMPILED.name, 1 / 512, _is_finite, _run_compiled, frozenset({COMPILED.kind})),
    _of_relation(CONTAINED, 1, may_be_nonfinite),
)
"""The comparisons with the reference, of a step and of a session, and then the others, the cheapest first."""

REFERENCE, SESSION, *OTHERS = ORACLES


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Compare a case with the reference; while that shows nothing, ask what else its seed says.

    Launchers always run, but a kernel of lockstep does not run twice on the same bytes.
    Raises UnsupportedKernelError as `differential.run` does.
    """
    first = SESSION if _is_session(case) else REFERENCE
    others = [oracle for oracle in OTHERS if oracle.is_asked(case)]
    with walked.keeping(), recall_launches() if others else nullcontext():
        outcome = first.run(case, implementation, device, only)
        for oracle in others:
            if not outcome.findings:
                outcome.findings += oracle.run(case, implementation, device, only).findings
    return outcome


def ask(
    case: Case,
    implementation: Implementation,
    device: Device,
    signature: Signature,
    only: frozenset[str] = frozenset(),
) -> Outcome:
    """Ask the oracles that can show a signature until one does; for making its case smaller and for running it again.

    A device that tracks what is defined sees a use of garbage at once, for example; others need a second launch.
    """
    outcome = Outcome(case)
    for oracle in oracles_for(signature, case):
        answer = oracle.run(case, implementation, device, only)
        answer.findings, consequences = part_consequences([*outcome.findings, *answer.findings])
        answer.consequences = [*outcome.consequences, *answer.consequences, *consequences]
        outcome = answer
        if any(finding.signature == signature for finding in outcome.findings):
            break
    return outcome


def oracles_for(signature: Signature, case: Case) -> list[Oracle]:
    """The oracles that can show a signature in a case, the cheapest first."""
    asked = [oracle for oracle in ORACLES if oracle.applies(case)]
    return [oracle for oracle in asked if signature.kind in oracle.kinds] or asked[:1]
