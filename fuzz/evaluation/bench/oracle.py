"""What each way of comparing logits sees: seeded mistakes, all comparisons on the same outputs, in one run.

Correct and wrong outputs come from the built-in prefill kernel in lockstep, with two models of tl.dot. The habits of
the field compare with the reference of the same codes, which is kinder to them than their tests, where the reference
takes unquantised data.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.exact import check_bits
from indexfuzz.core.rng import below, bits, derive
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.devices.simulated_dot import simulated_dot
from indexfuzz.evaluation.bench.baseline import similar_logits
from indexfuzz.evaluation.bench.mistakes import MISTAKES, RIGHT, Inputs, Mistake
from indexfuzz.kernels.mqa_logits import KEYS
from indexfuzz.reference import bounds, fp8, mqa_logits
from indexfuzz.reference.arithmetic import DOT_UNITS, Arithmetic
from indexfuzz.reference.quant import q_quant, quantise, row_scale

FORMAT = "e4m3fn"
UNITS = {"ieee": "ieee", "sm90": "sm90-qgmma"}
"""Model of tl.dot in lockstep -> what is known about its errors."""

HABITS = ("calc_diff", "assert_close", "allclose 1e-2")
OURS = ("bytes+set", "T3", "T2", "T1", "T0")
DETECTORS = (*HABITS, *OURS)


@dataclass(frozen=True)
class Size:
    """How much is measured: `draws` inputs for each kind of values and each model of tl.dot."""

    rows: int = 4
    keys: int = 1024
    heads: int = 32
    head_dim: int = 128
    draws: int = 4


SMALL = Size(rows=2, keys=1024, heads=4, head_dim=64, draws=1)
"""Takes a few seconds."""


def _windows(size: Size) -> tuple[Tensor, Tensor]:
    """Row m sees all keys but the first m and the last 9 - m."""
    row = torch.arange(size.rows, dtype=torch.int32)
    return row, size.keys - 9 + row


def _gaussian(size: Size, seed: int) -> Inputs:
    """Nearly Gaussian values through real quantisation, fp32 scales."""

    def draw(name: str, *shape: int) -> Tensor:
        lanes = sum((bits(derive(seed, name), shape) >> shift) & 0xFFFF for shift in (0, 16, 32, 48))
        return (torch.as_tensor(lanes) - 2 * 0xFFFF).float() * 2.0**-16

    q = draw("q", size.rows, size.heads, size.head_dim).bfloat16()
    q_fp8, weights = q_quant(q, draw("weights", size.rows, size.heads), scale_fmt="fp32", fp8=FORMAT)
    k = draw("k", size.keys, size.head_dim).bfloat16()
    scale = row_scale(k, scale_fmt="fp32", fp8=FORMAT)
    return Inputs(q_fp8, quantise(k, scale, fp8=FORMAT), scale, weights, *_windows(size))


def _exact(size: Size, seed: int) -> Inputs:
    """Small integers, weights in eighths, scales that are powers of two: every legal evaluation gives the same bits."""

    def draw(name: str, low: int, high: int, *shape: int) -> Tensor:
        return (below(bits(derive(seed, name), shape), high - low + 1) + low).float()

    q, k = draw("q", -9, 9, size.rows, size.heads, size.head_dim), draw("k", -9, 9, size.keys, size.head_dim)
    weights = draw("weights", 1, 7, size.rows, size.heads) / 8
    scale = torch.exp2(draw("scale", -3, 3, size.keys))
    q_fp8, k_fp8 = (fp8.as_fp8(fp8.encode(x, FORMAT), FORMAT) for x in (q, k))
    return Inputs(q_fp8, k_fp8, scale, weights, *_windows(size))


@dataclass(frozen=True)
class Bench:
    """The right answer for one set of inputs, and every way to compare with it."""

    inputs: Inputs
    reference: Tensor
    limits: dict[str, bounds.LogitBounds]
    """Tier -> the bounds that it sets."""

    def flag(self, mistake: Mistake, got: Tensor) -> dict[str, bool]:
        """Which comparisons complain about an output of a kernel with a mistake."""
        found = {
            "calc_diff": not similar_logits(got, self.reference),
            "assert_close": self._assert_close(got),
            "allclose 1e-2": not torch.allclose(got, self.reference, rtol=1e-2, atol=1e-2),
            "bytes+set": self._bytes(mistake),
        }
        for tier, limits in self.limits.items():
            found["bytes+set"] |= not torch.equal(limits.visible, got != float("-inf"))
            within = (got.double() - limits.reference).abs() <= limits.bound
            found[tier] = not bool((within | ~limits.visible).all())
        return found

    def _assert_close(self, got: Tensor) -> bool:
        try:
            torch.testing.assert_close(got, self.reference)
        except AssertionError:
            return True
        return False

    def _bytes(self, mistake: Mistake) -> bool:
        """Keys and scales that were read, bit for bit: what the check of the gather sees."""
        read = mistake.reads(self.inputs) if mistake.reads else self.inputs
        return any(
            check_bits(name, got, want, axes=axes) is not None
            for name, got, want, axes in (
                ("k_fp8", fp8.codes(read.k_fp8), fp8.codes(self.inputs.k_fp8), ("token", "dim")),
                ("k_scale", read.k_scale, self.inputs.k_scale, ("token",)),
            )
        )


def _benches(size: Size, model: str, seed: int) -> tuple[Bench, Bench]:
    """One bench of Gaussian values with the tiers of a bound, and one of exact values."""
    unit = DOT_UNITS[UNITS[model]]
    free = Arithmetic(replace(unit, in_order=False))
    tiers: dict[str, tuple[Arithmetic, bounds.Dot | None]] = {"T3": (free, None)}
    if unit.in_order:
        tiers["T2"] = (Arithmetic(unit), None)
    tiers["T1"] = (Arithmetic(unit), simulated_dot(model, KEYS))

    def bench(inputs: Inputs, chosen: dict[str, tuple[Arithmetic, bounds.Dot | None]]) -> Bench:
        reference = inputs.blank()
        mqa_logits.mqa_logits(**inputs.tensors(), logits=reference)
        limits = {
            tier: bounds.prefill_bounds(**inputs.tensors(), arithmetic=arithmetic, simulated_dot=dot)
            for tier, (arithmetic, dot) in chosen.items()
        }
        return Bench(inputs, reference, limits)

    exactly = bench(_exact(size, seed), {"T0": (free, None)})
    if exactly.limits["T0"].tier != "T0":
        raise AssertionError("the exact values are not exact")
    return bench(_gaussian(size, seed), tiers), exactly


def measure(size: Size) -> list[dict[str, Any]]:
    """One row for each mistake, the correct kernel first.

    A row has `mistake`, `outputs` (how many there were of either kind of values), `changed` (how many of them differ
    from the correct ones at all), `seen` {detector: share of outputs flagged, of those that it applies to}, `ours` (the
    share of draws in which one of our checks complains about either output), and for the correct kernel
    `elements_beyond_assert_close` {model: share of its logits}.
    """
    votes: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    changed: dict[str, int] = defaultdict(int)
    beyond: dict[str, list[float]] = {model: [] for model in UNITS}
    for model in UNITS:
        device = LockstepDevice(dot=model)
        for draw in range(size.draws):
            benches = _benches(size, model, derive(draw, model))
            correct = [RIGHT.logits(bench.inputs, device) for bench in benches]
            beyond[model].append(_share_beyond(correct[0], benches[0].reference))
            for mistake in (RIGHT, *MISTAKES):
                gaussian, exactly = (mistake.logits(bench.inputs, device) for bench in benches)
                changed[mistake.name] += sum(map(_differ, (gaussian, exactly), correct))
                by_bounds, by_bits = benches[0].flag(mistake, gaussian), benches[1].flag(mistake, exactly)
                seen = by_bounds | {"T0": by_bits["T0"], "bytes+set": by_bounds["bytes+set"] or by_bits["bytes+set"]}
                for detector, flag in seen.items():
                    votes[mistake.name][detector].append(flag)
                votes[mistake.name]["ours"].append(any(seen.get(detector, False) for detector in OURS))
    rows: list[dict[str, Any]] = [
        {
            "mistake": mistake.name,
            "outputs": 2 * size.draws * len(UNITS),
            "changed": changed[mistake.name],
            "seen": {d: _share(votes[mistake.name][d]) for d in DETECTORS},
            "ours": _share(votes[mistake.name]["ours"]),
        }
        for mistake in (RIGHT, *MISTAKES)
    ]
    rows[0]["elements_beyond_assert_close"] = {model: sum(shares) / len(shares) for model, shares in beyond.items()}
    return rows


def _differ(first: Tensor, second: Tensor) -> bool:
    return not torch.equal(first, second)


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def _share_beyond(got: Tensor, want: Tensor) -> float:
    """Share of visible logits that torch.testing.assert_close calls wrong by itself."""
    visible = want != float("-inf")
    return float((~torch.isclose(got, want, rtol=1.3e-6, atol=1e-5))[visible].double().mean())


def holds(rows: list[dict[str, Any]]) -> bool:
    """Whether our checks see every mistake in every draw, and flag no correct output."""
    right, *wrong = rows
    return right["ours"] == 0 and all(row["ours"] == 1 for row in wrong)


def table(rows: list[dict[str, Any]], size: Size) -> str:
    """The measurement as text."""
    width = max(len(row["mistake"]) for row in rows)
    columns: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        *((d, lambda row, d=d: row["seen"][d]) for d in DETECTORS),
        ("ours", lambda row: row["ours"]),
    ]
    lines = [f"{'mistake':{width}}  " + "  ".join(f"{name:>{max(len(name), 5)}}" for name, _ in columns)]
    for row in rows:
        cells = (f"{value(row):>{max(len(name), 5)}.0%}" for name, value in columns)
        lines.append(f"{row['mistake']:{width}}  " + "  ".join(cells))
    right = rows[0]
    beyond = " and ".join(f"{share:.1%} ({model})" for model, share in right["elements_beyond_assert_close"].items())
    shape = f"{size.rows} x {size.keys} logits, {size.heads} heads, {size.head_dim} dims"
    lines += [
        "",
        *(
            f"Share of outputs flagged, of {right['outputs'] // 2}: {shape}; tl.dot as {' and '.join(UNITS)}.",
            "T0 looks at small integers, all others at nearly Gaussian values; T2 is for ordered units, here sm90.",
            f"torch.testing.assert_close calls {beyond} of the correct logits wrong.",
        ),
    ]
    return "\n".join(lines)


def main(*, as_json: bool) -> int:
    """Print the table, or JSON; 1 unless our checks see every mistake and flag no correct output."""
    size = Size()
    rows = measure(size)
    text = json.dumps({"size": vars(size), "rows": rows}, indent=1) if as_json else table(rows, size)
    sys.stdout.write(f"{text}\n")
    return 0 if holds(rows) else 1
