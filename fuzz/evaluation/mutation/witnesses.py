"""Witnesses: cases from all over the contract, by a generator that shares nothing with that of campaigns.

Sizes are log-uniform, so that each order of magnitude is as likely as any other; everything else is uniform.
"""

import math
import random
from collections.abc import Iterator
from typing import get_args

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import PadSeq, Regime
from indexfuzz.core.part import CaseError

MOST_ELEMENTS = 1 << 19
"""Elements of q, of the keys and of the logits, so that a witness runs in about a second."""

MOST_PRODUCTS = 1 << 26
"""Products of one element of q and one of a key."""


def witnesses(seed: int, formats: tuple[str, ...]) -> Iterator[Case]:
    """An endless stream of cases in these FP8 formats, determined by the seed."""
    pick = random.Random(seed)  # noqa: S311 - samples, not secrets
    while True:
        try:
            case = _draw(pick, formats)
        except CaseError:
            continue
        if _is_affordable(case):
            yield case


def _size(pick: random.Random, low: int, high: int) -> int:
    """A log-uniform number from low to high; 0 is as likely as any power of two."""
    start = max(low, 1)
    if low == 0 and pick.random() < 1 / (2 + math.log2(high)):
        return 0
    return int(math.exp(pick.uniform(math.log(start), math.log(high + 1))))


def _draw(pick: random.Random, formats: tuple[str, ...]) -> Case:
    head_dim = pick.choice((32, 64, 128))
    block_size = _size(pick, 1, 1024)
    lengths = [_size(pick, 0, 8192) for _ in range(_size(pick, 0, 128))]
    split = pick.randint(0, len(lengths)) if pick.random() < 0.5 else pick.choice((0, len(lengths)))
    finite = [regime for regime in get_args(Regime) if regime != "nonfinite"]

    def pad() -> int:
        return pick.choice((0, _size(pick, 1, 512)))

    return Case().replace(
        model={
            "num_heads": _size(pick, 1, 128),
            "head_dim": head_dim,
            "rope_dim": 2 * _size(pick, 1, head_dim // 2),
            "quant_group": head_dim,
            "scale_fmt": pick.choice(("ue8m0", "fp32")),
            "fp8": pick.choice(formats),
            "index_topk": _size(pick, 1, 4096),
        },
        cache={
            "block_size": block_size,
            "layout": pick.choice(("normal",) if block_size % 16 else ("auto", "normal", "shuffle")),
            "spare_blocks": _size(pick, 0, 64),
            "pages": pick.choice(("ordered", "reversed", "permuted", "highest")),
            "shared_prefix": pick.choice((False, True)),
            "page_pad": 4 * pad(),
        },
        batch={
            "decode": tuple(lengths[:split]),
            "prefill": tuple({"length": n, "new": min(n, _size(pick, 0, 512))} for n in lengths[split:]),
            "next_n": pick.randint(1, 8),
            "lens": pick.choice(("1d", "2d", "ragged")),
            "max_model_len": max([1, *lengths[:split]]) + _size(pick, 0, 8192),
            "pad_tokens": _size(pick, 0, 64),
            "short_slots": pick.choice((False, True)),
            "gather_pad": _size(pick, 0, 64),
            "empty_windows": pick.choice((False, True)),
            "pad_seq": pick.choice(get_args(PadSeq)),
            "gather_holes": pick.randint(0, 8),
            "long_windows": pick.choice((False, True)),
            "select_holes": pick.randint(0, 8),
        },
        rope={
            "style": pick.choice(("neox", "interleaved")),
            "placement": pick.choice(("first", "last")),
            "mode": pick.choice(("functional", "inplace")),
            "table": pick.choice(("fp32", "bf16")),
        },
        memory={
            **{name: pad() for name in ("k_pad", "q_pad", "weights_pad", "table_pad", "table_extra", "angles_pad")},
            **{name: pad() for name in ("k_fp8_pad", "q_fp8_pad", "q_weights_pad", "logits_pad")},
            "table_tail": pick.choice(("minus-one", "num-blocks", "huge")),
            "slots": pick.choice(("int64", "int32")),
            "missing_pages": pick.randint(0, 8),
        },
        values={"seed": pick.getrandbits(32), **{name: pick.choice(finite) for name in ("q", "k", "weights", "cache")}},
    )


def _is_affordable(case: Case) -> bool:
    batch, model, memory = case.batch, case.model, case.memory
    keys = sum(case.lengths) + batch.gather_pad
    columns = batch.keys + memory.logits_pad, batch.max_model_len + memory.logits_pad
    logits = batch.prefill_rows * columns[0], batch.decode_rows * columns[1]
    page = case.cache.block_size * case.token_bytes + case.cache.page_pad
    sizes = (
        batch.tokens * (model.num_heads * model.head_dim + max(memory.q_pad, memory.q_fp8_pad)),
        keys * (model.head_dim + memory.k_fp8_pad),
        case.num_blocks * page,
        *logits,
    )
    products = (batch.prefill_rows * batch.keys + batch.decode_rows * max([0, *batch.decode])) * model.num_heads
    return max(sizes) <= MOST_ELEMENTS and products * model.head_dim <= MOST_PRODUCTS and batch.tokens > 0
