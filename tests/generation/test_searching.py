"""Searching: cases are brought behind conditions that are joined, whatever they look at, by rehearsing them."""

import os
from dataclasses import replace
from itertools import chain, islice

import pytest

from indexfuzz.campaign.chunk import Chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import steer_cases
from indexfuzz.core.rng import random_bytes
from indexfuzz.core.stage_names import FORWARD
from indexfuzz.devices import open_device
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.goals import Goals
from indexfuzz.generation.scouting import send_out
from indexfuzz.generation.searching import DECISIONS, VARIED, search
from indexfuzz.generation.stream import stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels, import_source
from indexfuzz.subjects.in_process import InProcess

LOCKSTEP = open_device("lockstep")
SOURCE = """
from indexfuzz.kernels.gather import gather as right

def gather(*, cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group, layout):
    if {conditions}:
        pass
    return right(cache=cache, block_table=block_table, cu_seqlens=cu_seqlens, token_to_seq=token_to_seq, k_fp8=k_fp8,
                 k_scale=k_scale, quant_group=quant_group, layout=layout)
"""


def subject_with(name, conditions):
    gather = import_source(
        f"indexfuzz_kernels_with_{name}", SOURCE.format(conditions=conditions), f"searched/{name}.py"
    )
    implementation = builtin()
    return InProcess(replace(implementation, stages={**implementation.stages, "gather": gather.gather}), LOCKSTEP)


def goals_of(subject, count, seed=7):
    """What that many cases decide, by rehearsals alone, and the cases that are drawn next."""
    goals, drawn = Goals(), stream_cases(seed, LOCKSTEP.formats)
    for case in map(subject.narrow, islice(drawn, count)):
        goals.add(case, compared(subject, case))
    return goals, drawn


def compared(subject, case):
    """What the condition of the launcher compares."""
    return [one for one in subject.rehearse(case, ("gather",)).get("gather", ()) if "searched/" in one.file]


def decided(subject, case, text):
    """How the places of a text end in a case."""
    return {one.holds for one in compared(subject, case) if one.text == text}


CONDITIONS = {
    "sizes": ("k_fp8.shape[0] >= 77", "cache.shape[1] == 48", "k_fp8.shape[1] == 128"),
    "strides": ("k_fp8.stride(0) % 7 == 3", "block_table.stride(0) > 40", "cache.stride(0) * 2 >= 30000"),
    "words": ("layout == 'shuffle'", "cu_seqlens.shape[0] == 4", "k_fp8.shape[0] % 16 == 5"),
    "contents": ("int(cu_seqlens.sum()) % 100 == 17", "int(block_table.max()) == 21", "cache.shape[0] % 5 == 1"),
}


STREAMS = dict.fromkeys(CONDITIONS, range(7, 12)) | {"contents": range(7, 13)}
"""Streams of cases, in each of which the conditions are met."""


@pytest.mark.parametrize("name", CONDITIONS)
def test_joined_conditions_are_met_in_few_rounds(name):
    assert all(_is_met(name, seed) for seed in STREAMS[name])


def _is_met(name, seed):
    """Whether cases of a stream are brought behind all conditions within five rounds."""
    conditions = CONDITIONS[name]
    subject = subject_with(f"{name}_{seed}", " and ".join(conditions))
    goals, drawn = goals_of(subject, 20, seed)
    for number in range(5):
        for i, goal in enumerate(goals.plan()):
            choices = Choices(random_bytes(number, str(i), DECISIONS))
            fresh = next(drawn)
            found = search(fresh, goal, subject.rehearse, choices, send_out([fresh], subject.rehearse))
            assert found.stages == {"gather"}
            for case in found.cases:
                goals.add(case, compared(subject, case))
            if any(decided(subject, case, conditions[-1]) == {True} for case in found.cases):
                return True
    return False


