"""What record_sm90.py runs on the device and test_matrix_units_golden.py replays: shapes, formats and value regimes."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.fp8_codec import FORMATS, decode_fp8, encode_fp8
from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16, round_to_fp16

F32 = NDArray[np.float32]

KEPT_ROWS: Final = 5
KEPT_COLUMNS: Final = 6


@dataclass(frozen=True)
class DotCase:
    """One minimal tl.dot kernel. `form` is how b reaches the dot: loaded as (K, N), or as (N, K) and transposed."""

    fmt: str
    rows: int
    columns: int
    size: int
    accumulator: bool
    imprecise: int | None
    form: str = "direct"

    @property
    def name(self) -> str:
        """Key of the case's tensors."""
        period = "default" if self.imprecise is None else self.imprecise
        tail = "acc" if self.accumulator else "noacc"
        return f"{self.fmt}_m{self.rows}_n{self.columns}_k{self.size}_{tail}_imprecise{period}_{self.form}"

    @property
    def opcode(self) -> str:
        """The PTX instruction that the model assumes."""
        return "wgmma.mma_async" if self.rows >= 64 and self.imprecise != 0 else "mma.sync"


def dot_cases() -> list[DotCase]:
    """Every case that is recorded."""
    cases = [
        DotCase("e4m3fn", rows, columns, size, accumulator, imprecise)
        for rows in (16, 64, 128)
        for columns in (16, 64)
        for size in (32, 64, 128)
        for accumulator in (False, True)
        for imprecise in ((None, 32) if rows >= 64 else (None,))
    ]
    cases += [DotCase("e4m3fn", 64, 64, 128, True, imprecise) for imprecise in (0, 64, 128)]
    cases += [DotCase("e4m3fn", rows, 64, 128, True, None, "transposed") for rows in (16, 32, 64)]
    cases += [DotCase(fmt, rows, 64, 64, True, None) for fmt in ("e5m2", "bf16", "fp16") for rows in (16, 64)]
    return cases


REGIMES: Final = (
    "gaussian",
    "integers",
    "wide",
    "subnormal",
    "all_codes",
    "saturated",
    "cancellation",
    "nan",
)


def to_format(x: NDArray[np.floating], fmt: str) -> F32:
    """Round to the format, keeping the values in fp32."""
    wide = np.asarray(x, dtype=np.float32)
    if fmt in FORMATS:
        return decode_fp8(encode_fp8(wide, fmt), fmt)
    return round_to_bf16(wide) if fmt == "bf16" else round_to_fp16(wide)


def storage(x: F32, fmt: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the bits that the device sees."""
    if fmt in FORMATS:
        return encode_fp8(x, fmt)
    if fmt == "bf16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(np.float16).view(np.uint16)


def values(bits: NDArray[np.uint8] | NDArray[np.uint16], fmt: str) -> F32:
    """Return the fp32 values of stored bits."""
    if fmt in FORMATS:
        return decode_fp8(bits.astype(np.uint8), fmt)
    if fmt == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.uint16).view(np.float16).astype(np.float32)


def operands(rng: np.random.Generator, case: DotCase, regime: str, programs: int) -> tuple[F32, F32, F32]:
    """Draw a (P, M, K), b (P, K, N) and acc (P, M, N); acc is zero for a case without accumulator."""
    a_shape = (programs, case.rows, case.size)
    b_shape = (programs, case.size, case.columns)
    a, b = _operand(rng, regime, a_shape, case.fmt), _operand(rng, regime, b_shape, case.fmt)
    half = case.size // 2
    if regime == "cancellation":
        a[:, :, half:] = a[:, :, :half]
        b[:, half:] = -b[:, :half]
        b = np.where(rng.random(b_shape) < 0.1, _operand(rng, "gaussian", b_shape, case.fmt), b)
    acc_shape = (programs, case.rows, case.columns)
    acc = np.zeros(acc_shape, np.float32)
    if case.accumulator:
        drawn = np.ldexp(rng.standard_normal(acc_shape), rng.integers(-20, 24, acc_shape))
        acc = np.where(rng.random(acc_shape) < 0.1, 0, drawn).astype(np.float32)
        if regime == "nan":
            acc = np.where(rng.random(acc_shape) < 0.02, np.float32(np.inf), acc)
    return a, b, acc


def _operand(rng: np.random.Generator, regime: str, shape: tuple[int, ...], fmt: str) -> F32:
    gaussian = rng.standard_normal(shape)
    largest = FORMATS[fmt].max_finite if fmt in FORMATS else 448.0
    smallest = 2.0 ** (FORMATS[fmt].min_exponent if fmt in FORMATS else -14)
    signs = rng.choice([-1.0, 1.0], shape)
    if regime == "integers":
        return to_format(rng.integers(-15, 16, shape), fmt)
    if regime == "wide":
        return to_format(np.ldexp(gaussian, rng.integers(-12, 8, shape)), fmt)
    if regime == "subnormal":
        return to_format(np.where(rng.random(shape) < 0.7, gaussian * smallest / 2, gaussian), fmt)
    if regime == "all_codes":
        drawn = values(rng.integers(0, 256 if fmt in FORMATS else 65536, shape), fmt)
        return np.where(np.isfinite(drawn), drawn, np.float32(0))
    if regime == "saturated":
        return to_format(signs * np.where(rng.random(shape) < 0.8, largest, gaussian), fmt)
    row_scaled = to_format(gaussian * (largest / np.abs(gaussian).max(axis=-1, keepdims=True)), fmt)
    return np.where((rng.random(shape) < 0.003) & (regime == "nan"), np.float32(np.nan), row_scaled)
