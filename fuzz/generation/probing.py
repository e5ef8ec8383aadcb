"""Probing: what lies beyond a contract is tried one clause at a time, so that it is known which of them was broken."""

from collections.abc import Collection, Sequence

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses, Lifted, beyond
from indexfuzz.core.rng import derive
from indexfuzz.generation.narrowing import candidates
from indexfuzz.implementations.base import Implementation


def break_one_clause(case: Case, implementation: Implementation) -> Case:
    """The case, changed until a clause of a lifted contract is the only one that some stage finds broken.

    Its seed chooses the clause among those that it breaks. Other stages may break others, since some contracts cannot
    be kept whole: one stage takes NORMAL pages alone, another all but those. Where no single changes leave a clause
    alone, the next one is tried. A case that breaks one clause or none stays, and so does one that has to be rejected,
    and any where the contract is no table of clauses.
    """
    contract = implementation.contract
    if not isinstance(contract, Lifted) or not isinstance(contract.contract, Clauses):
        return case
    stages = implementation.stages.keys()
    clauses = [clause for clause in contract.contract.clauses if not stages.isdisjoint(clause.stages)]
    broken = _broken(clauses, case)
    if len(broken) < 2 or not any(beyond(contract, stage, case) for stage in stages):
        return case
    first = derive(case.values.seed, "clause") % len(broken)
    probes = []
    for clause in (*broken[first:], *broken[:first]):
        probe = _keep_alone(case, clause, clauses, stages)
        crowd = _crowd(clause, _broken(clauses, probe), stages)
        if crowd[0] == 1:
            return probe
        probes.append((crowd, probe))
    return min(probes, key=lambda probe: probe[0])[1]


def _broken(clauses: Sequence[Clause], case: Case) -> list[Clause]:
    return [clause for clause in clauses if not clause.holds(case)]


def _keep_alone(case: Case, kept: Clause, clauses: Sequence[Clause], stages: Collection[str]) -> Case:
    """The case after changes that each leave less broken beside `kept` without mending it, as long as there are any."""
    now = _crowd(kept, _broken(clauses, case), stages)
    changes = candidates(case)
    while (changed := next(changes, None)) is not None:
        broken = _broken(clauses, changed)
        if kept in broken and (crowd := _crowd(kept, broken, stages)) < now:
            case, now, changes = changed, crowd, candidates(changed)
    return case


def _crowd(kept: Clause, broken: Collection[Clause], stages: Collection[str]) -> tuple[int, int, int]:
    """How far `kept` is from being broken alone; less is better.

    The clauses broken of the stage of `kept` that has fewest, those of all stages beyond the first of each, and all.
    """
    counts = {stage: sum(stage in clause.stages for clause in broken) for stage in stages}
    own = min(counts[stage] for stage in kept.stages if stage in counts)
    return own, sum(max(count - 1, 0) for count in counts.values()), len(broken)
