"""Record what an H100 or H200 computes, and compare it with the models on the spot.

Run as a script on a machine with the device; `indexfuzz` must be importable (installed, or a folder on PYTHONPATH with
a link of that name to `fuzz`):

    python tests/golden/record_sm90.py [folder]

Writes dot_<opcode>.safetensors and scalars.safetensors into `folder` (default: beside this file): for every case and
regime a few rows and columns of one program. Many more outputs are compared without being stored. The exit status is 1
if the device and a model that claims its bits disagree anywhere.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sm90_cases import (
    F32,
    KEPT_COLUMNS,
    KEPT_ROWS,
    REGIMES,
    DotCase,
    dot_cases,
    operands,
    storage,
)
from sm90_scalars import SCALARS, scalar_inputs, stratified_floats, ulp_distance

from indexfuzz.lockstep.arithmetic.fp8_codec import encode_fp8, truncate_to_e5m2
from indexfuzz.lockstep.arithmetic.matrix_units import MODELS

PROGRAMS: Final = 8
TORCH_TYPES: Final = {
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@triton.jit
def dot_kernel(
    a_ptr,
    b_ptr,
    acc_ptr,
    out_ptr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    IMPRECISE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """One tile per program; b is stored as (N, K)."""
    p = tl.program_id(0)
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + p * M * K + m[:, None] * K + k[None, :])
    if TRANSPOSED:
        b = tl.trans(tl.load(b_ptr + p * N * K + n[:, None] * K + k[None, :]))
    else:
        b = tl.load(b_ptr + p * N * K + n[None, :] * K + k[:, None])
    tile = p * M * N + m[:, None] * N + n[None, :]
    if ACCUMULATE:
        out = tl.dot(a, b, tl.load(acc_ptr + tile), max_num_imprecise_acc=IMPRECISE)
    else:
        out = tl.dot(a, b, max_num_imprecise_acc=IMPRECISE)
    tl.store(out_ptr + tile, out)


@triton.jit
def encode_kernel(x_ptr, fn_ptr, e5_ptr, e5_rtz_ptr, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + i)
    tl.store(fn_ptr + i, x.to(tl.float8e4nv))
    tl.store(e5_ptr + i, x.to(tl.float8e5))
    tl.store(e5_rtz_ptr + i, x.to(tl.float8e5, fp_downcast_rounding="rtz"))


@triton.jit
def scalar_kernel(x_ptr, y_ptr, out_ptr, count, SIZE: tl.constexpr):
    """Row r of `out` is the operation number r of SCALARS."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    out = out_ptr + i
    tl.store(out, tl.log2(x))
    tl.store(out + count, tl.log(x))
    tl.store(out + 2 * count, tl.exp2(x))
    tl.store(out + 3 * count, tl.exp(x))
    tl.store(out + 4 * count, tl.sqrt(x))
    tl.store(out + 5 * count, tl.rsqrt(x))
    tl.store(out + 6 * count, x / y)
    tl.store(out + 7 * count, x / 448.0)
    tl.store(out + 8 * count, tl.div_rn(x, y))
    tl.store(out + 9 * count, tl.maximum(x, y))
    tl.store(out + 10 * count, tl.minimum(x, y))
    tl.store(out + 11 * count, tl.clamp(x, -448.0, 448.0))
    tl.store(out + 12 * count, tl.clamp(x, 0.0, 448.0))
    tl.store(out + 13 * count, tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 14 * count, x.to(tl.bfloat16).to(tl.float32))
    tl.store(out + 15 * count, x.to(tl.float16).to(tl.float32))
    tl.store(out + 16 * count, tl.fma(x, y, x))
    tl.store(out + 17 * count, x * y - y * 0.7)
    tl.store(out + 18 * count, x.to(tl.int32).to(tl.float32, bitcast=True))
    tl.store(out + 19 * count, x.to(tl.bfloat16, fp_downcast_rounding="rtz").to(tl.float32))
    tl.store(out + 20 * count, x.to(tl.float16, fp_downcast_rounding="rtz").to(tl.float32))
    tl.store(out + 21 * count, tl.sqrt_rn(x))
    tl.store(out + 22 * count, x * y)
    tl.store(out + 23 * count, x + y)


def say(*words: object) -> None:
    """Write one line at once: a run takes minutes."""
    sys.stdout.write(" ".join(str(w) for w in words) + "\n")
    sys.stdout.flush()


