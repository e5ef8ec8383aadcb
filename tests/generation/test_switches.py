"""Switches: options of a case are set to other values, one at a time."""

import random

from indexfuzz.core.case import Case
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.measures import contents
from indexfuzz.generation.switches import flip

BASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16},
    batch={"decode": (5, 30), "prefill": ({"length": 40, "new": 7},), "max_model_len": 64, "gather_pad": 3},
    memory={"table_extra": 1, "shift": 1},
)


def changed(case):
    """The fields of a case that are not those of BASE, with their values."""
    return {
        (part, name, getattr(getattr(case, part), name))
        for part in ("model", "cache", "batch", "rope", "memory", "values")
        for name in type(getattr(case, part)).model_fields
        if getattr(getattr(case, part), name) != getattr(getattr(BASE, part), name)
    }


def flipped(*, is_pinned=False):
    pick = random.Random(3)
    return [case for _ in range(500) if (case := flip(BASE, Choices(pick.randbytes(2)), is_pinned=is_pinned))]


def test_one_option_is_another_and_every_option_is_at_some_time():
    """With the form of scales, the groups of dims that have one are others, too."""
    seen = [changed(case) for case in flipped()]
    in_groups = {("cache", "scales", "mxfp4"), ("model", "quant_group", BASE.model.head_dim // 4)}
    assert all(len(each) == 1 or each == in_groups for each in seen)
    assert in_groups in seen
    found = {one for each in seen for one in each}
    assert found >= {("memory", "table_tail", "huge"), ("memory", "table_tail", "num-blocks")}
    assert found >= {("cache", "pages", order) for order in ("reversed", "permuted", "highest")}
    assert found >= {("batch", "pad_seq", whose) for whose in ("batch", "huge", "first", "last")}
    assert found >= {("batch", "lens", "2d"), ("cache", "shared_prefix", True), ("rope", "mode", "inplace")}
    assert ("cache", "scales", "ue8m0") in found
    assert ("rope", "mode", "compiled") not in found


def test_a_preset_stays():
    assert not {part for case in flipped(is_pinned=True) for part, _, _ in changed(case)} & {"model", "rope"}
    assert not {name for case in flipped(is_pinned=True) for _, name, _ in changed(case)} & {"scales"}


def test_options_decide_what_tables_hold():
    before = contents(BASE)
    moved = {name for case in flipped() for name, value in contents(case).items() if value != before[name]}
    assert moved >= {
        "decode_table.first",
        "decode_table.max",
        "prefill_table.min",
        "token_to_seq.last",
        "token_to_seq.sum",
    }
