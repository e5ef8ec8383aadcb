"""Steering: cases are taken to where a comparison turns, by whatever field moves it."""

from dataclasses import replace
from functools import partial

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.rng import random_bytes
from indexfuzz.evaluation.mutation.guarded import look_at
from indexfuzz.generation.affording import is_affordable
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.conditions import Condition, Operand
from indexfuzz.generation.goals import Goal, Goals
from indexfuzz.generation.guess import Guess
from indexfuzz.generation.levers import levers, movers, reach
from indexfuzz.generation.measures import CONTENTS, OPTIONS, contents, measure, number_of
from indexfuzz.generation.steering import DECISIONS, mend, steer
from indexfuzz.generation.stream import stream_cases
from indexfuzz.samples.integers import integer_inputs

FORMATS = ("e4m3fn",)
BASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16},
    batch={"decode": (5, 30), "prefill": ({"length": 40, "new": 7},), "max_model_len": 64, "next_n": 2},
)


STILL = {"cu_seqlens.min", "cu_seqlens.first", "token_to_seq.min", "token_to_req.first"}
"""What is 0, and -1 where a request is shorter than its step, whatever the numbers of a case are."""


def at(name, value, *, wanted=True):
    """The condition that a size is a number, or is none."""
    return Condition(f"x == {value}", Operand(guesses=(Guess(name),)), Operand(value), wanted)


def steered(goal, count=40):
    stream = stream_cases(5, FORMATS)
    return [steer(next(stream), goal, Choices(random_bytes(1, str(i), DECISIONS))) for i in range(count)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("decode", 257), ("tokens", 1000), ("keys", 2049), ("max_model_len", 129), ("decode_columns", 9)),
        *(("k_stride", 77), ("q_stride", 640), ("page_stride", 16 * 36 + 48), ("paged_logits_stride", 641)),
        *(
            ("decode_rows", 33),
            ("num_blocks", 50),
            ("head_rows", 10240),
            ("q_fp8_request_stride", 150),
            ("last_decode", 63),
            ("inserted", 4097),
        ),
    ],
)
def test_every_kind_of_measure_can_be_brought_to_a_value(name, value):
    found = reach(BASE, name, value, levers(BASE))
    assert found is not None
    assert measure(found)[name] == value


TABLES = BASE.replace(cache={"pages": "highest"}, batch={"decode": (20, 30), "pad_tokens": 0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ks.min", 3), ("ks.first", 50)),
        *(("decode_table.first", 24), ("decode_table.min", 24), ("context_lens.min", 34), ("context_lens.last", 0)),
        *(("slot_mapping.last", 199), ("slot_mapping.min", 67), ("positions.first", 60), ("token_to_req.last", 3)),
    ],
)
def test_what_tensors_hold_first_last_and_least_can_be_brought_to_a_value(name, value):
    found = reach(TABLES, name, value, movers(TABLES, name))
    assert found is not None
    assert contents(found)[name] == value


@pytest.mark.parametrize("name", [name for name in CONTENTS if name not in STILL])
def test_some_lever_is_known_to_move_what_a_tensor_holds(name):
    assert movers(TABLES, name)