def on_device(x: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """Copy bits to the device as `dtype`."""
    signed = x.view(np.dtype(f"i{x.dtype.itemsize}"))
    return torch.from_numpy(np.ascontiguousarray(signed)).cuda().view(dtype)


def run_dot(case: DotCase, a: F32, b: F32, acc: F32) -> tuple[F32, str]:
    """Outputs (P, M, N) and the kernel's PTX."""
    dtype = TORCH_TYPES[case.fmt]
    out = torch.empty(acc.shape, dtype=torch.float32, device="cuda")
    transposed = np.ascontiguousarray(storage(b, case.fmt).transpose(0, 2, 1))
    kernel = dot_kernel[(a.shape[0],)](
        on_device(storage(a, case.fmt), dtype),
        on_device(transposed, dtype),
        torch.from_numpy(acc).cuda(),
        out,
        M=case.rows,
        N=case.columns,
        K=case.size,
        ACCUMULATE=case.accumulator,
        IMPRECISE=case.imprecise,
        TRANSPOSED=case.form == "transposed",
    )
    return out.cpu().numpy(), kernel.asm["ptx"]


def record_dots(kept: dict[str, dict[str, NDArray[Any]]]) -> int:
    """Run every case in every regime; return how many outputs differ from the model."""
    wrong = compared = 0
    for number, case in enumerate(dot_cases()):
        rng = np.random.default_rng(number)
        samples: dict[str, list[NDArray[Any]]] = {"a": [], "b": [], "acc": [], "out": []}
        for regime in REGIMES:
            a, b, acc = operands(rng, case, regime, PROGRAMS)
            out, ptx = run_dot(case, a, b, acc)
            if case.opcode not in ptx:
                say("OPCODE", case.name, "does not use", case.opcode)
                wrong += 1
            model = MODELS["sm90"](a, b, acc, case.fmt, case.fmt, case.imprecise)
            different = out.view(np.uint32) != model.view(np.uint32)
            compared += out.size
            if different.any():
                wrong += int(different.sum())
                p, m, n = np.argwhere(different)[0]
                device_bits, model_bits = (hex(int(x.view(np.uint32)[p, m, n])) for x in (out, model))
                say("DIFFERS", case.name, regime, f"{different.sum()} of {out.size}", device_bits, model_bits)
            rows = rng.choice(case.rows, KEPT_ROWS, replace=False)
            columns = rng.choice(case.columns, KEPT_COLUMNS, replace=False)
            samples["a"].append(storage(a, case.fmt)[0][rows])
            samples["b"].append(storage(b, case.fmt)[0][:, columns])
            samples["acc"].append(acc[0][np.ix_(rows, columns)])
            samples["out"].append(out[0][np.ix_(rows, columns)])
        if not case.accumulator:
            del samples["acc"]
        tensors = kept.setdefault(case.opcode.partition(".")[0], {})
        # safetensors writes the memory of an array as it lies: it must be in C order.
        tensors |= {f"{case.name}/{key}": np.ascontiguousarray(np.stack(value)) for key, value in samples.items()}
    say(f"dot: {wrong} differences in {compared} outputs of {len(dot_cases())} kernels")
    return wrong


def record_scalars() -> tuple[dict[str, NDArray[Any]], int]:
    """Run the conversions and scalar operations; return what to store and how many values are out of their bound."""
    size, wrong = 128, 0
    x = stratified_floats(100_000 // size * size)
    types = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e5m2)
    codes = [torch.empty(x.size, dtype=t, device="cuda") for t in types]
    encode_kernel[(x.size // size,)](torch.from_numpy(x).cuda(), *codes, SIZE=size)
    e4m3fn, e5m2, e5m2_rtz = (c.view(torch.uint8).cpu().numpy() for c in codes)
    encoders = (
        ("e4m3fn", e4m3fn, encode_fp8(x, "e4m3fn")),
        ("e5m2", e5m2, encode_fp8(x, "e5m2")),
        ("e5m2_rtz", e5m2_rtz, truncate_to_e5m2(x)),
    )
    for name, device, model in encoders:
        bad = device != model
        wrong += int(bad.sum())
        first = [(float(v), hex(d), hex(m)) for v, d, m in zip(x[bad][:3], device[bad], model[bad], strict=False)]
        say(f"encode {name}: {bad.sum()} of {x.size} differ", first)
    tensors = {"encode/x": x, "encode/e4m3fn": e4m3fn}
    x, y = scalar_inputs(3072)
    out = torch.empty((len(SCALARS), x.size), dtype=torch.float32, device="cuda")
    scalar_kernel[(x.size // size,)](torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda(), out, x.size, SIZE=size)
    tensors |= {"scalar/x": x, "scalar/y": y}
    with np.errstate(all="ignore"):
        for operation, device in zip(SCALARS, out.cpu().numpy(), strict=True):
            model = operation.model(x, y)
            distance = ulp_distance(device, model)
            bad = distance > operation.ulp
            wrong += int(bad.sum())
            first = [tuple(float(v[i]) for v in (x, y, device, model)) for i in np.flatnonzero(bad)[:3]]
            say(f"{operation.name}: {bad.sum()} of {x.size} beyond {operation.ulp} ulp; largest", distance.max(), first)
            tensors[f"scalar/{operation.name}"] = device
    return tensors, wrong


def main(folder: Path) -> int:
    """Record into `folder`; return the exit status."""
    metadata = {
        "device": torch.cuda.get_device_name(),
        "capability": json.dumps(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "regimes": json.dumps(REGIMES),
        "ulp": json.dumps({s.name: s.ulp for s in SCALARS}),
    }
    say(metadata)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, wrong = record_scalars()
    save_file(tensors, folder / "scalars.safetensors", metadata)
    dots: dict[str, dict[str, NDArray[Any]]] = {}
    wrong += record_dots(dots)
    for opcode, group in dots.items():
        save_file(group, folder / f"dot_{opcode}.safetensors", metadata)
    say({path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))})
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
