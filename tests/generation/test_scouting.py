"""Scouting: of many rehearsed cases those are run that end a condition as few have, in the stages that do so."""

from dataclasses import replace
from itertools import islice

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.drawing import draw_chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.devices import open_device
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.scouting import MOST_TAKEN, Scout, first_goals, send_out, take_rare
from indexfuzz.generation.searching import DECISIONS, search
from indexfuzz.generation.sights import RARE
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.subjects.in_process import InProcess

LOCKSTEP = open_device("lockstep")
CASES = list(islice(stream_cases(5, LOCKSTEP.formats), 2 * MOST_TAKEN))
SOURCE = """
from indexfuzz.kernels.gather import gather as right

def gather(*, cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group, layout):
    if k_fp8.shape[0] % 16 == 5:
        pass
    return right(cache=cache, block_table=block_table, cu_seqlens=cu_seqlens, token_to_seq=token_to_seq, k_fp8=k_fp8,
                 k_scale=k_scale, quant_group=quant_group, layout=layout)
"""


def subject_with(name):
    gather = import_source(f"indexfuzz_kernels_with_{name}", SOURCE, f"scouted/{name}.py")
    return InProcess(replace(builtin(), stages={"gather": gather.gather}), LOCKSTEP)


def scout(case, stage="gather", *, settles=None, **ends):
    """A scout in whose stage the conditions of these texts end so."""
    compared = [Comparison("launcher.py", 1, text, end, settles=settles) for text, end in ends.items()]
    return Scout(case, {stage: compared})


def shown(count, *texts):
    """That many cases have ended conditions of these texts each way."""
    return {(("launcher.py", 1, text), end): count for text in texts for end in (False, True)}


class TestTakeRare:
    def test_an_end_that_few_have_shown_is_taken_and_one_that_enough_have_is_not(self):
        scouts = [scout(CASES[0], a=True), scout(CASES[1], a=False)]
        few = {(("launcher.py", 1, "a"), True): RARE - 1, (("launcher.py", 1, "a"), False): RARE}
        assert take_rare(scouts, few) == [(CASES[0], frozenset({"gather"}))]
        assert take_rare(scouts, shown(RARE, "a")) == []

    def test_no_end_is_taken_twice_and_what_a_taken_case_shows_takes_no_other(self):
        scouts = [scout(CASES[0], a=True), scout(CASES[1], a=True), scout(CASES[2], a=True, b=True)]
        found = take_rare(scouts, {})
        assert [case.id for case, _ in found] == [CASES[2].id]

    def test_what_the_fewest_have_shown_comes_first_and_no_more_than_so_many_are_taken(self):
        scouts = [scout(case, **{f"c{i}": True}) for i, case in enumerate(CASES)]
        known = {(("launcher.py", 1, f"c{i}"), True): len(CASES) - i for i in range(len(CASES))}
        wanted = [case.id for case in CASES[::-1][:MOST_TAKEN]]
        assert [case.id for case, _ in take_rare(scouts, known)] == wanted

    def test_an_end_that_settles_a_joined_condition_is_not_taken(self):
        assert take_rare([scout(CASES[0], settles=False, a=False)], {}) == []
        assert len(take_rare([scout(CASES[0], settles=False, a=True)], {})) == 1

    def test_a_case_is_taken_for_the_stages_that_show_it(self):
        both = Scout(CASES[0], {**scout(CASES[0], "rope", a=True).compared, **scout(CASES[0], "topk", b=True).compared})
        assert take_rare([both], {}) == [(CASES[0], frozenset({"rope", "topk"}))]
        assert take_rare([both], shown(RARE, "a")) == [(CASES[0], frozenset({"topk"}))]


def test_a_chunk_that_knows_nothing_runs_what_few_show_for_the_stage_alone_but_for_the_first():
    wanted = Settings(subject_with("first_chunk"), seed=3)
    found = [one for one in draw_chunk(wanted, Chunk(1)) if one.only == {"gather"} and one.case.batch.keys % 16 == 5]
    assert found
    assert not any(one.only for one in draw_chunk(wanted, Chunk(0)))
    assert not any(one.only for one in draw_chunk(replace(wanted, steered=False), Chunk(1)))


def test_a_search_sets_out_from_the_scout_that_stands_nearest():
    under_test = subject_with("nearest")
    scouts = send_out(CASES, under_test.rehearse)
    meets = Case().replace(batch={"decode": (), "prefill": ({"length": 37, "new": 3},)})
    goal = next(goal for goal in first_goals(scouts) if goal.place[2] == "k_fp8.shape[0] % 16 == 5")
    others = [one for one in scouts if one.case.batch.keys % 16 != 5 and one.case.batch.keys]
    sets_out = bytes([2]) + bytes(DECISIONS - 1)
    start = replace(goal, case=others[0].case, wanted=True)
    near = [*send_out([meets], under_test.rehearse), *others[:3]]
    (first, *_) = search(CASES[0], start, under_test.rehearse, Choices(sets_out), near).cases
    assert first.replace(values=meets.values.model_dump()) == meets
