"""Aims: one size of a case that is drawn from far and wide, while the others stay affordable.

Kernels and those who call them switch paths at sizes: at 1024 rows, at a context of 8192, at 10240 rows of q. A case
that aims at a size has it at such a number, one below or one above; everything else is as small as it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from indexfuzz.generation.choices import Choices

LIMITS = {
    "context": 16400,
    "max_model_len": 33000,
    "decode": 600,
    "decode_rows": 1100,
    "prefill_rows": 1100,
    "keys": 16400,
    "tokens": 4100,
    "head_rows": 17000,
    "index_topk": 4096,
    "num_heads": 128,
    "block_size": 1100,
    "pages": 300,
    "num_blocks": 1100,
}
"""Sizes to aim at, and the largest that a case affords.

`context` is the length of one request, `pages` that in pages, `keys` those that prefill gathers. `decode` counts decode
requests, `decode_rows` and `prefill_rows` rows of logits, `tokens` those of the step, `head_rows` tokens times heads.
"""

LANDMARKS = (16, 32, 64, 128, 256, 512, 640, 1024, 2048, 4096, 8192, 10240, 16384, 32768)
"""Sizes at which kernels often change what they do."""


@dataclass(frozen=True)
class Aim:
    """The size to aim at, and its value; no size in particular where the name is empty."""

    size: str = ""
    value: int = 0

    def of(self, size: str, drawn: int) -> int:
        """The value of a size: what is aimed at, or else what was drawn."""
        return self.value if size == self.size else drawn


AIMED, UNAIMED = 1, 3
"""Of the sum, how many cases aim at a size."""

OFFSETS = (0, -1, 1)
SCALES = ("same",) * 6 + ("times", "over")


def draw_aim(choices: Choices, constants: Sequence[int]) -> Aim:
    """An aim, or none: at a landmark, at one of the constants of the code under test, or log-uniform.

    Code compares products and quotients, too: a constant may be multiplied with another one, or divided by it.
    """
    is_aimed = choices.of((False,) * UNAIMED + (True,) * AIMED)
    size = choices.of(tuple(LIMITS))
    limit = LIMITS[size]
    landmarks = _within(LANDMARKS, limit)
    known = _within(constants, limit) or landmarks[-2:]
    listed, factor, scale = choices.of_one((landmarks, known, known)), choices.of_one((known,)), choices.of(SCALES)
    if scale == "times" and listed * factor < limit:
        listed *= factor
    elif scale == "over":
        listed = max(listed // factor, 1)
    value = choices.of((listed, listed, choices.between(0, limit))) + choices.of(OFFSETS)
    return Aim(size, min(max(value, 1), limit)) if is_aimed else Aim()


def draw_beyond(choices: Choices, topk: int) -> Aim:
    """A context of as many keys as are chosen, one more or less, or of many more: where choosing begins to matter."""
    limit = LIMITS["context"]
    beyond = tuple(size for size in LANDMARKS if topk < size < limit) or (topk,)
    near, far = topk + choices.of(OFFSETS), choices.of(beyond) + choices.of(OFFSETS)
    value = choices.of((near, near, near, far, far, choices.between(topk, limit)))
    return Aim("context", min(value, limit))


def _within(numbers: Sequence[int], limit: int) -> tuple[int, ...]:
    return tuple(number for number in numbers if number < limit)
