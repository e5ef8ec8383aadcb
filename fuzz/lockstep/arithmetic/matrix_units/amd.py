"""AMD matrix units of CDNA3 (gfx942): fused dot-add whose last additions round down.

Products of a group are truncated toward zero at 24 fraction bits below their largest exponent and summed exactly, the
even and the odd ones of a group of FP8 products apart; partial sums and the addend are then floored to a common unit,
added, and rounded to nearest even. Formulas: MMA-Sim (arXiv 2511.10909), not checked on AMD hardware; k runs in natural
order.
"""

from typing import Final

import numpy as np

from indexfuzz.lockstep.arithmetic.matrix_units.alignment import (
    Array,
    Exponents,
    Wide,
    exponents,
    k_first_a,
    k_first_b,
    largest_exponent,
    power_of_two,
    program_chunks,
    programs,
    result_shape,
    special_sum,
    truncated_sum,
)
from indexfuzz.lockstep.arithmetic.matrix_units.ieee import ieee

_NATIVE_FP8: Final = ("e4m3fnuz", "e5m2fnuz")
_WIDENED: Final = ("e4m3fn", "e5m2")
_HALF: Final = ("fp16", "bf16")
_FP8_GROUP: Final = 16
_HALF_GROUP: Final = 8
_FRACTION: Final = 24
_SUM_FRACTION: Final = 31
_REACH: Final = 25
"""An FP8 instruction drops an addend whose exponent lies further below the common one."""
_LOWEST: Final = -300
"""Stands for the exponent of zero; below every product exponent of bf16 operands."""
_NAN: Final = np.uint32(0x7FC00000).view(np.float32)


@np.errstate(all="ignore")
def cdna3(
    a: Array,
    b: Array,
    acc: Array,
    a_format: str,
    b_format: str,
    max_num_imprecise_acc: int | None = None,  # noqa: ARG001 - MFMA has one precision
) -> Array:
    """Return `acc + a @ b` as gfx942 computes it; see `DotModel` for shapes.

    e4m3fnuz and e5m2fnuz run on FP8 MFMA (groups of 16); e4m3fn and e5m2 are widened to fp16, which runs, like bf16, in
    groups of 8. fp32 operands are computed by the `ieee` model. A product from 2^128 on is infinite, a NaN
    result is 0x7fc00000. Raises ValueError for
    another pair of formats, or K not a multiple of the group.
    """
    if a_format == b_format == "fp32":
        return ieee(a, b, acc, a_format, b_format)
    native = a_format in _NATIVE_FP8 and b_format in _NATIVE_FP8
    widened = a_format in _WIDENED and b_format in _WIDENED
    if not native and not widened and not (a_format == b_format and a_format in _HALF):
        message = f"gfx942 has no dot of {a_format} and {b_format}: use two fnuz or two OCP FP8, fp16, bf16 or fp32"
        raise ValueError(message)
    group = _FP8_GROUP if native else _HALF_GROUP
    if a.shape[2] % group:
        message = f"a dot of {a_format} on gfx942 takes K in multiples of {group}, not {a.shape[2]}"
        raise ValueError(message)
    special = special_sum(a, b, acc, product_limit=2.0**128)
    if special is not None:
        a, b, acc = (np.where(np.isfinite(x), x, np.float32(0)) for x in (a, b, acc))
    formats = ("fp16", "fp16") if widened else (a_format, b_format)
    result = _chain(a, b, acc, formats, group)
    if special is not None:
        result = np.where(special == 0, result, special)
    return np.where(np.isnan(result), _NAN, result)


def _chain(a: Array, b: Array, acc: Array, formats: tuple[str, str], group: int) -> Array:
    """Groups of `group` products one after another, each added to the rounded result so far."""
    shape = result_shape(a, b, acc)
    result = np.empty(shape, dtype=np.float32)
    streams = 2 if group == _FP8_GROUP else 1
    reach = _REACH if group == _FP8_GROUP else -_LOWEST + 128
    for chunk in program_chunks(shape):
        left, right = k_first_a(programs(a, chunk)), k_first_b(programs(b, chunk))
        ea, eb = exponents(left, formats[0]), exponents(right, formats[1])
        c = np.broadcast_to(programs(acc, chunk), result[chunk].shape)
        for start in range(0, a.shape[2], group):
            parts = []
            for first in range(start, start + streams):
                k = slice(first, start + group, streams)
                exponent = np.maximum(largest_exponent(ea[k], eb[k], c.shape), np.int16(_LOWEST))
                scale = power_of_two(_FRACTION - exponent)
                parts.append((truncated_sum(left[k].astype(np.float64), right[k], scale), exponent))
            c = _add_floored(parts, c, reach)
        result[chunk] = c
    return result


def _add_floored(parts: list[tuple[Wide, Exponents]], c: Array, reach: int) -> Array:
    """Add sums, given in units of 2^-24 of their own exponent, and the addend `c`; round to fp32.

    Sums are floored to 24 fraction bits below their common exponent, their total to 31 and `c` to 24 below the larger
    of that and c's own exponent. `c` counts as zero if its exponent lies more than `reach` below.
    """
    common = np.maximum.reduce([exponent for _, exponent in parts])
    total = np.zeros(c.shape)
    for part, exponent in parts:
        total += np.floor(part * power_of_two(exponent - common))
    own = np.maximum(exponents(c, "fp32"), np.int16(_LOWEST))
    top = np.maximum(common, own)
    products = np.floor(total * power_of_two(common - top + (_SUM_FRACTION - _FRACTION)))
    addend = np.where(own >= top - reach, np.floor(c * power_of_two(_FRACTION - top)), 0.0)
    exact = products + addend * 2.0 ** (_SUM_FRACTION - _FRACTION)
    return np.asarray((exact * power_of_two(top - _SUM_FRACTION)).astype(np.float32) + np.float32(0))
