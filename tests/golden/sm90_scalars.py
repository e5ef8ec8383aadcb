"""Scalar operations that record_sm90.py runs on the device, their models, and the inputs that matter to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.extrema import clamp, maximum_nan, maxnum, minnum
from indexfuzz.lockstep.arithmetic.fma import fma32
from indexfuzz.lockstep.arithmetic.fp8_codec import decode_fp8
from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.arithmetic.rounding import (
    divide_by_constant,
    float_to_int,
    round_to_bf16,
    round_to_fp16,
    truncate_to_bf16,
    truncate_to_fp16,
)
from indexfuzz.lockstep.arithmetic.transcendental import (
    exp2_f32,
    exp_f32,
    log2_f32,
    log_f32,
    rsqrt_f32,
    sqrt_f32,
    sqrt_rn_f32,
)

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Scalar:
    """One operation, its model and by how many ulp the device may differ from it (0: same bits)."""

    name: str
    model: Callable[[F32, F32], F32]
    ulp: int = 0


SCALARS: Final = (
    Scalar("log2", lambda x, _: log2_f32(x)),
    Scalar("log", lambda x, _: log_f32(x)),
    Scalar("exp2", lambda x, _: exp2_f32(x), 2),
    Scalar("exp", lambda x, _: exp_f32(x), 2),
    Scalar("sqrt", lambda x, _: sqrt_f32(x), 2),
    Scalar("rsqrt", lambda x, _: rsqrt_f32(x), 2),
    Scalar("divide", lambda x, y: canonical_nan(x / y), 2),
    Scalar("divide_by_448", lambda x, _: divide_by_constant(x, 448.0)),
    Scalar("div_rn", lambda x, y: canonical_nan(x / y)),
    Scalar("maximum", maxnum),
    Scalar("minimum", minnum),
    Scalar("clamp_symmetric", lambda x, _: clamp(x, np.float32(-448), np.float32(448))),
    Scalar("clamp", lambda x, _: clamp(x, np.float32(0), np.float32(448))),
    Scalar("maximum_nan", maximum_nan),
    Scalar("to_bf16", lambda x, _: round_to_bf16(x)),
    Scalar("to_fp16", lambda x, _: round_to_fp16(x)),
    Scalar("fma", lambda x, y: fma32(x, y, x)),
    # Of two products the compiler fuses the first, unless something else needs its rounded value: here "multiply" does.
    Scalar("contraction", lambda x, y: fma32(-y, np.float32(0.7), x * y)),
    Scalar("to_int32", lambda x, _: float_to_int(x, np.int32).view(np.float32)),
    Scalar("to_bf16_rtz", lambda x, _: truncate_to_bf16(x)),
    Scalar("to_fp16_rtz", lambda x, _: truncate_to_fp16(x)),
    Scalar("sqrt_rn", lambda x, _: sqrt_rn_f32(x)),
    Scalar("multiply", lambda x, y: canonical_nan(x * y)),
    Scalar("add", lambda x, y: canonical_nan(x + y)),
)


def ulp_distance(x: F32, y: F32) -> NDArray[np.int64]:
    """Floats between two values; 0 for identical bits, huge where only one is NaN."""
    keys = [np.where(v < 0, -0x80000000 - v, v) for v in (z.view(np.int32).astype(np.int64) for z in (x, y))]
    distance = np.abs(keys[0] - keys[1])
    return np.where((distance == 0) & (x.view(np.uint32) != y.view(np.uint32)), 1, distance)


def stratified_floats(count: int) -> F32:
    """fp32 values that matter to an e4m3fn encoder: midpoints of two codes and their neighbours, then random ones."""
    codes = decode_fp8(np.arange(127, dtype=np.uint8), "e4m3fn").astype(np.float64)
    centres = np.concatenate([(codes[1:] + codes[:-1]) / 2, codes, [464.0, 480.0]]).astype(np.float32)
    near = (
        (centres.view(np.uint32)[:, None].astype(np.int64) + np.arange(-3, 4))
        .clip(0)
        .astype(np.uint32)
        .view(np.float32)
    )
    special = np.array([0, np.inf, np.nan, 1e-45, 1e-38, 3.4e38], np.float32)
    rng = np.random.default_rng(20)
    spread = np.ldexp(1 + rng.random(count), rng.integers(-14, 11, count)).astype(np.float32)
    positive = np.concatenate([near.ravel(), special, spread])[: count // 2]
    return np.concatenate([positive, -positive])


def scalar_inputs(count: int) -> tuple[F32, F32]:
    """Two fp32 vectors for the other scalar operations: powers of two and their neighbours, wide randoms, specials."""
    rng = np.random.default_rng(21)
    powers = np.ldexp(1.0, np.arange(-126, 128)).astype(np.float32)
    near = (powers.view(np.uint32)[:, None] + np.arange(0, 4, dtype=np.uint32)).view(np.float32).ravel()
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-40, -1e-40, 448, -448, 500, -500], np.float32)
    pairs = np.stack(np.meshgrid(special, special)).reshape(2, -1)
    whole = np.arange(-150, 130).astype(np.float32)
    rest = count - near.size - pairs.shape[1] - whole.size
    moderate = (rng.standard_normal(rest) * rng.choice([1.0, 30.0, 1e4, 1e-3], rest)).astype(np.float32)
    x = np.concatenate([near, pairs[0], whole, moderate])
    y = np.concatenate([rng.permutation(near), pairs[1], rng.permutation(whole), rng.permutation(moderate)])
    return x, y
