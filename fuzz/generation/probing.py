"""Probing: what lies beyond a contract is tried one clause at a time, so that it is known which of them was broken."""

from collections.abc import Sequence

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses, Lifted, beyond
from indexfuzz.core.rng import derive
from indexfuzz.generation.narrowing import candidates
from indexfuzz.implementations.base import Implementation


def break_one_clause(case: Case, implementation: Implementation) -> Case:
    """The case, brought inside all clauses of a lifted contract but one, which its seed chooses among those it breaks.

    It breaks several only where no single changes lead to fewer. A case that breaks one clause or none stays, and so
    does one that has to be rejected, and any where the contract is no table of clauses.
    """
    contract = implementation.contract
    if not isinstance(contract, Lifted) or not isinstance(contract.contract, Clauses):
        return case
    clauses = [
        clause for clause in contract.contract.clauses if not implementation.stages.keys().isdisjoint(clause.stages)
    ]
    broken = _broken(clauses, case)
    if len(broken) < 2 or not any(beyond(contract, stage, case) for stage in implementation.stages):
        return case
    first = derive(case.values.seed, "clause") % len(broken)
    tried = (_keep_alone(case, clause, clauses) for clause in (*broken[first:], *broken[:first]))
    fewest = case
    for probe in tried:
        if len(_broken(clauses, probe)) < len(_broken(clauses, fewest)):
            fewest = probe
        if len(_broken(clauses, fewest)) == 1:
            break
    return fewest


def _broken(clauses: Sequence[Clause], case: Case) -> list[Clause]:
    return [clause for clause in clauses if not clause.holds(case)]


def _keep_alone(case: Case, kept: Clause, clauses: Sequence[Clause]) -> Case:
    """The case after changes that each mend a clause without mending `kept`, as long as there are any."""
    count = len(_broken(clauses, case))
    while count > 1:
        better = (c for c in candidates(case) if not kept.holds(c) and len(_broken(clauses, c)) < count)
        changed = next(better, None)
        if changed is None:
            return case
        case, count = changed, len(_broken(clauses, changed))
    return case
