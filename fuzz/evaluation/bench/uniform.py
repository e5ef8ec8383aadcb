"""The plain generator: every parameter uniform over its range, no boundaries, nearly Gaussian values.

What most fuzzers of kernels do; the detection bench compares the strategies of campaigns with it.
"""

import random
from collections.abc import Iterator

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Batch, Cache, Memory, Model, Prefill, Rope, Values

LENGTH = 300
TOKENS = 64
"""Limits of one sample, so that it costs about as much as one of a campaign."""


def uniform(seed: int, formats: tuple[str, ...]) -> Iterator[Case]:
    """An endless stream of cases, determined by the seed."""
    random_numbers = random.Random(seed)  # noqa: S311 - samples, not secrets
    while True:
        yield _case(random_numbers, formats)


def _case(pick: random.Random, formats: tuple[str, ...]) -> Case:
    head_dim = pick.choice((32, 64, 128))
    next_n = pick.randint(1, 6)
    decode = tuple(pick.randint(0, LENGTH) for _ in range(pick.randint(0, 4)))
    prefill = []
    for _ in range(pick.randint(0, 3)):
        length = pick.randint(0, LENGTH)
        prefill.append(Prefill(length=length, new=pick.randint(0, min(length, TOKENS))))
    block_size = pick.choice((1, *range(16, 257, 16)))
    return Case(
        model=Model(
            num_heads=pick.randint(1, 32),
            head_dim=head_dim,
            rope_dim=2 * pick.randint(1, head_dim // 2),
            quant_group=head_dim,
            scale_fmt=pick.choice(("ue8m0", "fp32")),
            fp8=pick.choice([fp8 for fp8 in ("e4m3fn", "e4m3fnuz") if fp8 in formats]),
            index_topk=pick.randint(1, 2048),
        ),
        cache=Cache(
            block_size=block_size,
            layout=pick.choice(("auto", "normal", "auto" if block_size == 1 else "shuffle")),
            spare_blocks=pick.randint(0, 3),
            pages=pick.choice(("ordered", "reversed", "permuted", "highest")),
            page_pad=4 * pick.randint(0, 256),
        ),
        batch=Batch(
            decode=decode,
            prefill=tuple(prefill),
            next_n=next_n,
            lens=pick.choice(("1d", "2d", "ragged")),
            max_model_len=pick.randint(LENGTH, 2 * LENGTH),
            pad_tokens=pick.randint(0, 7),
            gather_pad=pick.randint(0, 5),
            pad_seq=pick.choice(("minus-one", "batch", "huge", "first", "last")),
            long_windows=pick.choice((False, True)),
        ),
        rope=Rope(
            style=pick.choice(("neox", "interleaved")),
            placement=pick.choice(("first", "last")),
            mode=pick.choice(("functional", "inplace")),
            table=pick.choice(("fp32", "bf16")),
        ),
        memory=Memory(
            k_pad=pick.randint(0, 64),
            q_pad=pick.randint(0, 64),
            weights_pad=pick.randint(0, 8),
            table_pad=pick.randint(0, 5),
            table_extra=pick.randint(0, 3),
            table_tail=pick.choice(("minus-one", "num-blocks", "huge")),
            slots=pick.choice(("int64", "int32")),
            k_fp8_pad=pick.randint(0, 24),
            q_fp8_pad=pick.randint(0, 24),
            q_weights_pad=pick.randint(0, 24),
            logits_pad=pick.randint(0, 24),
            angles_pad=pick.randint(0, 24),
        ),
        values=Values(seed=pick.getrandbits(32)),
    )
