"""All oracles together: what a campaign asks about one case, and which of them to ask again about one signature.

Every case is compared with the reference. Relations, repetitions and the whole indexer cost several launches each, so
only some cases are put to one of them, chosen by the case's own seed: the same case always gets the same questions.
"""

from collections.abc import Callable
from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import derive
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import composition, differential, repetition
from indexfuzz.oracles.causes import roots
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.oracles.metamorphic.catalogue import COMPILED, RELATIONS
from indexfuzz.oracles.metamorphic.containment import CONTAINED
from indexfuzz.oracles.metamorphic.relation import Relation
from indexfuzz.oracles.nonfinite import judge

Oracle = Callable[[Case, Implementation, Device, frozenset[str]], Outcome]

RELATED, REPEATED, COMPOSED = 3, 1, 3
"""Of SHARE cases, how many are put to one relation each, how many are repeated, and how many are run as a whole where
they have several requests to mix up."""

SHARE = 16

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in (*RELATIONS, COMPILED, CONTAINED)}


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Compare a case with the reference; where that shows nothing, ask what else its seed says.

    Raises UnsupportedKernelError as `differential.run` does.
    """
    outcome = differential.run(case, implementation, device, only)
    if not outcome.findings:
        for ask in _others(case):
            outcome.findings += ask(case, implementation, device, only).findings
    return outcome


def _others(case: Case) -> list[Oracle]:
    if judge.is_drawn(case):
        return [_related(CONTAINED)]
    drawn = derive(case.values.seed, "oracles")
    kind, which = drawn % SHARE, drawn // SHARE % len(RELATIONS)
    if kind < RELATED:
        return [_related(RELATIONS[which])]
    if kind < RELATED + REPEATED:
        return [repetition.run]
    if kind < RELATED + REPEATED + COMPOSED and sum(request.new > 0 for request in case.batch.prefill) > 1:
        return [composition.run]
    return []


def _related(relation: Relation) -> Oracle:
    return partial(runner.run, relations=(relation,))


def about(signature: str) -> Oracle:
    """The cheapest oracle that shows a signature, for making its case smaller and for running it again."""
    kind, _, rest = signature.partition("/")[2].partition("/")
    name = rest.partition("/")[0]
    if kind == "metamorphic" and name in BY_NAME:
        return _related(BY_NAME[name])
    if f"{kind}/{name}" == composition.KIND:
        return composition.run
    if kind == "nondeterministic":
        return repetition.run
    return _with_repetition if kind == "uninitialised" else differential.run


def _with_repetition(case: Case, implementation: Implementation, device: Device, only: frozenset[str]) -> Outcome:
    """A device that tracks what is defined sees a use of garbage at once; on others it takes a second launch."""
    outcome = differential.run(case, implementation, device, only)
    outcome.findings = roots([*outcome.findings, *repetition.run(case, implementation, device, only).findings])
    return outcome
