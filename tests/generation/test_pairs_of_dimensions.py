"""Dimensions that bugs needed, the last tables of docs/operations.md, two at a time: cases are drawn that have both."""

from functools import cache
from itertools import combinations, islice

from indexfuzz.core.case import FAR, Case
from indexfuzz.generation.stream import stream_cases

FORMATS = ("e4m3fn", "e4m3fnuz")
LARGE = 1000
"""Tokens, keys or a context from here on are large."""

DIMENSIONS = {
    "slot_holes": lambda case: case.batch.slot_holes and case.batch.tokens,
    "a size beyond thresholds": lambda case: max(case.batch.tokens, case.batch.keys, *case.batch.decode, 0) > LARGE,
    "pages beyond 32 bits": lambda case: case.cache.page_pad > FAR,
    "rows beyond 32 bits": lambda case: case.memory.far != "none",
    "pages apart": lambda case: 0 < case.cache.page_pad <= FAR,
    "exponents": lambda case: case.cache.scales == "ue8m0",
    "MXFP4": lambda case: case.cache.scales == "mxfp4",
    "interleaved exponents": lambda case: case.cache.layout == "shuffle-scales",
    "e4m3fnuz": lambda case: case.model.fp8 == "e4m3fnuz",
    "slots of 32 bits": lambda case: case.memory.slots == "int32",
    "angles in bf16": lambda case: case.rope.table == "bf16",
    "tables of 64 bits": lambda case: case.memory.indices == "int64",
    "positions of 32 bits": lambda case: case.memory.positions == "int32",
    "weights in bf16": lambda case: case.memory.head_weights == "bf16",
    "norm in bf16": lambda case: case.memory.norm_weights == "bf16",
    "fp16": lambda case: case.memory.activations == "fp16",
    "fp32": lambda case: case.memory.activations == "fp32",
    "RMSNorm": lambda case: case.model.k_norm == "rms",
    "q and k of one tensor": lambda case: case.memory.fused and case.batch.tokens,
    "heads of q apart": lambda case: case.memory.q_head_pad and case.model.num_heads > 1,
    "heads of weights apart": lambda case: case.memory.weights_head_pad and case.model.num_heads > 1,
    "heads of folded weights apart": lambda case: case.memory.q_weights_head_pad and case.model.num_heads > 1,
    "addresses shifted": lambda case: case.memory.shift,
    "weights of all of fp32": lambda case: case.values.weights == "full",
    "positions that are no ranks": lambda case: case.batch.positions != "rank" and case.batch.tokens,
    "rows of a request shared out": lambda case: case.batch.row_step > 1 and case.batch.prefill_rows > 1,
    "a workspace that is too short": lambda case: case.batch.gather_cut and case.batch.prefill,
    "another cache beside": lambda case: case.cache.others,
    "entries of tables left over": lambda case: case.memory.table_tail == "spare",
    "pages that are missing": lambda case: case.memory.missing_pages,
    "selections with holes": lambda case: case.batch.select_holes,
}
"""What a case may have, none of it the plainest, and where it matters."""

EXCLUDE_EACH_OTHER = {
    ("pages beyond 32 bits", "pages apart"),
    ("exponents", "MXFP4"),
    ("exponents", "interleaved exponents"),
    ("fp16", "fp32"),
}
"""Values of one and the same field; and those that no engine has together: our launchers refuse them."""


def never_together(cases):
    """Pairs of dimensions that none of some cases has both of."""
    there = ([name for name, has in DIMENSIONS.items() if has(case)] for case in cases)
    met = {pair for names in there for pair in combinations(names, 2)}
    return set(combinations(DIMENSIONS, 2)) - met


@cache
def drawn():
    return tuple(islice(stream_cases(0, FORMATS), 2000))


def test_every_two_dimensions_are_drawn_together_but_where_they_exclude_each_other():
    assert never_together(drawn()) == EXCLUDE_EACH_OTHER


def plain_where_rare(case: Case):
    """The case without holes in its slots where positions have 32 bits: each is drawn, the pair is not."""
    return case.replace(batch={"slot_holes": 0}) if case.memory.positions == "int32" else case


def test_a_pair_that_cannot_be_drawn_is_missed():
    missed = never_together(map(plain_where_rare, drawn()))
    assert missed == EXCLUDE_EACH_OTHER | {("slot_holes", "positions of 32 bits")}
