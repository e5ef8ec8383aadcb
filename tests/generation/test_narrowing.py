"""Narrowing: changes only what the contract asks for, and leaves what has to be rejected."""

from dataclasses import dataclass, replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses, Lifted, Unlimited, covers, outside
from indexfuzz.generation.narrowing import narrow
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import CONTRACT

WILD = Case().replace(
    model={"head_dim": 64, "quant_group": 64, "scale_fmt": "fp32"},
    cache={"block_size": 24, "spare_blocks": 3},
    memory={"k_pad": 16, "q_pad": 24, "slots": "int32"},
)


@dataclass
class Picky:
    def outside(self, stage, case):
        if case.memory.k_pad:
            return "k must be dense"
        if case.cache.block_size not in (1, 64):
            return "block_size must be 1 or 64"
        return None if case.model.head_dim == 128 else "head_dim must be 128"

    def must_reject(self, stage, case):
        return False


class Impossible(Picky):
    def outside(self, stage, case):
        return "nothing is promised"


def test_only_what_is_outside_changes():
    case = narrow(WILD, Implementation("picky", {"k_quant_cache": print}, Picky()))
    assert case == WILD.replace(
        memory={"k_pad": 0}, cache={"block_size": 64}, model={"head_dim": 128, "quant_group": 128}
    )


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("memory", "lens_step", 2),
        ("memory", "far", "logits"),
        ("memory", "fused", True),
        ("memory", "table_tail", "huge"),
        ("batch", "gather_holes", 1),
        ("batch", "empty_windows", True),
    ],
)
def test_every_field_of_memory_and_batch_goes_back_to_its_default(part, name, value):
    plain = getattr(getattr(Case(), part), name)
    clause = Clause(("gather",), lambda case: getattr(getattr(case, part), name) == plain, f"{name} is {plain}", "here")
    implementation = Implementation("plain", {"gather": print}, Clauses((clause,)))
    requests = {"decode": (3,), "prefill": ({"length": 3, "new": 1},), "max_model_len": 3}
    case = Case().replace(batch=requests).replace(**{part: {name: value}})
    assert narrow(case, implementation) == case.replace(**{part: {name: plain}})


def test_a_case_inside_stays_as_it_is():
    implementation = Implementation("picky", {"k_quant_cache": print}, Picky())
    case = narrow(WILD, implementation)
    assert narrow(case, implementation) is case


def test_nothing_can_be_done_about_an_impossible_contract():
    assert narrow(WILD, Implementation("no", {"gather": print}, Impossible())) is WILD


def test_cases_to_reject_stay():
    builtin = Implementation("builtin", {"gather": print}, CONTRACT)
    assert narrow(WILD, builtin) is WILD
    assert narrow(WILD, replace(builtin, contract=Picky())) is not WILD


def test_far_pages_come_together_where_smaller_ones_would_be_too_many():
    far = WILD.replace(
        batch={"decode": (600,), "max_model_len": 600},
        cache={"block_size": 256, "page_pad": 1 << 30, "spare_blocks": 0},
    )
    case = narrow(far, Implementation("picky", {"k_quant_cache": print}, Picky()))
    assert case.cache.block_size == 64
    assert case.cache.page_pad == 1 << 30
    one = narrow(far, Implementation("tokens", {"gather": print}, OneToken()))
    assert (one.cache.block_size, one.cache.page_pad) == (1, 0)


class OneToken(Picky):
    def outside(self, stage, case):
        return None if case.cache.block_size == 1 else f"block_size {case.cache.block_size} is not 1"


def test_a_change_that_brings_another_reason_is_no_way_in():
    """The placement is tried first: it would break another clause, and nothing could undo that."""
    clauses = Clauses(
        (
            Clause(("rope",), lambda case: case.rope.placement == "first", "first", "here"),
            Clause(("rope",), lambda case: case.model.rope_dim != 6, "not 6", "here"),
        )
    )
    implementation = Implementation("two clauses", {"rope": print}, clauses)
    inside = narrow(Case().replace(model={"rope_dim": 6}), implementation)
    assert inside.rope.placement == "first"
    assert inside.model.rope_dim != 6


