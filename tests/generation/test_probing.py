"""Beyond a contract, one clause is broken at a time."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses, Lifted
from indexfuzz.generation.probing import break_one_clause
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.callers import as_callers_do
from tests.toy_contract import CONTRACT, implementation

LIFTED = replace(implementation, contract=Lifted(CONTRACT))
BREAKS_TWO = Case().replace(
    cache={"block_size": 24, "layout": "shuffle"}, batch={"prefill": ({"length": 3, "new": 0},)}
)
CALLERS = Clauses(as_callers_do("engine/caller.py"))
ENGINE = replace(
    implementation, stages=dict.fromkeys(("gather", "paged_logits", "rope"), print), contract=Lifted(CALLERS)
)


def broken(case, table, stages):
    return {str(c) for c in table.clauses if set(c.stages) & set(stages) and not c.holds(case)}


def test_a_case_that_breaks_several_clauses_is_brought_inside_all_but_one():
    seen = set()
    for seed in range(20):
        case = break_one_clause(BREAKS_TWO.replace(values={"seed": seed}), LIFTED)
        (clause,) = broken(case, CONTRACT, ["gather"])
        seen.add(clause)
    assert seen == {"block_size is 1 (toy/ops.py:7)", "SHUFFLE pages hold a multiple of 16 tokens (toy/ops.py:8)"}


def test_each_clause_gets_its_turn():
    case = Case().replace(
        memory={"k_fp8_pad": 8, "missing_pages": 2, "angles_pad": 8},
        batch={"gather_holes": 2, "decode": (3,), "prefill": ({"length": 20, "new": 3},), "max_model_len": 3},
    )
    assert len(broken(case, CALLERS, ENGINE.stages)) == 4
    probes = [break_one_clause(case.replace(values={"seed": seed}), ENGINE) for seed in range(60)]
    found = [broken(probe, CALLERS, ENGINE.stages) for probe in probes]
    assert all(len(clauses) == 1 for clauses in found)
    assert len(set.union(*found)) == 4


def test_clauses_that_exclude_each_other_do_not_hide_the_others():
    """Every case breaks one of the first two; yet those of other stages, and of the same ones, are broken alone."""
    table = Clauses(
        (
            Clause(("gather",), lambda case: case.cache.block_size == 1, "one token", "a"),
            Clause(("k_quant_cache",), lambda case: case.cache.block_size > 1, "several tokens", "b"),
            Clause(("gather", "k_quant_cache"), lambda case: case.cache.page_pad == 0, "no gaps", "c"),
            Clause(("rope",), lambda case: case.memory.q_pad == 0, "q is dense", "d"),
        )
    )
    stages = dict.fromkeys(("gather", "k_quant_cache", "rope"), print)
    tested = replace(implementation, stages=stages, contract=Lifted(table))
    case = Case().replace(memory={"q_pad": 8}, cache={"block_size": 16, "page_pad": 16})
    alone = set()
    for seed in range(40):
        probe = break_one_clause(case.replace(values={"seed": seed}), tested)
        alone |= {(stage, *clauses) for stage in stages if len(clauses := broken(probe, table, [stage])) == 1}
    assert alone >= {("gather", "one token (a)"), ("k_quant_cache", "no gaps (c)"), ("rope", "q is dense (d)")}


@pytest.mark.parametrize(
    "tested",
    [
        implementation,
        replace(builtin(), contract=Lifted(builtin().contract)),
        replace(implementation, contract=Lifted(CONTRACT), stages={"rope": print}),
    ],
)
def test_what_is_not_probed_stays(tested):
    assert break_one_clause(BREAKS_TWO, tested) is BREAKS_TWO


def test_what_breaks_one_clause_stays():
    case = BREAKS_TWO.replace(cache={"block_size": 16})
    assert break_one_clause(case, LIFTED) is case


def test_most_drawn_cases_break_one_clause_at_most():
    stream = stream_cases(0, ("e4m3fn",))
    counts = [len(broken(break_one_clause(next(stream), ENGINE), CALLERS, ENGINE.stages)) for _ in range(150)]
    assert max(counts) == 1
    assert 30 < counts.count(1) < 150