def test_a_place_that_no_rehearsal_comes_to_is_not_searched_for():
    subject = subject_with("nowhere", "k_fp8.shape[0] == 12345")
    goals, drawn = goals_of(subject, 10)
    goal = goals.plan()[0]
    elsewhere = replace(goal, place=("searched/nowhere.py", 1, "x == y"))
    assert search(next(drawn), elsewhere, subject.rehearse, Choices(bytes(DECISIONS))) is None


def test_a_launcher_that_decides_only_once_is_no_error():
    subject = subject_with("once", "k_fp8.shape[0] == 12345")
    goals, drawn = goals_of(subject, 10)
    goal, asked = goals.plan()[0], []

    def rehearse(case, stages):
        asked.append(case)
        return subject.rehearse(case, stages) if len(asked) == 1 else {}

    assert search(next(drawn), goal, rehearse, Choices(random_bytes(0, "once", DECISIONS))).stages == {"gather"}
    assert len(asked) > 1


def test_a_goal_that_is_met_gives_several_cases_that_all_meet_it():
    subject = subject_with("several", "k_fp8.shape[0] > 20")
    goals, drawn = goals_of(subject, 20)
    (goal, *_) = goals.plan()
    choices = Choices(random_bytes(0, "several", DECISIONS))
    found = search(next(drawn), replace(goal, wanted=True), subject.rehearse, choices)
    assert len({case.id for case in found.cases} - {goal.case.id}) == VARIED
    assert all(decided(subject, case, "k_fp8.shape[0] > 20") == {True} for case in found.cases)


def test_a_search_goes_on_to_what_few_cases_have_shown_and_not_to_what_many_have():
    first, then = "k_fp8.shape[0] > 20", "cache.shape[1] == 48"
    subject = subject_with("behind", f"{first} and {then}")
    goals, drawn = goals_of(subject, 20)
    goal = next(goal for goal in goals.plan() if goal.place[2] == then)
    there = replace(goal, place=(*goal.place[:2], first), leading=())
    assert (goal.place, True) in there.rare
    ends = {}
    for rare in (there.rare, frozenset()):
        choices = Choices(random_bytes(0, "behind", DECISIONS))
        found = search(next(drawn), replace(there, rare=rare), subject.rehearse, choices)
        ends[bool(rare)] = {end for case in found.cases for end in decided(subject, case, then)}
    assert ends[True] == {True}
    assert False in ends[False]


def test_cases_that_meet_a_goal_have_values_and_options_of_fresh_ones_whatever_met_it_first():
    subject = subject_with("varied", "k_fp8.shape[0] > 20")
    goals, drawn = goals_of(subject, 20)
    (goal, *_) = goals.plan()
    plain = goal.case.replace(values={"k": "ties", "q": "ties", "cache": "ties"})
    scouts = send_out(islice(drawn, 20), subject.rehearse)
    found = []
    for number in range(5):
        choices = Choices(random_bytes(number, "varied", DECISIONS))
        goal = replace(goal, case=plain, wanted=True)
        found += search(next(drawn), goal, subject.rehearse, choices, scouts).cases
    assert all(decided(subject, case, "k_fp8.shape[0] > 20") == {True} for case in found)
    assert len({case.values.cache for case in found}) > 3
    assert len({case.memory.table_tail for case in found}) > 1
    assert sum(case.values.cache == "ties" for case in found) < len(found) // 4
    assert sum(case.values.seed == plain.values.seed for case in found) < len(found) // 2


def test_what_meets_a_goal_is_varied_where_nothing_turns_what_stands_behind_it():
    first, then = "k_fp8.shape[0] > 20", "cache.shape[1] == 12345"
    subject = subject_with("nothing_behind", f"{first} and {then}")
    goals, drawn = goals_of(subject, 20)
    goal = next(goal for goal in goals.plan() if goal.place[2] == then)
    there = replace(goal, place=(*goal.place[:2], first), leading=())
    choices = Choices(random_bytes(0, "nothing", DECISIONS))
    found = search(next(drawn), there, subject.rehearse, choices, send_out(islice(drawn, 9), subject.rehearse))
    assert len({case.id for case in found.cases}) == 2
    assert all(decided(subject, case, first) == {True} for case in found.cases)
    assert all(decided(subject, case, then) == {False} for case in found.cases)