def clauses(*rows):
    return Clauses(tuple(Clause((stage,), holds, sentence, "here") for stage, sentence, holds in rows))


def test_of_two_stages_that_exclude_each_other_every_other_case_is_for_one():
    contract = clauses(
        ("k_quant_cache", "pages are SHUFFLE", lambda case: case.cache.page_layout == "shuffle"),
        ("paged_logits", "pages are NORMAL", lambda case: case.cache.page_layout == "normal"),
    )
    both = Implementation("both", {"k_quant_cache": print, "paged_logits": print}, contract)
    chosen = [
        narrow(Case().replace(cache={"block_size": 16}, values={"seed": seed}), both).cache.page_layout
        for seed in range(4)
    ]
    assert chosen == ["shuffle", "normal", "shuffle", "normal"]


def test_keys_gathered_beside_requests_become_a_request_where_only_requests_have_keys():
    contract = clauses(
        ("gather", "a request is in prefill", lambda case: bool(case.batch.prefill)),
        ("gather", "only its keys are gathered", lambda case: not case.batch.gather_pad),
    )
    case = Case().replace(batch={"gather_pad": 7, "decode": (3,), "max_model_len": 3})
    inside = narrow(case, Implementation("asked", {"gather": print}, contract))
    assert (inside.batch.keys, inside.batch.gather_pad) == (case.batch.keys, 0)
    assert inside.batch.decode == case.batch.decode
    assert covers(contract, "gather", inside)


def test_the_layout_of_pages_changes_with_their_size_where_one_alone_helps_nothing():
    contract = clauses(
        (
            "gather",
            "NORMAL pages hold 64",
            lambda case: case.cache.page_layout != "normal" or case.cache.block_size == 64,
        ),
        ("gather", "pages are NORMAL", lambda case: case.cache.page_layout == "normal"),
    )
    inside = narrow(Case().replace(cache={"block_size": 16}), Implementation("asked", {"gather": print}, contract))
    assert (inside.cache.block_size, inside.cache.page_layout) == (64, "normal")


@pytest.mark.parametrize("contract", [Unlimited(), Clauses(), Lifted(Clauses()), Picky()])
def test_scales_that_a_contract_does_not_name_become_fp32(contract):
    packed = Case().replace(cache={"scales": "ue8m0"}, model={"head_dim": 128, "quant_group": 32})
    assert "the scales of keys are fp32, not ue8m0" in outside(contract, "gather", packed)
    inside = narrow(packed, Implementation("plain", {"gather": print}, contract))
    assert (inside.cache.scales, inside.model.quant_group) == ("fp32", 128)


def test_scales_that_a_contract_asks_for_are_put_in():
    contract = Clauses(scales=("ue8m0",))
    assert "the scales of keys are ue8m0, not fp32" in outside(contract, "fused_k", Case())
    assert narrow(Case(), Implementation("mx", {"fused_k": print}, contract)).cache.scales == "ue8m0"
    assert outside(contract, "rope", Case()) is None


def test_keys_of_two_values_to_a_byte_keep_four_scales_where_head_dim_changes():
    clause = Clause(("gather",), lambda case: case.model.head_dim == 128, "head_dim is 128", "here")
    implementation = Implementation("fp4", {"gather": print}, Clauses((clause,), scales=("mxfp4",)))
    for case in (Case(), Case().replace(cache={"scales": "mxfp4"}, model={"quant_group": 8})):
        inside = narrow(case, implementation)
        assert (inside.cache.scales, inside.model.head_dim, inside.model.quant_group) == ("mxfp4", 128, 32)
        assert outside(implementation.contract, "gather", inside) is None
