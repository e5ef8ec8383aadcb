"""Scalar models of matrix units in exact rational arithmetic, one output at a time."""

import math
from fractions import Fraction

import numpy as np

MIN_EXPONENT = {"e4m3fn": -6, "e4m3fnuz": -7, "e5m2": -14, "e5m2fnuz": -15, "fp16": -14, "bf16": -126, "fp32": -126}


def floor_log2(x: Fraction) -> int:
    """Exponent of a non-zero rational."""
    magnitude = abs(x)
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return e if magnitude >= Fraction(2) ** e else e - 1


def exponent(x: float, fmt: str) -> int | None:
    """Exponent of an operand, None for zero."""
    return None if x == 0 else max(floor_log2(Fraction(x)), MIN_EXPONENT[fmt])


def product_exponents(a: list[float], b: list[float], fmt: tuple[str, str]) -> list[int]:
    pairs = [(exponent(x, fmt[0]), exponent(y, fmt[1])) for x, y in zip(a, b, strict=True)]
    return [x + y for x, y in pairs if x is not None and y is not None]


def chop(x: Fraction, unit: Fraction) -> Fraction:
    return math.trunc(x / unit) * unit


def to_fp32(x: Fraction, fraction_bits: int, rounding: str) -> float:
    """Round a rational to a binary32 with `fraction_bits`, "zero" or "nearest"."""
    if x == 0:
        return 0.0
    unit = Fraction(2) ** (max(floor_log2(x), -126) - fraction_bits)
    quotient = x / unit
    rounded = (math.trunc(quotient) if rounding == "zero" else round(quotient)) * unit
    return math.copysign(math.inf, rounded) if abs(rounded) >= Fraction(2) ** 128 else float(rounded)


def truncating(a: list[float], b: list[float], c: float, fmt: tuple[str, str], f: int, o: int) -> float:
    """One NVIDIA instruction."""
    every = product_exponents(a, b, fmt)
    own = exponent(c, "fp32")
    every += [] if own is None else [own]
    if not every:
        return 0.0
    unit = Fraction(2) ** (max(every) - f)
    total = sum((chop(Fraction(x) * Fraction(y), unit) for x, y in zip(a, b, strict=True)), chop(Fraction(c), unit))
    return to_fp32(total, o, "zero")


def flooring(a: list[float], b: list[float], c: float, fmt: tuple[str, str], *, split: bool) -> float:
    """One CDNA3 group; `split` for FP8."""
    sums = []
    for first in range(2 if split else 1):
        x, y = (a[first::2], b[first::2]) if split else (a, b)
        top = max(product_exponents(x, y, fmt), default=-999)
        unit = Fraction(2) ** (top - 24)
        sums.append((sum((chop(Fraction(p) * Fraction(q), unit) for p, q in zip(x, y, strict=True)), Fraction(0)), top))
    common = max(top for _, top in sums)
    unit = Fraction(2) ** (common - 24)
    products = sum((math.floor(s / unit) * unit for s, _ in sums), Fraction(0))
    own = exponent(c, "fp32")
    top = common if own is None else max(common, own)
    unit = Fraction(2) ** (top - 31)
    products = math.floor(products / unit) * unit
    if own is None or (split and own < top - 25):
        addend = Fraction(0)
    else:
        unit = Fraction(2) ** (top - 24)
        addend = math.floor(Fraction(c) / unit) * unit
    return to_fp32(products + addend, 23, "nearest")


def check(scalar, a: np.ndarray, b: np.ndarray, acc: np.ndarray, got: np.ndarray, sample: np.random.Generator) -> None:
    """Compare 60 outputs of `got` (P, M, N) with `scalar(row of a, column of b, c)`, bit for bit."""
    for p, m, n in zip(*(sample.integers(0, size, 60) for size in got.shape), strict=True):
        row, column, c = (x[min(p, x.shape[0] - 1)] for x in (a, b, acc))
        expected = np.float32(scalar(row[m].tolist(), column[:, n].tolist(), float(c[m, n])))
        assert expected.tobytes() == got[p, m, n].tobytes(), (p, m, n, expected, got[p, m, n])