INSERTING = """
from indexfuzz.kernels.cache import k_quant_cache as right

def k_quant_cache(k, cache, slot_mapping, **options):
    rows = k[: len(slot_mapping)][slot_mapping >= 0]
    if rows.shape[0] > 4096:
        pass
    return right(k, cache, slot_mapping, **options)
"""


def test_thousands_of_tokens_with_a_slot_are_found_where_a_launcher_drops_the_others():
    inserting = import_source("indexfuzz_kernels_with_inserting", INSERTING, "searched/inserting.py")
    subject = InProcess(replace(builtin(), stages={"k_quant_cache": inserting.k_quant_cache}), LOCKSTEP)

    def compared(case):
        return [one for one in subject.rehearse(case, ()).get("k_quant_cache", ()) if "searched/" in one.file]

    goals, drawn = Goals(), stream_cases(7, LOCKSTEP.formats)
    for case in map(subject.narrow, islice(drawn, 30)):
        goals.add(case, compared(case))
    (goal, *_) = goals.plan()
    met = [search(next(drawn), goal, subject.rehearse, Choices(random_bytes(i, "k", DECISIONS))) for i in range(6)]
    shown = [[one.holds for case in found.cases for one in compared(case)] for found in met]
    assert sum(map(any, shown)) > len(met) // 2


def steered(subject, goals, drawn):
    chunk = Chunk(9, goals=goals)
    return list(chain.from_iterable(steer_cases(Settings(subject), 3, list(islice(drawn, len(goals))), chunk).found))


def test_the_same_key_finds_the_same_cases_for_the_stages_that_decide():
    subject = subject_with("again", "k_fp8.shape[0] == 77 and cache.shape[1] == 48")
    goals, drawn = goals_of(subject, 20)
    plan = goals.plan()
    fresh = list(islice(drawn, len(plan)))
    found = steered(subject, plan, iter(fresh))
    assert found == steered(subject, plan, iter(fresh))
    assert any(one.only == {"gather"} and one.case.batch.keys == 77 for one in found)


def subject_whose_whole_looks_at_rows():
    old = "    num_rows, num_keys, head_dim = q_fp8.shape[0], prefill.token_to_seq.shape[0], q_fp8.shape[2]\n"
    label, file, condition = "whole-of-211-rows", "kernels/indexer.py", "    if num_rows == 211:\n        pass\n"
    return InProcess(builtin(edited_kernels(label, [(label, file, old, old + condition)])), LOCKSTEP)


def test_what_the_whole_indexer_decides_is_searched_for_and_put_to_all_stages():
    subject = subject_whose_whole_looks_at_rows()
    goals, drawn = Goals(), stream_cases(7, LOCKSTEP.formats)
    for case in map(subject.narrow, islice(drawn, 20)):
        goals.add(case, [one for one in subject.rehearse(case).get(FORWARD, ()) if one.text == "num_rows == 211"])
    (goal, *_) = goals.plan()
    found = steered(subject, [goal], drawn)
    assert {one.case.batch.prefill_rows for one in found} == {211}
    assert {one.only for one in found} == {frozenset()}
    chosen = Settings(subject, only=frozenset({"gather"}))
    assert steer_cases(chosen, 3, list(islice(drawn, 1)), Chunk(9, goals=(goal,))).found == [[]]


def test_a_launcher_that_dies_without_its_kernels_is_steered_by_guesses():
    subject = subject_with("dying", "k_fp8.shape[0] == 77")
    goals, drawn = goals_of(subject, 20)
    plan = goals.plan()
    dying = InProcess(replace(subject.implementation, stages={"gather": _die}), LOCKSTEP)
    found = steered(dying, plan, drawn)
    assert all(one.only == frozenset() for one in found)
    assert any(one.case.batch.keys == 77 for one in found)


def _die(**_):
    os._exit(1)
