"""What a finding says a value must be, read back from its words: the checks word it, a script asks it again."""

import math
import re
from dataclasses import dataclass

import torch

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|inf)"
INTERVAL = re.compile(rf"in \[({NUMBER}), ({NUMBER})\]")
NEAR = re.compile(rf"({NUMBER}) \+- ({NUMBER})")
PLAIN = re.compile(rf"(?:exactly )?({NUMBER})")
PATTERN = re.compile(r"0x([0-9a-f]+)")

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Legal:
    """The values from `low` to `high`; or `condition`, of `got` in Python, where they are NaN or any number."""

    low: float
    high: float
    condition: str

    @classmethod
    def between(cls, low: float, high: float) -> "Legal":
        """An interval, ends included."""
        return cls(low, high, f"got == {low!r}" if low == high else f"{low!r} <= got <= {high!r}")

    def includes(self, value: float) -> bool:
        """Whether a value is one of them."""
        if math.isnan(self.low):
            return math.isnan(value)
        return self.low <= value <= self.high


UNNUMBERED = {
    "a logit": Legal(-math.inf, math.inf, "got == got"),
    "a finite logit": Legal(-torch.finfo(torch.float32).max, math.inf, "got > -inf"),
    "NaN": Legal(math.nan, math.nan, "got != got"),
}
"""What is asked for without a number."""


def read_legal(words: str, dtype: torch.dtype) -> Legal | None:
    """The values that a finding's `want` names for an element of a dtype; None where it names none."""
    if words in UNNUMBERED:
        return UNNUMBERED[words]
    if found := INTERVAL.fullmatch(words):
        return Legal.between(_number(found[1], dtype), _number(found[2], dtype))
    if found := NEAR.fullmatch(words):
        middle, bound = float(found[1]), float(found[2])
        return Legal.between(middle - bound, middle + bound)
    values = [read_value(part, dtype) for part in words.split(" or ")]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if any(map(math.isnan, known)):
        return UNNUMBERED["NaN"] if all(map(math.isnan, known)) else None
    return Legal.between(min(known), max(known))


def read_value(words: str, dtype: torch.dtype) -> float | None:
    """One value of a dtype, by its bits where they are told; None where the words are no value of it."""
    if found := PATTERN.search(words):
        if len(found[1]) != 2 * dtype.itemsize:
            return None
        code = int(found[1], 16)
        signed = code - (1 << 8 * dtype.itemsize) if dtype.itemsize > 1 and code >> (8 * dtype.itemsize - 1) else code
        return float(torch.tensor([signed], dtype=INTEGERS[dtype.itemsize]).view(dtype).float().item())
    if found := PLAIN.fullmatch(words):
        return _number(found[1], dtype)
    return math.nan if words == "nan" else None


def _number(text: str, dtype: torch.dtype) -> float:
    """The value of a dtype that is told with these nine digits, else what they say."""
    told = float(text)
    if not dtype.is_floating_point:
        return told
    near = float(torch.tensor(told, dtype=torch.float64).to(dtype).double())
    return near if f"{near:.9g}" == f"{told:.9g}" else told
