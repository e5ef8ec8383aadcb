"""A user's own kernel whose contract is narrower than what it accepts: with pages of several tokens it is wrong.

TOY in the environment is what it does there instead: an exception to raise, or "right".
"""

import os

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import gather as reference


def gather(*, cache, k_scale, **rest):
    mode = os.environ.get("TOY", "wrong") if cache.shape[1] > 1 else "right"
    if mode not in ("wrong", "right"):
        raise {"ValueError": ValueError, "AssertionError": AssertionError, "KeyError": KeyError}[mode]("toy")
    reference.gather(cache=cache, k_scale=k_scale, **rest)
    if mode == "wrong":
        k_scale *= 2


CONTRACT = Clauses(
    (
        Clause(("gather",), lambda case: case.cache.block_size == 1, "block_size is 1", "toy/ops.py:7"),
        Clause(
            ("gather",),
            lambda case: case.cache.page_layout == "normal" or not case.cache.block_size % 16,
            "SHUFFLE pages hold a multiple of 16 tokens",
            "toy/ops.py:8",
        ),
        Clause(
            ("gather", "topk"), lambda case: case.model.quant_group == case.model.head_dim, "one scale", "toy/ops.py:9"
        ),
    )
)
implementation = Implementation(
    "narrow 1.0", {"gather": gather}, CONTRACT, notes=("a toy",), replaced={"toy.b", "toy.a"}
)