WORDS = {
    "style": ("neox", "interleaved"),
    "mode": ("inplace", "functional"),
    "placement": ("first", "last"),
    "scale_fmt": ("ue8m0", "fp32"),
    "fp8": ("e4m3fn", "e4m3fnuz"),
    "layout": ("normal", "shuffle"),
    "asked_layout": ("auto", "normal", "shuffle", "shuffle-scales"),
    "scales": ("fp32", "ue8m0", "mxfp4"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_can_be_brought_to_a_word_and_away_from_it(name):
    """Whichever word it has now: a word may stand before or behind it."""
    for word in map(number_of, WORDS[name]):
        is_it = Condition("x == 'word'", Operand(guesses=(Guess(name),)), Operand(word), wanted=True)
        others = [case for case in map(partial(with_word, name), WORDS[name]) if measure(case)[name] != word]
        there = [mend(case, is_it, Choices(bytes(64)), 0) for case in others]
        assert [measure(case)[name] for case in there] == [word] * len(others)
        away = replace(is_it, wanted=False)
        elsewhere = [mend(case, away, Choices(bytes(64)), 0) for case in there]
        assert all(measure(case)[name] != word for case in elsewhere)


@pytest.mark.parametrize(("text", "limit", "size"), [("x >= 106", 106, 132), ("x <= 40", 40, 36)])
def test_a_measure_that_has_few_values_is_brought_beyond_a_limit(text, limit, size):
    """No key has 106 bytes, nor has one 40."""
    limited = Condition(text, Operand(guesses=(Guess("token_bytes"),)), Operand(limit), wanted=True)
    found = mend(BASE.replace(model={"head_dim": 64, "quant_group": 64}), limited, Choices(bytes(64)), 0)
    assert measure(found)["token_bytes"] == size


def with_word(name, word):
    return reach(BASE, name, number_of(word), levers(BASE))


def test_what_no_lever_reaches_is_none():
    assert reach(BASE, "page_stride", 7, levers(BASE)) is None


@pytest.mark.parametrize("case", [BASE, BASE.replace(memory={"k_pad": 3, "table_pad": 5, "q_pad": 2, "logits_pad": 9})])
def test_measures_are_the_sizes_and_strides_that_tensors_have(case):
    found, sizes = look_at(case), measure(case)
    pairs = {
        ("rope", "q.stride(0)"): "q_stride",
        ("rope", "k.stride(0)"): "k_stride",
        ("rope", "q.shape[0]"): "tokens",
        ("q_quant", "weights.stride(0)"): "weights_stride",
        ("k_quant_cache", "cache.stride(0)"): "page_stride",
        ("k_quant_cache", "cache.shape[0]"): "num_blocks",
        ("gather", "block_table.stride(0)"): "prefill_table_stride",
        ("gather", "token_to_seq.shape[0]"): "keys",
        ("paged_logits", "block_table.shape[1]"): "decode_columns",
        ("paged_logits", "logits.stride(0)"): "paged_logits_stride",
        ("paged_logits", "q_fp8.stride(0)"): "q_fp8_request_stride",
        ("prefill_logits", "logits.stride(0)"): "prefill_logits_stride",
    }
    assert {pair: found[pair[0]][pair[1]] for pair in pairs} == {pair: sizes[name] for pair, name in pairs.items()}


@pytest.mark.parametrize("short", [False, True])
def test_tokens_that_are_inserted_are_those_that_have_a_slot(short):
    case = BASE.replace(batch={"decode": (1, 30, 5), "next_n": 4, "pad_tokens": 3, "short_slots": short})
    slots = integer_inputs(case)["slot_mapping"]
    assert measure(case)["inserted"] == int((slots >= 0).sum()) == 1 + 4 + 4 + 7


def test_thousands_of_tokens_are_affordable_where_keys_alone_are_looked_at():
    many = reach(BASE.replace(model={"num_heads": 1, "head_dim": 128}), "inserted", 4097, levers(BASE))
    assert is_affordable(many, stages={"k_quant_cache"})
    assert not is_affordable(many, stages={"k_quant_cache", "rope"})
    assert not is_affordable(many)
    assert not is_affordable(many.replace(batch={"max_model_len": 8000}), stages={"k_quant_cache"})


def test_cases_steered_to_an_aim_are_at_it_or_beside_it():
    there = [len(case.batch.decode) == 257 for case in steered(Goal(BASE, at("decode", 257), gap=255))]
    assert sum(there) >= len(there) * 3 // 4


def test_cases_steered_to_an_aim_keep_what_leads_there():
    keep = at("block_size", 16), at("decode_context", 30), at("num_heads", 2)
    for turn in (at("keys", 77), at("index_topk", 33), at("page_stride", 16 * 132 + 64)):
        found = [measure(case) for case in steered(Goal(BASE, turn, keep), 20)]
        assert sum(all(c.holds(measures) for c in (turn, *keep)) for measures in found) >= 15


def test_conditions_on_what_tensors_hold_are_met():
    turn = Condition("x % 7 == 3", Operand(guesses=(Guess("context_lens.sum", "modulo", 7),)), Operand(3), wanted=True)
    found = [measure(case) for case in steered(Goal(BASE, turn, (at("num_heads", 2),)), 20)]
    assert sum(turn.holds(measures) and measures["num_heads"] == 2 for measures in found) >= 15


def test_where_nothing_is_known_to_turn_it_a_number_is_moved_by_what_is_missing():
    found = steered(Goal(BASE, gap=255), 80)
    assert any(255 in (len(c.batch.decode) - 2, c.memory.k_pad, c.batch.gather_pad, c.memory.q_pad) for c in found)


def test_variants_of_a_rare_case_keep_what_may_have_been_rare_and_change_the_rest():
    rare = BASE.replace(batch={"decode": (7,) * 300})
    found = steered(Goal(rare), 80)
    kept = [case for case in found if len(case.batch.decode) == 300]
    assert len(kept) >= len(found) // 5
    assert len({case.memory.table_pad > 0 for case in kept}) == 2


def test_variants_of_a_rare_case_show_again_what_is_known_to_be_rare():
    rare = BASE.replace(batch={"decode": (7,) * 300})
    found = steered(Goal(rare, at("decode", 300)))
    assert all(len(case.batch.decode) == 300 for case in found)
    assert len({case.memory.table_pad > 0 for case in found}) == 2


def test_no_steered_case_is_more_work_than_the_largest_that_are_drawn():
    start = BASE.replace(batch={"decode": (8000,), "max_model_len": 8000})
    heavy = Goal(start, at("num_heads", 128), (at("decode", 600),))
    fresh = {case.id for case, _ in zip(stream_cases(5, FORMATS), range(40), strict=False)}
    assert all(is_affordable(case) or case.id in fresh for case in steered(heavy))
    assert not is_affordable(heavy.case.replace(model={"num_heads": 128}))


def test_a_table_of_a_million_entries_is_too_much_work():
    many = BASE.replace(batch={"decode": (1,) * 500, "next_n": 1})
    assert is_affordable(many.replace(memory={"table_extra": 500}))
    assert not is_affordable(many.replace(memory={"table_extra": 2200}))


def test_what_a_preset_says_stays():
    fresh = next(stream_cases(1, FORMATS))
    goal = Goal(BASE, at("num_heads", 7), (at("block_size", 32), at("rope_dim", 8)))
    for i in range(30):
        case = steer(fresh, goal, Choices(random_bytes(2, str(i), DECISIONS)), is_pinned=True)
        assert case == fresh or (case.model, case.cache.block_size) == (BASE.model, BASE.cache.block_size)


@pytest.mark.parametrize("limit", [257, 1000])
def test_a_comparison_that_fresh_cases_never_turn_is_turned_within_a_few_rounds(limit):
    goals, stream, number = Goals(), stream_cases(3, FORMATS), 0

    def run(case):
        rows = len(case.batch.decode) * case.batch.next_n + 13
        goals.add(case, [Comparison("a.py", 3, "rows == limit", rows == limit, rows, limit)])

    while not goals.turned() and number < 200:
        run(next(stream))
        plan = goals.plan() if number % 10 == 9 else ()
        number += 1
        for i, goal in enumerate(plan):
            run(steer(next(stream), goal, Choices(random_bytes(4, f"{number} {i}", DECISIONS))))
    assert goals.turned() == 1
